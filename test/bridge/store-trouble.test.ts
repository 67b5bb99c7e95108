import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Bridge, createBridge } from '../../src/bridge.ts';
import { createApp } from '../../src/http/app.ts';
import { type Listening, listen } from '../../src/http/server.ts';
import { systemClock } from '../../src/system.ts';
import { digestOf, expectedDigest, type Simulator, startSimulator } from '../../src/testing/index.ts';
import { createMemoryStore } from '../../src/testing/memory-store/index.ts';
import { post, terminalsOf } from '../support/client.ts';
import { openLive } from '../support/live-client.ts';
import { user } from '../support/messages.ts';
import { answerLost, requestLost, type ScriptedStore, scriptStore } from '../support/scripted-store.ts';
import { until } from '../support/until.ts';

let simulator: Simulator;
let scripted: ScriptedStore;
let bridge: Bridge;
let server: Listening;
const headers = { 'thread-id': 't' };
const body = { model: 'm', stream: true, store: false, input: [user('one')] };
const creates = () => simulator.journal.of('create');
const turns = async () => {
  const [session] = await scripted.store.sessions(1);
  return (await scripted.store.turnsOf(session!.id, 9)).map(({ state }) => state);
};

/** Returns the number of requests that wait in the queues of sessions. */
const waiting = async () => {
  const page = await (await fetch(`${server.url}/metrics`)).text();
  return Number(/^holdfast_queue_length (\d+)$/m.exec(page)?.[1]);
};

async function open() {
  bridge = await createBridge({
    store: scripted.store,
    logger: pino({ level: 'silent' }),
    env: {
      HOLDFAST_UPSTREAM_URL: simulator.url,
      HOLDFAST_START_WAIT_MS: '1000',
      HOLDFAST_SETTLE_WAIT_MS: '100',
      HOLDFAST_QUEUE_LENGTH: '1',
    },
  });
  server = await listen(createApp(bridge.router, bridge), { host: '127.0.0.1', port: 0 });
}
beforeEach(async () => {
  simulator = await startSimulator();
  scripted = scriptStore(createMemoryStore({ clock: systemClock }));
  await open();
});
afterEach(async () => {
  await bridge.close();
  await server.close(100);
  await simulator.close();
});

async function next(first: { body: { output: object[] } }, text: string) {
  const input = [user('one'), ...first.body.output, user(text)];
  const answer = await post(server.url, { ...body, input }, headers);
  expect(digestOf(answer.body)).toBe(expectedDigest({ items: input as never }));
  return answer;
}

describe('a lost answer of the store', () => {
  it('A create whose answer is lost is repeated, and the turn is sent once', async () => {
    scripted.once('create', answerLost);
    scripted.once('create', answerLost);
    const answer = await post(server.url, body, headers);
    expect(terminalsOf(answer).map(({ type }) => type)).toEqual(['response.completed']);
    expect(creates()).toHaveLength(1);
    await next(answer, 'two');
  });

  it('A start whose answer is lost is repeated, and the turn is sent once', async () => {
    const first = await post(server.url, body, headers);
    scripted.once('start', answerLost);
    scripted.once('start', requestLost);
    await next(first, 'two');
    expect(creates()).toHaveLength(2);
    expect(scripted.calls.filter((name) => name === 'start')).toHaveLength(3);
  });

  it('A settle whose answer is lost is repeated, and the line continues', async () => {
    scripted.once('settle', answerLost);
    const first = await post(server.url, body, headers);
    const second = await next(first, 'two');
    expect(second.headers['x-holdfast-outcome']).toBe('live_reuse');
    expect(await turns()).toEqual(['completed', 'completed']);
  });

  it('A claim whose answer is lost is repeated, and fences no other owner', async () => {
    const first = await post(server.url, body, headers);
    simulator.dropAll();
    await until(() => bridge.sessions().length === 0);
    scripted.once('claim', answerLost);
    const second = await next(first, 'two');
    expect(second.headers['x-holdfast-outcome']).toBe('stale_recovery');
  });
});

