import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { testBridge } from 'holdfast/testing';

/** Address that refuses connections: with the simulated provider Codex reaches nothing but the bridge. */
const NOWHERE = 'http://127.0.0.1:9';
const LIMIT_MS = 90_000;
const codex = process.env.CODEX_BIN ?? 'codex';

/** Runs the program to its end. @returns its output, or null if it is not installed */
async function run(args: string[], cwd: string, env: NodeJS.ProcessEnv) {
  const child = spawn(codex, args, {
    cwd,
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
    signal: AbortSignal.timeout(LIMIT_MS),
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  try {
    const [code] = await once(child, 'close');
    return { code: code as number | null, output };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

const home = await mkdtemp(join(tmpdir(), 'holdfast-codex-'));
const at = await testBridge();
try {
  const config = await readFile(new URL('config.toml', import.meta.url), 'utf8');
  await writeFile(join(home, 'config.toml'), config.replace('http://127.0.0.1:8787', at.url));
  const env = {
    ...process.env,
    CODEX_HOME: home,
    OPENAI_API_KEY: 'any',
    HTTP_PROXY: NOWHERE,
    HTTPS_PROXY: NOWHERE,
    ALL_PROXY: NOWHERE,
    NO_PROXY: '127.0.0.1,localhost',
  };
  const exec = ['exec', '--skip-git-repo-check', '--json'];
  // The simulated provider obeys the brackets: it asks Codex to run the command.
  const prompts = [['Greet me. [call:exec_command {"cmd":"echo hello"}]'], ['resume', '--last', 'Once more.']];
  for (const prompt of prompts) {
    const ran = await run([...exec, ...prompt], home, env);
    if (ran === null) {
      console.log('Codex is not installed here (npm install -g @openai/codex, or set CODEX_BIN): nothing was run.');
      break;
    }
    process.stdout.write(ran.output);
    if (ran.code !== 0) throw new Error(`codex ended with ${ran.code}`);
  }
  for (const { connection, previousResponseId, itemsReceived } of at.simulator.journal.of('create'))
    console.log(`socket ${connection}: ${itemsReceived} items, ${previousResponseId ? 'a delta' : 'in full'}`);
} finally {
  await at.close();
  await rm(home, { recursive: true, force: true });
}
