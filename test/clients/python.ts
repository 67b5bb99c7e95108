import { execFile, spawn } from 'node:child_process';
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import type { Client, Conversation, Mode, Opening } from './client.ts';

const run = promisify(execFile);
const INSTALL_MS = 900_000;

/** Prints the versions of the packages that its arguments name. */
const VERSIONS =
  'import sys, importlib.metadata as m; print(*(f"{n}=={m.version(n)}" for n in sys.argv[1:]), sep="\\n")';

/** Names of packages without their extras, and their versions: `openai==3.57.0`. */
const plain = (packages: readonly string[]) => packages.map((each) => each.replace(/\[[^\]]*\]/, ''));

/** Returns the interpreter of a virtual environment. */
export const pythonIn = (scratch: string, name: string): string => join(scratch, `python-${name}`, 'bin', 'python');

/** Returns the path of `uv`, which makes environments where Python lacks `venv`, after installing it. */
async function uvIn(scratch: string): Promise<string> {
  const uv = join(scratch, 'uv', 'bin', 'uv');
  const isThere = await access(uv).then(
    () => true,
    () => false,
  );
  if (!isThere) await run('python3', ['-m', 'pip', 'install', '--quiet', '--target', join(scratch, 'uv'), 'uv']);
  return uv;
}

/**
 * Installs packages from PyPI into a virtual environment, once.
 *
 * @param scratch folder that is kept between runs
 * @param name of the environment
 * @param packages with exact versions, such as `openai[realtime]==3.57.0`
 * @returns the versions for the table
 * @throws Error with the reason why they cannot be installed
 */
export async function installPython(scratch: string, name: string, packages: readonly string[]): Promise<string> {
  const place = join(scratch, `python-${name}`);
  const python = pythonIn(scratch, name);
  const wanted = plain(packages);
  const installed = async () => {
    const found = await run(python, ['-c', VERSIONS, ...wanted.map((each) => each.split('==')[0]!)]);
    if (found.stdout.trim() !== wanted.join('\n')) throw new Error(`other versions than ${wanted.join(', ')}`);
    return wanted.join(', ').replaceAll('==', ' ');
  };
  const before = await installed().catch(() => null);
  if (before !== null) return before;
  try {
    await run('python3', ['-m', 'venv', '--clear', place]);
    const pip = ['-m', 'pip', '--quiet', '--disable-pip-version-check', 'install', '--no-compile', ...packages];
    await run(python, pip, { timeout: INSTALL_MS });
  } catch {
    try {
      const uv = await uvIn(scratch);
      await run(uv, ['venv', '--quiet', '--clear', place]);
      await run(uv, ['pip', 'install', '--quiet', '--python', python, ...packages], { timeout: INSTALL_MS });
    } catch (error) {
      throw new Error((error as { stderr?: string }).stderr?.trim().split('\n').at(-1) || String(error));
    }
  }
  return installed();
}

/** Environment of a program of Python: its key, and no other access than to the base URL. */
export const pythonEnv = ({ baseURL, apiKey }: Pick<Opening, 'baseURL' | 'apiKey'>): NodeJS.ProcessEnv => ({
  ...process.env,
  OPENAI_BASE_URL: baseURL,
  OPENAI_API_KEY: apiKey,
  OPENAI_AGENTS_DISABLE_TRACING: '1',
  LANGSMITH_TRACING: 'false',
  PYTHONDONTWRITEBYTECODE: '1',
  HTTPS_PROXY: 'http://127.0.0.1:9',
  NO_PROXY: '127.0.0.1,localhost',
});

/**
 * Opens a conversation with a script of this folder (`asking.py`): it reads each turn as a line of JSON, and prints its answer, or
 * why there is none, as another.
 */
