import dns from 'node:dns';
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { pino } from 'pino';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { systemClock } from '../../src/system.ts';
import { type TestBridge, testBridge } from '../../src/testing/index.ts';
import { createMemoryDatabase, createMemoryStore } from '../../src/testing/memory-store/index.ts';
import { unreachable } from '../../src/upstream/errors.ts';
import { type Answer, post } from '../support/client.ts';
import { storyOf } from '../support/command.ts';
import { until } from '../support/until.ts';
import { freePort } from '../support/worker-process.ts';

const ends: (() => unknown)[] = [];
afterEach(async () => {
  vi.restoreAllMocks();
  for (const end of ends.splice(0).reverse()) await end();
});

type Line = Record<string, unknown>;

async function start(
  url: string | null,
  env: Record<string, string> = {},
  database = createMemoryDatabase('0'.repeat(64)),
) {
  const lines: Line[] = [];
  const at = await testBridge({
    openStore: async () => createMemoryStore({ clock: systemClock, database }),
    logger: pino({ level: 'info' }, { write: (line) => void lines.push(JSON.parse(line)) }),
    env: { HOLDFAST_CONNECT_MS: '60000', ...(url === null ? {} : { HOLDFAST_UPSTREAM_URL: url }), ...env },
  });
  ends.push(() => at.close());
  return { at, lines };
}

async function listening(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  ends.push(() => server.close());
  return (server.address() as AddressInfo).port;
}

const ask = (at: TestBridge, text = 'one') => post(at.url, { model: 'm', stream: true, store: false, input: text });
const counted = async (at: TestBridge, series: string) => {
  const page = await (await fetch(`${at.url}/metrics`)).text();
  return Number(
    page
      .split('\n')
      .find((line) => line.startsWith(`${series} `))
      ?.split(' ')[1],
  );
};

/** Checks that every place an operator can look at names the same cause, and nothing of the address beyond the host. */
async function expectTold(at: TestBridge, lines: Line[], answer: Answer, kind: string, cause: string): Promise<void> {
  const request = answer.headers['x-request-id']!;
  await until(() => lines.some(({ msg }) => msg === 'turn'));
  const line = lines.find((each) => each.msg === 'turn')!;
  expect(line).toMatchObject({ request, cause });
  expect(await counted(at, `holdfast_upstream_failures_total{cause="${kind}"}`)).toBeGreaterThan(0);
  const story = await storyOf(request, at.url);
  expect(story).toContain(`Request ${request}`);
  expect(story).toContain(cause);
  const { failures } = (await (await fetch(`${at.url}/admin/failures`)).json()) as { failures: Line[] };
  expect(failures).toEqual([expect.objectContaining({ request, cause, session: line.session })]);
  const byId = (await (await fetch(`${at.url}/admin/failures?q=${request}`)).json()) as { failures: Line[] };
  expect(byId).toEqual({ failures });
  // The explorer is asked for the session that the log names: it has no row, and the answer gives the reason.
  const session = await (await fetch(`${at.url}/admin/sessions/${line.session}`)).text();
  expect(session).toContain(cause);
  for (const shown of [JSON.stringify(lines), story, JSON.stringify(failures), answer.text, session])
    expect(shown).not.toContain('secret');
}

