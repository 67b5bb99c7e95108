import { createHash } from 'node:crypto';
import { connect } from 'node:net';
import { afterEach, expect, it } from 'vitest';
import { systemClock } from '../../src/system.ts';
import { type TestBridge, type TestBridgeOptions, testBridge } from '../../src/testing/index.ts';
import { createMemoryDatabase, createMemoryStore } from '../../src/testing/memory-store/index.ts';
import { post } from '../support/client.ts';
import { openLive } from '../support/live-client.ts';
import { user } from '../support/messages.ts';
import { until } from '../support/until.ts';
import { freePort } from '../support/worker-process.ts';

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

const SHARED = { HOLDFAST_SECRETS: `k:${'s'.repeat(32)}`, HOLDFAST_LAME_DUCK_MS: '0' };
async function start(options: TestBridgeOptions = {}, database = createMemoryDatabase('0'.repeat(64))) {
  const at = await testBridge({
    openStore: async () => createMemoryStore({ clock: systemClock, database }),
    ...options,
    env: { ...SHARED, ...options.env },
  });
  let open = true;
  const close = async () => {
    if (open) await at.close();
    open = false;
  };
  ends.push(close);
  return { at, close, database };
}

// biome-ignore lint/suspicious/noExplicitAny: answers of the API are read as they come.
const get = async (at: TestBridge, path: string): Promise<any> => (await fetch(`${at.url}/admin/${path}`)).json();
const ask = (at: TestBridge, thread: string, input: unknown = 'hello') =>
  post(at.url, { model: 'gpt-5.5', stream: true, store: false, input }, { 'thread-id': thread });

async function converse(at: TestBridge, thread: string): Promise<void> {
  const history: object[] = [user('hello '.repeat(500))];
  history.push(...(await ask(at, thread, history)).body.output, user('and on'));
  await ask(at, thread, history);
}

it('The overview adds the records of all workers, and the links lead to the turns behind its points', async () => {
  const { at: a, database } = await start({ env: { HOLDFAST_PRICES: '*=2/0.5' } });
  const { at: b } = await start({ simulator: a.simulator, env: { HOLDFAST_PRICES: '*=2/0.5' } }, database);
  await converse(a, 'one');
  await converse(b, 'two');
  for (const at of [a, b]) {
    for (const window of ['15m', '1h', '24h']) {
      await until(async () => (await get(at, `overview?window=${window}`)).total.turns === 4);
      const overview = await get(at, `overview?window=${window}`);
      expect(overview.total).toMatchObject({ outcomes: { created: 2, live_reuse: 2 }, ends: { completed: 4 } });
      expect(overview.total.deltas / overview.total.sent).toBe(0.5);
      expect(overview.total.clientBytes - overview.total.sentBytes).toBeGreaterThan(2_000);
      expect(overview.series.outcomes.created.reduce((sum: number, each: number) => sum + each, 0)).toBe(2);
      expect(overview.t.length).toBe(overview.series.outcomes.created.length);
      expect(overview.total.firstEvent.p99).toBeGreaterThan(0);
      expect(overview.total.own.p50).toBeGreaterThan(0);
      expect(overview.total.database.p50).toBeGreaterThan(0);
      expect([overview.load.sockets, overview.priced, overview.rows.of]).toEqual([2, true, 0]);
      expect(overview.workers.map(({ turns }: { turns: number }) => turns)).toEqual([2, 2]);
    }
  }
  const { turns } = await get(b, `turns?since=${Date.now() - 60_000}&outcome=live_reuse`);
  expect(turns.map(({ facts }: { facts: { form: string } }) => facts.form)).toEqual(['delta', 'delta']);
  expect((await get(a, `turns?q=${turns[0].sessionId.slice(0, 8)}`)).turns).toHaveLength(2);
  expect((await get(a, 'turns?end=failed')).turns).toEqual([]);
  expect((await fetch(`${a.url}/admin/overview?window=2h`)).status).toBe(400);
  expect(JSON.stringify(turns)).not.toMatch(/hello|cred:\w{13}|credential/);
});

it('Turns of a worker that is gone are counted from their rows', async () => {
  const { at: a, close, database } = await start();
  const { at: b } = await start({ simulator: a.simulator }, database);
  await converse(a, 'one');
  await ask(b, 'two');
  await close();
  const overview = await get(b, 'overview?window=1h');
  expect(overview.total).toMatchObject({ turns: 3, outcomes: { created: 2, live_reuse: 1 } });
  expect([overview.rows.of, overview.rows.readable]).toEqual([1, true]);
});