async function openScript(client: PythonClient, mode: string, at: Opening): Promise<Conversation> {
  const script = join(import.meta.dirname, client.script);
  const child = spawn(pythonIn(at.scratch, client.environment), [script, mode, at.baseURL], {
    cwd: at.home,
    env: pythonEnv(at),
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  let errors = '';
  child.stderr.on('data', (chunk) => (errors = (errors + chunk).slice(-4_000)));
  child.stdin.on('error', () => {});
  const gone = new Promise<void>((resolve) => child.once('close', () => resolve()));
  let answered: PromiseWithResolvers<string> | null = null;
  createInterface({ input: child.stdout }).on('line', (line) => {
    const { text, error } = JSON.parse(line) as { text?: string; error?: string };
    if (text !== undefined) answered?.resolve(text);
    else answered?.reject(new Error(error));
  });
  void gone.then(() => answered?.reject(new Error(`the program ended: ${errors}`)));
  return {
    ask(text) {
      answered = Promise.withResolvers<string>();
      if (child.exitCode !== null) answered.reject(new Error(`the program has ended: ${errors}`));
      child.stdin.write(`${JSON.stringify(text)}\n`);
      return answered.promise;
    },
    async close() {
      child.stdin.end();
      const timer = setTimeout(() => child.kill('SIGKILL'), 10_000);
      await gone;
      clearTimeout(timer);
    },
  };
}

/** A client that a script of this folder uses. */
interface PythonClient {
  name: string;
  page: string;
  environment: string;
  packages: readonly string[];
  script: string;
  /** Ways to use it, by the first argument of the script. */
  modes: readonly (Pick<Mode, 'transport' | 'streams'> & { name: string; mode: string })[];
}

const clientOf = (client: PythonClient): Client => ({
  name: client.name,
  page: client.page,
  install: (scratch) => installPython(scratch, client.environment, client.packages),
  modes: client.modes.map(({ mode, ...each }) => ({ ...each, open: (at) => openScript(client, mode, at) })),
});

const openai: PythonClient = {
  name: 'OpenAI SDK (Python)',
  page: 'openai-python',
  environment: 'openai',
  packages: ['openai[realtime]==3.57.0'],
  script: 'openai_http.py',
  modes: [
    { transport: 'HTTP', streams: false, mode: 'sync', name: 'one answer, previous_response_id' },
    { transport: 'HTTP', streams: true, mode: 'sync-stream', name: 'a stream, the whole history' },
    { transport: 'HTTP', streams: false, mode: 'async', name: 'async, one answer, the whole history' },
    { transport: 'HTTP', streams: true, mode: 'async-stream', name: 'async, responses.stream(), previous_response_id' },
  ],
};

const agents: PythonClient = {
  name: 'Agents SDK (Python)',
  page: 'agents-python',
  environment: 'agents',
  packages: ['openai-agents==0.24.0'],
  script: 'agents_sdk.py',
  modes: [
    { transport: 'HTTP', streams: false, mode: 'http-sqlite', name: 'SQLiteSession' },
    { transport: 'HTTP', streams: true, mode: 'http-conversations', name: 'OpenAIConversationsSession' },
    { transport: 'WebSocket', streams: true, mode: 'websocket-sqlite', name: 'SQLiteSession' },
    { transport: 'WebSocket', streams: false, mode: 'websocket-conversations', name: 'OpenAIConversationsSession' },
    { transport: 'WebSocket', streams: true, mode: 'websocket-anchored', name: 'auto_previous_response_id' },
  ],
};

const langchain: PythonClient = {
  name: 'LangChain (Python)',
  page: 'langchain-python',
  environment: 'langchain',
  packages: ['langchain-openai==1.7.4'],
  script: 'langchain_chat.py',
  modes: [
    { transport: 'HTTP', streams: false, mode: 'invoke', name: 'invoke' },
    { transport: 'HTTP', streams: false, mode: 'invoke-anchored', name: 'invoke, use_previous_response_id' },
    { transport: 'HTTP', streams: true, mode: 'stream', name: 'astream' },
    { transport: 'HTTP', streams: true, mode: 'stream-anchored', name: 'astream, use_previous_response_id' },
  ],
};

const pydanticAi: PythonClient = {
  name: 'Pydantic AI',
  page: 'pydantic-ai',
  environment: 'pydantic-ai',
  packages: ['pydantic-ai-slim[openai,openai-realtime]==2.68.0'],
  script: 'pydantic_agent.py',
  modes: [
    { transport: 'HTTP', streams: false, mode: 'run', name: 'run' },
    { transport: 'HTTP', streams: true, mode: 'stream', name: 'run_stream' },
    { transport: 'HTTP', streams: false, mode: 'run-anchored', name: 'run, openai_previous_response_id' },
    { transport: 'WebSocket', streams: true, mode: 'websocket', name: 'openai_transport' },
  ],
};

/** The openai package for Python. */
export const openaiForPython: Client = clientOf(openai);
/** The clients for Python that scripts of this folder use. */
export const pythonClients: readonly Client[] = [openaiForPython, ...[agents, langchain, pydanticAi].map(clientOf)];