describe('an upstream that cannot be reached', () => {
  it.each<[string, string, Record<string, string>, () => Promise<{ port: number; cause: RegExp; scheme?: string }>]>([
    ['refused', 'a closed port', {}, async () => ({ port: await freePort(), cause: /^ECONNREFUSED at / })],
    [
      'tls',
      'a server without TLS',
      {},
      async () => ({ port: await listening(createHttpServer()), cause: /^EPROTO at /, scheme: 'https' }),
    ],
    [
      'reset',
      'a server that hangs up',
      { HOLDFAST_UPSTREAM_TRANSPORT: 'websocket', HOLDFAST_CONNECT_MS: '700' },
      async () => ({ port: await listening(createServer((socket) => void socket.destroy())), cause: /^[\w ]+ at / }),
    ],
    [
      'timeout',
      'a server that says nothing',
      { HOLDFAST_UPSTREAM_TRANSPORT: 'websocket', HOLDFAST_CONNECT_MS: '700' },
      async () => ({
        port: await listening(createServer((socket) => void socket.on('error', () => {}))),
        cause: /^no answer to the upgrade within \d+ ms at /,
      }),
    ],
  ])(
    'An unreachable upstream (%s: %s) is named with its host in message, log, metrics, story and explorer',
    async (kind, _, env, make) => {
      const { port, cause, scheme = 'http' } = await make();
      const { at, lines } = await start(`${scheme}://127.0.0.1:${port}/secret?key=secret`, env);
      const answer = await ask(at);
      expect([answer.status, answer.body.error?.bridge_code]).toEqual([502, 'bridge_upstream_unreachable']);
      const named = /^The upstream could not be reached\. (.*)\.$/.exec(answer.body.error!.message!)![1]!;
      expect(named).toMatch(cause);
      expect(named).toContain(`127.0.0.1:${port}`);
      await expectTold(at, lines, answer, kind, named);
      expect(lines.find(({ msg }) => msg === 'turn')!.fault).toBe('bridge_upstream_unreachable');
      expect(await counted(at, 'holdfast_turn_faults_total{fault="bridge_upstream_unreachable"}')).toBe(1);
    },
  );

  const error = { message: 'No.', type: 'x', code: 'nope', param: null };
  it.each([200, 302, 401, 403, 404, 429, 500, 503])(
    'A %i answer to the upgrade is named with its host',
    async (status) => {
      const server = createHttpServer();
      server.on('upgrade', (_req, socket) => {
        const body = JSON.stringify({ error });
        socket.end(`HTTP/1.1 ${status} No\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`);
      });
      const port = await listening(server);
      const env = {
        HOLDFAST_UPSTREAM_TRANSPORT: 'websocket',
        ...(status >= 500 ? { HOLDFAST_CONNECT_MS: '700' } : {}),
      };
      const { at, lines } = await start(`http://127.0.0.1:${port}/v1?key=secret`, env);
      const answer = await ask(at);
      const isRelayed = status >= 400 && status < 500;
      expect(answer.status).toBe(isRelayed ? status : 502);
      const cause = `the upgrade was answered with ${status} at 127.0.0.1:${port}`;
      await expectTold(at, lines, answer, isRelayed ? 'http_4xx' : status >= 500 ? 'http_5xx' : 'other', cause);
    },
  );

  it('Every cause has a series before the first failure', async () => {
    const { at } = await start(null);
    for (const cause of ['dns', 'refused', 'reset', 'tls', 'timeout', 'proxy', 'http_4xx', 'http_5xx'])
      expect(await counted(at, `holdfast_upstream_failures_total{cause="${cause}"}`)).toBe(0);
  });

  it('A failed API call other than a turn can be looked up', async () => {
    const port = await freePort();
    const { at } = await start(`http://127.0.0.1:${port}/v1`);
    const answer = await fetch(`${at.url}/v1/models`, { headers: { authorization: 'Bearer sk-test' } });
    const story = await storyOf(answer.headers.get('x-request-id')!, at.url);
    expect(story).toContain(`ECONNREFUSED at 127.0.0.1:${port}`);
  });

  it('A request that failed at another worker can be looked up from any worker', async () => {
    const env = { HOLDFAST_SECRETS: `k:${'s'.repeat(32)}`, HOLDFAST_LAME_DUCK_MS: '0' };
    const port = await freePort();
    const database = createMemoryDatabase('0'.repeat(64));
    const { at } = await start(`http://127.0.0.1:${port}/v1`, env, database);
    const { at: other } = await start(null, env, database);
    const answer = await ask(at);
    const story = await storyOf(answer.headers['x-request-id']!, other.url);
    expect(story).toContain(`ECONNREFUSED at 127.0.0.1:${port}`);
    // The story of its session comes from the worker that still has it in memory.
    expect(story).toContain('Epoch 1');
    const { failures } = (await (await fetch(`${other.url}/admin/failures`)).json()) as { failures: Line[] };
    expect(failures).toEqual([expect.objectContaining({ request: answer.headers['x-request-id'] })]);
  });
});

/** Answers look-ups of one name with these addresses in turn; the last one repeats. */
function names(...answers: (string | null)[]) {
  const lookup = dns.lookup;
  vi.spyOn(dns, 'lookup').mockImplementation(((name: string, options: object, done: (...given: unknown[]) => void) => {
    if (name !== 'upstream.test') return (lookup as (...given: unknown[]) => void)(name, options, done);
    const code = answers.length > 1 ? answers.shift()! : answers[0]!;
    if (code === null) return void done(null, [{ address: '127.0.0.1', family: 4 }]);
    done(Object.assign(new Error(code), { code }));
  }) as never);
}
async function upstream(env: Record<string, string> = {}) {
  const { at: other } = await start(null);
  const port = new URL(other.simulator.url).port;
  const { at } = await start(`http://upstream.test:${port}${new URL(other.simulator.url).pathname}`, env);
  return { at, simulator: other.simulator };
}

describe('a name that does not resolve', () => {
  it('A name that never resolved fails at once', async () => {
    names('ENOTFOUND');
    const { at } = await upstream();
    const answer = await ask(at);
    expect(answer.body.error?.message).toContain('ENOTFOUND at upstream.test');
  });

  it.each([
    ['after it resolved before', ['ENOTFOUND', 'ENOTFOUND', null]],
    ['after a temporary failure', ['EAI_AGAIN', 'EAI_AGAIN', null]],
  ])(
    'A name that does not resolve (%s) is looked up again until the deadline, and does not count against WebSocket',
    async (_, later) => {
      names(null);
      const { at, simulator } = await upstream();
      expect((await ask(at, 'first')).status).toBe(200);
      names(...later);
      expect((await ask(at, 'second')).status).toBe(200);
      expect(simulator.journal.of('upgrade')).toHaveLength(2);
    },
  );
});

describe('a temporary resolver failure over HTTP', () => {
  it('A name that temporarily fails to resolve over HTTP is looked up again until the deadline', async () => {
    names('EAI_AGAIN', 'EAI_AGAIN', null);
    const { at, simulator } = await upstream({ HOLDFAST_UPSTREAM_TRANSPORT: 'http' });
    expect((await ask(at)).status).toBe(200);
    expect(simulator.journal.of('upgrade')).toEqual([]);
  });

  it('A name that fails to resolve over HTTP is named in the error at the deadline', async () => {
    names('EAI_AGAIN');
    const { at } = await upstream({ HOLDFAST_UPSTREAM_TRANSPORT: 'http', HOLDFAST_CONNECT_MS: '700' });
    expect((await ask(at)).body.error?.message).toContain('EAI_AGAIN at upstream.test');
  });
});

it('A connection failure counts as final only if no address of the host may still answer', () => {
  const failed = (code: string) => Object.assign(new Error(code), { code });
  const of = (...codes: string[]) => unreachable(new AggregateError(codes.map(failed)), 'https://u.test/v1', null);
  expect(of('ENETUNREACH', 'ETIMEDOUT')).toMatchObject({ kind: 'timeout', final: false, text: 'ETIMEDOUT at u.test' });
  expect(of('ECONNREFUSED', 'ECONNREFUSED')).toMatchObject({ kind: 'refused', final: true });
});