it('Requests refused before they had a session are shown with what their client got, and nothing of what it sent', async () => {
  const { at } = await start({
    env: {
      HOLDFAST_API_KEYS: 'acme:key-of-acme',
      HOLDFAST_UPSTREAM_KEY: 'sk-upstream',
      HOLDFAST_ADMIN_TOKEN: 'operator',
    },
  });
  const operator = { authorization: 'Bearer operator' };
  const failures = async (query = '') =>
    ((await (await fetch(`${at.url}/admin/failures?${query}`, { headers: operator })).json()) as { failures: object[] })
      .failures as Record<string, string>[];
  const badKey = await fetch(`${at.url}/v1/responses?key=sk-secret`, {
    method: 'POST',
    headers: { authorization: 'Bearer sk-secret-wrong', 'content-type': 'application/json' },
    body: '{"input":"a private prompt"}',
  });
  expect(badKey.status).toBe(401);
  await fetch(`${at.url}/responses/sk-secret-in-the-path`, { method: 'POST' });
  const { port } = new URL(at.url);
  await new Promise<void>((answered) => {
    const socket = connect(Number(port), '127.0.0.1', () =>
      socket.write(
        'GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
      ),
    );
    socket.once('data', () => {
      socket.destroy();
      answered();
    });
  });
  await fetch(`${at.url}/admin/sessions`, { headers: { authorization: 'Bearer wrong' } });
  await fetch(`${at.url}/admin/sessions/none`, { headers: operator });
  // A page that does not know yet that a token is needed asks without one.
  await fetch(`${at.url}/admin/sessions`);
  const all = await failures();
  expect(all.map(({ status, method, path, upgrade, code }) => [status, method, path, upgrade, code])).toEqual([
    [401, 'GET', '/admin/sessions', false, 'invalid_api_key'],
    [426, 'GET', '/v1/models', true, 'websocket_unsupported'],
    [405, 'POST', '/responses/…', false, 'method_not_allowed'],
    [401, 'POST', '/v1/responses', false, 'invalid_api_key'],
  ]);
  const id = badKey.headers.get('x-request-id')!;
  expect((await failures(`q=${id.slice(0, 8)}`)).map(({ request }) => request)).toEqual([id]);
  expect(await failures('reason=bridge_unauthorized')).toHaveLength(2);
  expect(JSON.stringify(all)).not.toMatch(/secret|private/);
  const overview = await (await fetch(`${at.url}/admin/overview`, { headers: operator })).json();
  expect((overview as { total: object }).total).toMatchObject({
    failures: { bridge_unauthorized: 2, bridge_method_not_allowed: 1, bridge_websocket_unsupported: 1 },
  });
  for (const path of ['overview', 'turns', 'failures'])
    expect((await fetch(`${at.url}/admin/${path}`)).status).toBe(401);
});

it('A failed turn is found by request, turn, session and thread, at every worker, also after its worker is gone', async () => {
  const { at: a, close, database } = await start();
  const { at: b } = await start({ simulator: a.simulator }, database);
  a.simulator.script.onTurn(
    {},
    { kind: 'error', error: { status: 500, code: 'server_error', message: 'private words' } },
    { times: 'always' },
  );
  const failed = await ask(a, 'the-thread');
  const request = failed.headers['x-request-id']!;
  const [known] = (await get(b, 'failures')).failures;
  expect(known).toMatchObject({ request, outcome: 'created', model: 'gpt-5.5', tenant: expect.any(String) });
  const hash = createHash('sha256').update('the-thread').digest('hex');
  for (const q of [request, known.turn.slice(0, 8), known.session, 'the-thread', hash.slice(0, 8)])
    expect([q, (await get(b, `failures?q=${q}`)).failures.length]).toEqual([q, 1]);
  for (const query of ['model=gpt-5.5', 'outcome=created', `since=${Date.now() - 60_000}`])
    expect([query, (await get(b, `failures?${query}`)).failures.length]).toEqual([query, 1]);
  for (const query of ['model=other', 'outcome=forked', `since=${Date.now() + 1}`, 'tenant=nobody-here'])
    expect([query, (await get(b, `failures?${query}`)).failures]).toEqual([query, []]);
  await close();
  const { failures } = await get(b, 'failures');
  expect(failures).toMatchObject([{ turn: known.turn, session: known.session, fromRow: true }]);
  expect(JSON.stringify(failures)).not.toContain('private');
});

it('A session whose first turn waits for its socket is listed at every worker, and can be opened', async () => {
  const { at: a, database } = await start({ env: { HOLDFAST_UPSTREAM_TRANSPORT: 'websocket' } });
  const { at: b } = await start({ simulator: a.simulator }, database);
  const refusal = a.simulator.script.onUpgrade({}, { kind: 'refuse', status: 503 }, { times: 'always' });
  const waiting = openLive(a.url, { model: 'gpt-5.5', store: false, input: 'hello' }, { 'thread-id': 't' });
  await until(async () => (await get(b, 'sessions')).unstored.length === 1);
  for (const at of [a, b]) {
    const { unstored, sessions } = await get(at, 'sessions?state=connecting');
    expect([unstored.length, sessions]).toEqual([1, []]);
    expect(unstored[0]).toMatchObject({ model: 'gpt-5.5', owner: { id: a.bridge.workerId, here: at === a } });
    expect(unstored[0].state).toMatch(/^connecting/);
    const shown = await get(at, `sessions/${unstored[0].id}`);
    expect(shown.why).toContain('waits for a socket');
    expect(shown.timeline.entries.length).toBeGreaterThan(0);
  }
  refusal.remove();
  const live = await waiting;
  await live.rest();
  await until(async () => (await get(b, 'sessions')).unstored.length === 0);
  expect((await get(b, 'sessions')).sessions).toHaveLength(1);
});

it('An empty list names the last failure, so that an unreachable upstream does not look like no request', async () => {
  const port = await freePort();
  const { at } = await start({ env: { HOLDFAST_UPSTREAM_URL: `http://127.0.0.1:${port}/v1` } });
  expect(await get(at, 'sessions')).toMatchObject({ sessions: [], lastFailure: null });
  await ask(at, 'one');
  const { sessions, lastFailure } = await get(at, 'sessions');
  expect(sessions).toEqual([]);
  expect(lastFailure.cause).toContain(`ECONNREFUSED at 127.0.0.1:${port}`);
});
