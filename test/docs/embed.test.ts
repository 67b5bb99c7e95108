import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { afterAll, beforeAll, expect, it } from 'vitest';
import WebSocket from 'ws';
import { type Simulator, startSimulator } from '../../src/testing/index.ts';
import { type FreshDatabase, freshDatabase } from '../support/database.ts';
import { until } from '../support/until.ts';
import { writeSnippet } from './snippets.ts';

const text = await readFile('docs/embed.md', 'utf8');
const programs = [...text.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map(([, code]) => code!);

/** Request to the program, and what is expected of its answer. */
interface Expected {
  headers?: Record<string, string>;
  model?: string;
  status?: number;
  /** Text that the program prints after the request. */
  printed?: RegExp;
  /** Checks more of the program, at its port. */
  more?(port: number): Promise<void>;
}

/** What each program of the page does, in their order. */
const expected: readonly [what: string, uses: string, requests: Expected[]][] = [
  ['plain HTTP', 'bridge.handler(req, res, ()', [{}]],
  [
    'WebSockets beside the bridge',
    'WebSocketServer',
    [
      {
        async more(port) {
          const chat = new WebSocket(`ws://127.0.0.1:${port}/chat`);
          const [message] = (await once(chat, 'message')) as [Buffer];
          expect(String(message)).toBe('hello');
          chat.terminate();
          const refused = new WebSocket(`ws://127.0.0.1:${port}/inspect/other`);
          const [error] = (await once(refused, 'error')) as [Error];
          expect(error.message).toMatch(/Unexpected server response: \d+/);
        },
      },
    ],
  ],
  ['Express', 'helmet()', [{}]],
  ['Fastify with middie', 'middie', [{}]],
  ['Fastify with a route', 'hijack', [{}]],
  ['Hono', 'RESPONSE_ALREADY_SENT', [{}]],
  [
    'options',
    'logger: console',
    [
      { headers: { authorization: 'Bearer key-of-ann' }, printed: /turn/ },
      { headers: { authorization: 'Bearer other' }, status: 401 },
    ],
  ],
  ['a MikroORM', 'defineEntity', [{}]],
  ['users', 'authenticate', [{ headers: { cookie: 'cookie-of-ann' } }, { status: 401 }]],
  ['upstreams', 'chooseUpstream', [{}, { model: 'local-small' }]],
  [
    'observing',
    'onSession',
    [{ printed: /^turn null m created completed \d+ \d+$/m }, { printed: /^session \S+ \S+ live\.idle$/m }],
  ],
  [
    'operators',
    'adminRouter',
    [
      {
        async more(port) {
          const statusOf = async (at: number) => (await fetch(`http://127.0.0.1:${at}/metrics`)).status;
          expect([await statusOf(port), await statusOf(port + 1)]).toEqual([404, 200]);
        },
      },
    ],
  ],
];

let simulator: Simulator;
let database: FreshDatabase;
beforeAll(async () => {
  simulator = await startSimulator();
  database = await freshDatabase();
});
afterAll(async () => {
  await simulator.close();
  await database.drop();
});

/** Returns a port that is free, and so is the next one. */
async function freePort(): Promise<number> {
  for (;;) {
    const servers = [createServer().listen(0, '127.0.0.1')];
    await once(servers[0]!, 'listening');
    const { port } = servers[0]!.address() as { port: number };
    servers.push(createServer().listen(port + 1, '127.0.0.1'));
    const free = await once(servers[1]!, 'listening').then(
      () => true,
      () => false,
    );
    for (const server of servers.filter(({ listening }) => listening)) {
      server.close();
      await once(server, 'close');
    }
    if (free) return port;
  }
}

async function running(
  name: string,
  program: string,
  port: number,
): Promise<{ child: ChildProcess; output(): string }> {
  const code = program
    .replaceAll('https://api.openai.com/v1', simulator.url)
    .replaceAll('http://127.0.0.1:11434/v1', simulator.url)
    .replaceAll('8787', String(port))
    .replaceAll('8788', String(port + 1));
  const { file, remove } = await writeSnippet(name, code);
  const secret = 'docs:0123456789abcdef0123456789abcdef';
  const own = program.includes('orm,')
    ? { APP_DATABASE_URL: database.url, SECRET: secret }
    : { DATABASE_URL: database.url, HOLDFAST_SECRETS: secret };
  const child = spawn(process.execPath, [file], {
    env: { ...process.env, ...own, HOLDFAST_ADMIN_TOKEN: '' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (more) => (output += more));
  const isUp = () =>
    fetch(`http://127.0.0.1:${port}/v1/models`).then(
      () => true,
      () => false,
    );
  try {
    await until(async () => child.exitCode !== null || (await isUp()), 120_000);
  } finally {
    await remove();
  }
  expect(child.exitCode, output).toBeNull();
  return { child, output: () => output };
}

it('The page has a program for each of these tasks', () => {
  expect(programs).toHaveLength(expected.length);
  for (const [index, [what, uses]] of expected.entries())
    expect([what, programs[index]]).toEqual([what, expect.stringContaining(uses)]);
});

it.each(expected.map(([what, , requests], index) => ({ what, index, requests })))(
  'docs/embed.md: the program for $what serves',
  async ({ index, requests }) => {
    const port = await freePort();
    const { child, output } = await running(`embed-${index}`, programs[index]!, port);
    try {
      for (const { headers, model = 'm', status = 200, printed, more } of requests) {
        const answer = await fetch(`http://127.0.0.1:${port}/v1/responses`, {
          method: 'POST',
          headers: { 'content-type': 'application/json', authorization: 'Bearer sk-client', ...headers },
          body: JSON.stringify({ model, input: 'Say hi.' }),
        });
        expect([answer.status, await answer.text()]).toEqual([status, expect.stringContaining('{')]);
        if (printed) await until(() => printed.test(output()));
        await more?.(port);
      }
    } finally {
      const exited = once(child, 'exit');
      if (child.exitCode === null) child.kill('SIGKILL');
      await exited;
    }
  },
  240_000,
);