describe('a store that does not answer', () => {
  it('An unanswered start costs a 503 in time, and a later answer of the store sends no frame', async () => {
    const first = await post(server.url, body, headers);
    const sent = creates().length;
    let answer = () => {};
    scripted.once('start', (pass, call) => new Promise((done) => (answer = () => void pass(call).then(done))));
    const input = [user('one'), ...first.body.output, user('two')];
    const refused = await post(server.url, { ...body, input }, headers);
    expect(refused.status).toBe(503);
    expect(refused.body.error?.bridge_code).toBe('bridge_store_unavailable');
    expect(refused.headers['retry-after']).toBeDefined();
    answer();
    await until(() => bridge.sessions()[0]?.state === 'live.idle');
    expect(creates()).toHaveLength(sent);
    expect(await turns()).toEqual(['cancelled', 'completed']);
    await next(first, 'two');
  });

  it('An unanswered settle delays no client: the terminal leaves, and the settle follows', async () => {
    let answer = () => {};
    scripted.once('settle', (pass, call) => new Promise((done) => (answer = () => void pass(call).then(done))));
    const first = await post(server.url, body, headers);
    expect(terminalsOf(first).map(({ type }) => type)).toEqual(['response.completed']);
    expect(await turns()).toEqual(['active']);
    const second = next(first, 'two');
    answer();
    expect((await second).headers['x-holdfast-outcome']).toBe('live_reuse');
    expect(await turns()).toEqual(['completed', 'completed']);
  });

  it('A request anchored to an answer that is not settled yet waits for the settle', async () => {
    let answer = () => {};
    scripted.once('settle', (pass, call) => new Promise((done) => (answer = () => void pass(call).then(done))));
    const first = await post(server.url, body, headers);
    const anchored = post(server.url, { ...body, previous_response_id: first.body.id, input: [user('two')] }, headers);
    await until(async () => (await waiting()) === 1);
    answer();
    const second = await anchored;
    expect(second.headers['x-holdfast-outcome']).toBe('live_reuse');
    expect(creates().map(({ itemsReceived }) => itemsReceived)).toEqual([1, 1]);

    // The turn is stored with its parent: the conversation can be rebuilt without this socket.
    simulator.dropAll();
    await until(() => bridge.sessions().length === 0);
    const input = [user('three')];
    const third = await post(server.url, { ...body, previous_response_id: second.body.id, input }, headers);
    expect(third.headers['x-holdfast-outcome']).toBe('stale_recovery');
    const items = [user('one'), ...first.body.output, user('two'), ...second.body.output, user('three')];
    expect(digestOf(third.body)).toBe(expectedDigest({ items: items as never }));
  });
});

describe('a request that could not be started within its waiting time', () => {
  it('A request that could not be started in time gets an error, and a later answer of the store sends no frame for it', async () => {
    const other = await createBridge({
      store: scripted.store,
      logger: pino({ level: 'silent' }),
      env: { HOLDFAST_UPSTREAM_URL: simulator.url, HOLDFAST_REQUEST_HOLD_MS: '300' },
    });
    const face = await listen(createApp(other.router, other), { host: '127.0.0.1', port: 0 });
    try {
      let answer = () => {};
      scripted.once('create', (pass, call) => new Promise((done) => (answer = () => void pass(call).then(done))));
      const told = await post(face.url, body, headers);
      expect([told.status, told.body.error?.bridge_code]).toEqual([503, 'bridge_hold_expired']);
      answer();
      await until(async () => (await scripted.store.sessions(1)).length === 1 && (await turns())[0] === 'cancelled');
      expect(creates()).toHaveLength(0);
    } finally {
      await other.close();
      await face.close(100);
    }
  });
});

describe('a store that refuses', () => {
  it('A refused settle still lets the client have its terminal, and the bare end of the turn is recorded', async () => {
    simulator.script.onTurn({ nth: 2 }, { kind: 'reuse_response_id' });
    const first = await post(server.url, body, headers);
    const again = await post(server.url, { ...body, input: [user('else')] }, { 'thread-id': 'other' });
    expect(again.body.id).toBe(first.body.id);
    expect(terminalsOf(again).map(({ type }) => type)).toEqual(['response.completed']);
    const rows = await scripted.store.sessions(2);
    const ends = await Promise.all(rows.map(async ({ id }) => (await scripted.store.turnsOf(id, 1))[0]!));
    expect(ends.map(({ state, responseId }) => [state, responseId]).sort()).toEqual(
      [
        ['completed', first.body.id],
        ['completed', null],
      ].sort(),
    );
  });

  it('A refused create is one clear error', async () => {
    scripted.once('create', async () => ({ verdict: 'rejected' as const, reason: 'disk full' }));
    const answer = await post(server.url, body, headers);
    expect(answer.status).toBe(500);
    expect(answer.body.error?.bridge_code).toBe('bridge_store_rejected');
    expect(creates()).toHaveLength(0);
    expect((await post(server.url, body, headers)).status).toBe(200);
  });
});

describe('a lease with too little time left', () => {
  it('A lease with too little time left lets no frame leave: the turn is ended unsent', async () => {
    const first = await post(server.url, body, headers);
    scripted.once('start', async (pass, call) => ({ ...(await pass(call)), leaseLeftMs: 1_999 }) as never);
    const input = [user('one'), ...first.body.output, user('two')];
    const refused = await post(server.url, { ...body, input }, headers);
    expect(refused.body.error?.bridge_code).toBe('bridge_lease_lapsed');
    expect(creates()).toHaveLength(1);
    await until(() => bridge.sessions()[0]?.state === 'live.idle');
    expect(await turns()).toEqual(['cancelled', 'completed']);
  });
});

describe('a session that another worker has claimed', () => {
  it('A claim by another worker is noticed at the next start, and the request is placed again', async () => {
    const first = await post(server.url, body, headers);
    const [row] = await scripted.store.sessions(1);
    await scripted.store.operatorRelease(row!.id);
    const second = await next(first, 'two');
    expect(second.headers['x-holdfast-outcome']).toBe('stale_recovery');
    expect(simulator.journal.of('upgrade')).toHaveLength(2);
  });
});

