import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { delimiter, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { startSimulator } from '../../src/testing/index.ts';
import { replaceOnce } from '../docs/snippets.ts';
import { freePort, startWorker } from '../support/worker-process.ts';
import type { Check, Client } from './client.ts';
import { llm } from './llm.ts';
import { pythonClients, pythonEnv, pythonIn } from './python.ts';
import { startRecorder } from './recorder.ts';

const PATIENCE_MS = 180_000;

/** Pages whose snippet is executed, with what it is and the environment it runs in. */
const pages: readonly { page: string; environment: string; kind: 'python' | 'sh'; client: Client }[] = [
  ...pythonClients.map((client) => ({
    page: client.page,
    environment: client.page.replace(/-python$/, ''),
    kind: 'python' as const,
    client,
  })),
  { page: 'llm', environment: 'llm', kind: 'sh', client: llm },
];

/** Runs the snippet of each page for Python, with one worker in front of a simulated provider that asks for the tool. */
export async function pythonPages(scratch: string, home: string, check: Check, only = ''): Promise<void> {
  const simulator = await startSimulator({ reasoning: true });
  const port = await freePort();
  const worker = await startWorker({
    PORT: String(port),
    HOLDFAST_DATA_DIR: join(home, 'holdfast'),
    HOLDFAST_UPSTREAM_URL: simulator.url,
  });
  const recorder = await startRecorder(() => [`http://127.0.0.1:${port}`]);
  try {
    for (const { page, environment, kind, client } of pages.filter((each) => each.page.includes(only))) {
      try {
        await client.install(scratch);
      } catch (error) {
        console.log(`docs/clients/${page}.md is skipped: ${error}`);
        continue;
      }
      const path = `docs/clients/${page}.md`;
      const text = await readFile(new URL(`../../${path}`, import.meta.url), 'utf8');
      const [, snippet] = /^```(?:python|sh)\n([\s\S]*?)^```$/m.exec(text)!;
      const code = replaceOnce(snippet!, 'http://127.0.0.1:8787', recorder.url);
      const file = join(home, `${page}.${kind === 'python' ? 'py' : 'sh'}`);
      await writeFile(file, code);
      const call = { type: 'function_call', status: 'completed', call_id: `call_${page}`, name: 'weather' };
      simulator.script.clear();
      simulator.script.onTurn(
        { input: 'What is the weather in Oslo?' },
        { kind: 'reply', output: [{ ...call, arguments: '{"city":"Oslo"}' }] },
      );
      recorder.clear();
      const python = pythonIn(scratch, environment);
      const { OPENAI_BASE_URL: _, ...env } = pythonEnv({ baseURL: '', apiKey: `sk-${page}` });
      const running = promisify(execFile)(kind === 'python' ? python : 'sh', [file], {
        cwd: home,
        env: { ...env, LLM_USER_PATH: home, PATH: `${dirname(python)}${delimiter}${process.env.PATH}` },
        timeout: PATIENCE_MS,
      });
      // Programs of the command line read a standard input that is no terminal to its end.
      running.child.stdin?.end();
      const { stdout, error } = await running.then(
        ({ stdout }) => ({ stdout, error: '' }),
        (failure: Error & { stderr: string }) => ({ stdout: '', error: failure.stderr || String(failure) }),
      );
      const { seen } = recorder;
      const outputs = seen.reduce((sum, { toolOutputs }) => sum + toolOutputs, 0);
      const asked = code.match(/'And what do I wear\?'|"And what do I wear\?"/g)?.length ?? 0;
      check(
        `${path}: its snippet calls the tool and prints ${1 + asked} answers`,
        error === '' && (stdout.match(/digest=/g)?.length ?? 0) === 1 + asked && outputs > 0,
        `${stdout}\n${error}`,
      );
      const whole = seen.filter(({ exact }) => exact !== null);
      check(
        `${path}: each of ${whole.length} answers was given the context that the snippet meant`,
        whole.length > asked && whole.every(({ exact }) => exact),
        JSON.stringify(seen.map(({ body, exact, end }) => [end, exact, body.input])),
      );
    }
  } finally {
    await recorder.close();
    await worker.stop();
    await simulator.close();
  }
}
