import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, describe, expect, it } from 'vitest';
import { startSimulator } from '../../src/testing/index.ts';
import { freshDatabase } from '../support/database.ts';
import { until } from '../support/until.ts';
import { freePort } from '../support/worker-process.ts';
import { replaceOnce, snippetAfter, writeSnippet } from './snippets.ts';

const undo: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

/** Runs a snippet as a separate process and collects its output. */
async function run(name: string, code: string, env: Record<string, string>) {
  const { file, remove } = await writeSnippet(name, code);
  undo.push(remove);
  const child = spawn(process.execPath, [file], { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text));
  const exited = once(child, 'exit').then(([exitCode]) => exitCode as number | null);
  undo.push(async () => {
    if (child.exitCode === null) child.kill('SIGKILL');
    await exited;
  });
  return { child, exited, output: () => output };
}

describe('README snippets', () => {
  it('The README’s Express app serves, its SDK client gets an answer, and the app shuts down in order', async () => {
    const simulator = await startSimulator();
    undo.push(() => simulator.close());
    const database = await freshDatabase();
    undo.push(() => database.drop());
    const port = await freePort();

    let app = await snippetAfter('README.md', '**Inside your own Express app**');
    app = replaceOnce(app, 'https://api.openai.com/v1', simulator.url);
    app = replaceOnce(app, 'listen(8787', `listen(${port}`);
    const server = await run('readme-express', app, {
      DATABASE_URL: database.url,
      HOLDFAST_SECRETS: 'readme:0123456789abcdef0123456789abcdef',
      HOLDFAST_LAME_DUCK_MS: '0',
    });
    const health = () =>
      fetch(`http://127.0.0.1:${port}/health`).then(
        ({ ok }) => ok,
        () => false,
      );
    await until(async () => server.child.exitCode !== null || (await health()), 60_000);
    expect(server.child.exitCode, server.output()).toBeNull();

    let sdk = await snippetAfter('README.md', '**OpenAI SDK**');
    sdk = replaceOnce(sdk, 'http://127.0.0.1:8787/v1', `http://127.0.0.1:${port}/v1`);
    const client = await run('readme-sdk', `${sdk}\nconsole.log(answer.status, answer.output_text);`, {
      OPENAI_API_KEY: 'sk-any',
    });
    expect(await client.exited, client.output()).toBe(0);
    expect(client.output()).toMatch(/^completed \S/);
    expect(simulator.journal.of('create')).toMatchObject([{ body: { input: expect.anything() } }]);

    server.child.kill('SIGTERM');
    expect(await server.exited, server.output()).toBe(0);
  }, 180_000);
});