describe('two requests that claim one session at once', () => {
  it('Two concurrent claims of one session are both served by the later epoch, though the earlier claim was slower to read its row', async () => {
    const first = await post(server.url, body, headers);
    await bridge.close();
    await server.close(100);
    await open();
    let read = () => {};
    scripted.once('turn', (pass, ...asked) => new Promise((done) => (read = () => void pass(...asked).then(done))));
    const early = next(first, 'early');
    await until(() => scripted.calls.includes('turn'));
    expect((await next(first, 'late')).status).toBe(200);
    read();
    expect((await early).status).toBe(200);
    expect(scripted.calls.filter((name) => name === 'claim')).toHaveLength(2);
    expect(bridge.sessions()).toHaveLength(1);
  });
});

describe('a client that leaves while its start is unanswered', () => {
  it('A request whose client has left is not placed again when its start is fenced, because no reader is left', async () => {
    const first = await post(server.url, body, headers);
    let answer = () => {};
    scripted.once('start', () => new Promise((done) => (answer = () => done({ verdict: 'fenced' }))));
    // The worker repeats the start once, because its own row might have been lost; the fence stands.
    scripted.once('start', async () => ({ verdict: 'fenced' as const }));
    const input = [user('one'), ...first.body.output, user('two')];
    const control = new AbortController();
    const leaving = post(server.url, { ...body, input }, headers, control.signal).catch(() => null);
    await until(() => scripted.calls.includes('start'));
    control.abort();
    await leaving;
    // Once another conversation has received its whole answer, the closed connection has been noticed here too.
    await post(server.url, body, { 'thread-id': 'other' });
    const sent = creates().length;
    answer();
    await until(() => bridge.sessions().length === 1);
    await next(first, 'three');
    expect(creates()).toHaveLength(sent + 1);
    expect(scripted.calls.filter((name) => name === 'claim')).toHaveLength(1);
  });
});

describe('requests that wait for one conversation', () => {
  it('The queue of a session is bounded: the next request is refused with a retry hint, and the slot is freed afterwards', async () => {
    const first = await post(server.url, body, headers);
    let answer = () => {};
    scripted.once('settle', (pass, call) => new Promise((done) => (answer = () => void pass(call).then(done))));
    const input = [user('one'), ...first.body.output, user('two')];
    const second = await post(server.url, { ...body, input }, headers);
    // Anchored: only this line can answer it, so no lane beside it is possible.
    const third = { ...body, input: [user('three')], previous_response_id: second.body.id };
    const queued = post(server.url, third, headers);
    await until(async () => (await waiting()) === 1);
    const refused = await post(server.url, third, headers);
    expect(refused.status).toBe(429);
    expect(refused.body.error?.bridge_code).toBe('bridge_queue_full');
    expect(Number(refused.headers['retry-after'])).toBeGreaterThan(0);
    answer();
    expect((await queued).status).toBe(200);
    expect((await post(server.url, third, headers)).status).toBe(200);
  });

  it('Queued requests are served although a drain began while the previous settle was unanswered', async () => {
    await post(server.url, body, { 'thread-id': 'other' });
    let answer = () => {};
    scripted.once('settle', (pass, call) => new Promise((done) => (answer = () => void pass(call).then(done))));
    const first = await post(server.url, body, headers);
    const looked = scripted.calls.filter((name) => name === 'lookup').length;
    const next = { ...body, input: [user('one'), ...first.body.output, user('two')] };
    const queued = post(server.url, next, headers);
    // Two calls: the head that its input continues is not recorded yet.
    await until(() => scripted.calls.filter((name) => name === 'lookup').length === looked + 2);
    const closed = bridge.close();
    // The idle session's socket is closed in the same step in which the busy session receives the drain.
    await simulator.waitFor('closed', ({ code }) => code === 1000 || code === 1001);
    answer();
    expect(terminalsOf(await queued).map(({ type }) => type)).toEqual(['response.completed']);
    await closed;
  });

  it('A queued request frees its slot when its client leaves', async () => {
    const first = await post(server.url, body, headers);
    const held = simulator.script.onTurn({}, { kind: 'hold', at: 'before_terminal' });
    let answer = () => {};
    scripted.once('settle', (pass, call) => new Promise((done) => (answer = () => void pass(call).then(done))));
    const input = [user('one'), ...first.body.output, user('two')];
    const running = await openLive(server.url, { ...body, input }, headers);
    held.release();
    const { events } = await running.rest();
    // Anchored to the answer whose settle is not recorded yet: only this line can answer, so they have to wait.
    const { id } = events.at(-1)!.data.response as { id: string };
    const anchored = (text: string) => ({ ...body, previous_response_id: id, input: [user(text)] });
    const control = new AbortController();
    const leaving = post(server.url, anchored('x'), headers, control.signal).catch(() => null);
    await until(async () => (await waiting()) === 1);
    control.abort();
    await leaving;
    await until(async () => (await waiting()) === 0);
    const staying = post(server.url, anchored('y'), headers);
    await until(async () => (await waiting()) === 1);
    answer();
    expect((await staying).status).toBe(200);
  });
});
