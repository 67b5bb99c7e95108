import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { freshDatabase } from '../support/database.ts';
import { until } from '../support/until.ts';

/** Copy of the examples in a project that has installed the package: `npm run test:package` sets it. */
const INSTALLED = process.env.EXAMPLES_DIR;
const EXAMPLES = INSTALLED ?? join(import.meta.dirname, '..', '..', 'examples');
/** Where nothing is installed, this condition resolves the name of the package to its sources. */
const ARGS = INSTALLED === undefined ? ['-C', 'holdfast-source'] : [];
const NODE_OPTIONS = process.env.EXAMPLES_NODE_OPTIONS;
const LIMIT_MS = 180_000;

const undo: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

/** Runs an example as `npm run example` does, on Node itself: its types are stripped, not compiled. */
function run(args: string[], env: Record<string, string> = {}) {
  const child: ChildProcess = spawn(process.execPath, [...ARGS, ...args], {
    cwd: EXAMPLES,
    env: { ...process.env, ...(NODE_OPTIONS !== undefined && { NODE_OPTIONS }), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout!, child.stderr!])
    stream.setEncoding('utf8').on('data', (text) => (output += text));
  const exited = once(child, 'close').then(([code]) => code as number | null);
  undo.push(async () => {
    if (child.exitCode === null) child.kill('SIGKILL');
    await exited;
  });
  return { child, exited, output: () => output };
}

const json = { 'content-type': 'application/json', authorization: 'Bearer any' };

/** Runs an example that serves, on a database of its own, until it prints its address. */
async function serving(program: string) {
  const database = await freshDatabase({ empty: program.startsWith('mikro-orm') });
  undo.push(() => database.drop());
  const app = run([program], {
    PORT: '0',
    HOLDFAST_LAME_DUCK_MS: '0',
    ...(program.startsWith('mikro-orm')
      ? { APP_DATABASE_URL: database.url }
      : { DATABASE_URL: database.url, HOLDFAST_SECRETS: 'example:0123456789abcdef0123456789abcdef' }),
  });
  const address = () => /^http:\/\/127\.0\.0\.1:\d+$/m.exec(app.output())?.[0];
  await until(() => app.child.exitCode !== null || address() !== undefined, 120_000);
  expect(app.child.exitCode, app.output()).toBeNull();
  return { app, url: address()! };
}

it('Every example has a README, and the list of examples names it', async () => {
  const folders = (await readdir(EXAMPLES, { withFileTypes: true })).filter((entry) => entry.isDirectory());
  const list = await readFile(join(EXAMPLES, 'README.md'), 'utf8');
  const names = folders.map(({ name }) => name).filter((name) => !name.startsWith('.'));
  expect(names.toSorted()).toEqual([
    'agents-sdk',
    'codex',
    'express-app',
    'express4-app',
    'fastify-app',
    'hono-app',
    'hooks',
    'http-server',
    'mikro-orm-app',
    'model-based-test',
    'openai-sdk',
  ]);
  for (const name of names) {
    expect(list).toContain(`[${name}](${name})`);
    expect(await readFile(join(EXAMPLES, name, 'README.md'), 'utf8')).toContain(`npm run example`);
  }
});

it(
  'express-app serves its own routes beside the bridge, and stops in order',
  async () => {
    const { app, url } = await serving('express-app/app.ts');
    const hello = await fetch(`${url}/hello`);
    expect(await hello.json()).toEqual({ from: 'the app' });
    const echo = await fetch(`${url}/echo`, { method: 'POST', headers: json, body: '{"a":1}' });
    expect(await echo.json()).toEqual({ a: 1 });
    const body = JSON.stringify({ model: 'm', input: 'Say hi.' });
    const answer = await fetch(`${url}/v1/responses`, { method: 'POST', headers: json, body });
    expect(answer.headers.get('x-holdfast-outcome')).toBe('created');
    expect(await answer.json()).toMatchObject({ status: 'completed' });
    app.child.kill('SIGTERM');
    expect(await app.exited, app.output()).toBe(0);
  },
  LIMIT_MS,
);

it.each([
  ['express4-app/app.ts', '/hello', { from: 'the app' }],
  ['fastify-app/app.ts', '/hello', { from: 'the app' }],
  ['hono-app/app.ts', '/hello', { from: 'the app' }],
  ['http-server/server.ts', '/hello', { from: 'the app' }],
  ['mikro-orm-app/app.ts', '/notes', []],
])(
  '%s serves its own route beside the bridge, and stops in order',
  async (program, path, own) => {
    const { app, url } = await serving(program);
    expect(await (await fetch(`${url}${path}`)).json()).toEqual(own);
    const body = JSON.stringify({ model: 'm', input: 'Say hi.' });
    const answer = await fetch(`${url}/v1/responses`, { method: 'POST', headers: json, body });
    expect(answer.headers.get('x-holdfast-outcome')).toBe('created');
    expect(await answer.json()).toMatchObject({ status: 'completed' });
    app.child.kill('SIGTERM');
    expect(await app.exited, app.output()).toBe(0);
  },
  LIMIT_MS,
);

it(
  'hooks knows its users, chooses an upstream by the model, and reports turns',
  async () => {
    const { app, url } = await serving('hooks/app.ts');
    const statuses: number[] = [];
    for (const [user, model] of [
      ['ann', 'gpt-mini'],
      ['ann', 'gpt'],
      ['bob', 'gpt'],
      ['eve', 'gpt'],
    ]) {
      const headers = { ...json, authorization: `Bearer token-of-${user}` };
      const body = JSON.stringify({ model, input: 'Say hi.' });
      statuses.push((await fetch(`${url}/v1/responses`, { method: 'POST', headers, body })).status);
    }
    expect(statuses).toEqual([200, 200, 429, 401]);
    app.child.kill('SIGTERM');
    expect(await app.exited, app.output()).toBe(0);
    expect(app.output()).toMatch(/^turn: blue gpt-mini created \d+ tokens in \d+ ms$/m);
    expect(app.output()).toMatch(/^turn: blue gpt created \d+ tokens in \d+ ms$/m);
    expect(app.output()).toMatch(/^session: \S+ -> live\.idle$/m);
  },
  LIMIT_MS,
);

it(
  'openai-sdk keeps one session while its requests alternate between two workers',
  async () => {
    const client = run(['openai-sdk/client.ts']);
    expect(await client.exited, client.output()).toBe(0);
    const lines = [...client.output().matchAll(/^worker (\d) {2}(\w+) {2}(\S+)$/gm)];
    expect(lines.map(([, worker, outcome]) => [worker, outcome])).toEqual([
      ['1', 'created'],
      ['2', 'live_reuse'],
      ['1', 'live_reuse'],
      ['2', 'live_reuse'],
      ['1', 'live_reuse'],
    ]);
    expect(new Set(lines.map(([, , , session]) => session)).size).toBe(1);
    expect(client.output().match(/^> \S/gm)).toHaveLength(3);
  },
  LIMIT_MS,
);

it(
  'agents-sdk runs its tool, and all its turns share one socket',
  async () => {
    const agent = run(['agents-sdk/agent.ts']);
    expect(await agent.exited, agent.output()).toBe(0);
    expect(agent.output()).toContain('tool: Order 7 has left the warehouse.');
    expect(agent.output()).toContain('3 turns on 1 socket, 2 with the new items only');
  },
  LIMIT_MS,
);

it(
  'model-based-test passes on Node’s own test runner',
  async () => {
    const tests = run(['--test', 'model-based-test/client.test.ts']);
    expect(await tests.exited, tests.output()).toBe(0);
    expect(tests.output()).toMatch(/pass [1-9]/);
  },
  LIMIT_MS,
);

it(
  'codex says so where Codex is not installed',
  async () => {
    const ran = run(['codex/run.ts'], { CODEX_BIN: join(EXAMPLES, 'missing') });
    expect(await ran.exited, ran.output()).toBe(0);
    expect(ran.output()).toContain('Codex is not installed here');
  },
  LIMIT_MS,
);

/** Stands in for Codex: sends its prompt to the provider of its configuration. */
const STAND_IN = `#!${process.execPath}
const config = require('node:fs').readFileSync(process.env.CODEX_HOME + '/config.toml', 'utf8');
const base = /base_url = "([^"]+)"/.exec(config)[1];
const key = process.env[/env_key = "([^"]+)"/.exec(config)[1]];
fetch(base + '/responses', {
  method: 'POST',
  headers: { authorization: 'Bearer ' + key, 'content-type': 'application/json', 'thread-id': 'one' },
  body: JSON.stringify({ model: 'm', store: false, input: process.argv.at(-1) }),
}).then(async (answer) => console.log(answer.status, process.argv.slice(2, -1).join(' ')));
`;

it(
  'codex runs a prompt and resumes it, with a configuration that leads to the bridge',
  async () => {
    const folder = await mkdtemp(join(tmpdir(), 'holdfast-stand-in-'));
    undo.push(() => rm(folder, { recursive: true, force: true }));
    const program = join(folder, 'codex');
    await writeFile(program, STAND_IN);
    await chmod(program, 0o755);
    const ran = run(['codex/run.ts'], { CODEX_BIN: program });
    expect(await ran.exited, ran.output()).toBe(0);
    expect(ran.output()).toContain('200 exec --skip-git-repo-check --json\n');
    expect(ran.output()).toContain('200 exec --skip-git-repo-check --json resume --last\n');
    expect(ran.output()).toMatch(/^socket \d+: 1 items, in full$/m);
  },
  LIMIT_MS,
);

it.runIf(process.env.CODEX_BIN)(
  'codex drives the real client that CODEX_BIN names',
  async () => {
    const ran = run(['codex/run.ts']);
    expect(await ran.exited, ran.output()).toBe(0);
    expect(ran.output().match(/^socket \d+: /gm)!.length).toBeGreaterThanOrEqual(3);
  },
  LIMIT_MS,
);
