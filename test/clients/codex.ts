import { spawn } from 'node:child_process';
import { access, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startAppServer } from './app-server.ts';
import type { Client, Mode } from './client.ts';

/** Client version that the bridge is tested against. */
export const CODEX_VERSION = '0.169.0';

export interface CodexRun {
  code: number;
  output: string;
}

/**
 * Runs a program to its end.
 *
 * @param options `seconds`: time after which it is killed
 */
export function runProgram(
  command: string,
  args: string[],
  options: { cwd: string; env?: NodeJS.ProcessEnv; seconds: number },
): Promise<CodexRun> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: options.cwd, env: options.env, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk));
    const timer = setTimeout(() => child.kill('SIGKILL'), options.seconds * 1000);
    child.once('error', reject);
    child.once('exit', (code) => {
      clearTimeout(timer);
      resolve({ code: code ?? -1, output });
    });
  });
}

/**
 * Installs the real client into a scratch folder, once.
 * @returns path of its program
 */
export async function installCodex(scratch: string): Promise<string> {
  const program = join(scratch, 'node_modules', '.bin', 'codex');
  if (
    await access(program).then(
      () => true,
      () => false,
    )
  )
    return program;
  await mkdir(scratch, { recursive: true });
  await writeFile(join(scratch, 'package.json'), '{"private":true}');
  const installed = await runProgram('npm', ['install', '--no-audit', '--no-fund', `@openai/codex@${CODEX_VERSION}`], {
    cwd: scratch,
    env: process.env,
    seconds: 300,
  });
  if (installed.code !== 0) throw new Error(`the client could not be installed:\n${installed.output}`);
  return program;
}

/** How Codex reaches the bridge: as a provider of its own, over HTTP or WebSocket, or in place of OpenAI. */
export type CodexProvider = 'http' | 'websocket' | 'built-in';

/** Writes a Codex home whose only provider is the bridge. */
export async function prepareCodexHome(home: string, baseUrl: string, provider: CodexProvider = 'http'): Promise<void> {
  await mkdir(join(home, 'codex'), { recursive: true });
  await mkdir(join(home, 'work'), { recursive: true });
  const own = provider !== 'built-in';
  await writeFile(
    join(home, 'codex', 'config.toml'),
    `model = "gpt-5.5"
${own ? 'model_provider = "holdfast"' : `openai_base_url = "${baseUrl}"`}
check_for_update_on_startup = false
approval_policy = "never"
sandbox_mode = "danger-full-access"
[analytics]
enabled = false
[feedback]
enabled = false
${
  own
    ? `[model_providers.holdfast]
name = "holdfast"
base_url = "${baseUrl}"
wire_api = "responses"
env_key = "BRIDGE_API_KEY"
requires_openai_auth = false
supports_websockets = ${provider === 'websocket'}
`
    : ''
}`,
  );
  if (!own) await writeFile(join(home, 'codex', 'auth.json'), JSON.stringify({ OPENAI_API_KEY: 'sk-test' }));
}

/** Runs `codex exec` once, or resumes the last run. Its environment gives it access to nothing but the bridge. */
export function codexExec(program: string, home: string, prompt: string, resume = false): Promise<CodexRun> {
  const nowhere = 'http://127.0.0.1:9';
  const env: NodeJS.ProcessEnv = {
    ...process.env,
    CODEX_HOME: join(home, 'codex'),
    BRIDGE_API_KEY: 'sk-test',
    HTTPS_PROXY: nowhere,
    ALL_PROXY: nowhere,
    NO_PROXY: '127.0.0.1,localhost',
  };
  for (const name of ['OPENAI_API_KEY', 'CODEX_API_KEY', 'http_proxy', 'https_proxy', 'HTTP_PROXY']) delete env[name];
  const tail = resume ? ['resume', '--last', prompt] : [prompt];
  return runProgram(program, ['exec', '--skip-git-repo-check', '--json', ...tail], {
    cwd: join(home, 'work'),
    env,
    seconds: 90,
  });
}

const mode = (transport: Mode['transport']): Mode => ({
  transport,
  streams: true,
  async open({ baseURL, apiKey, scratch, home }) {
    await prepareCodexHome(home, baseURL, transport === 'HTTP' ? 'http' : 'websocket');
    const server = await startAppServer(await codexIn(scratch), home, apiKey);
    const thread = await server.startThread();
    return { ask: (text) => server.turn(thread, text), close: () => server.close() };
  },
});

/** Returns the path of the program: the installed one, or that of `CODEX_BIN`. */
export const codexIn = async (scratch: string): Promise<string> => process.env.CODEX_BIN ?? installCodex(scratch);

/** The real Codex, as one process that runs several user turns. */
export const codex: Client = {
  name: 'Codex',
  page: 'codex',
  toolCall: '[call:exec_command {"cmd":"echo clear"}]',
  async install(scratch) {
    await codexIn(scratch);
    return `@openai/codex ${CODEX_VERSION}`;
  },
  modes: [mode('HTTP'), mode('WebSocket')],
};
