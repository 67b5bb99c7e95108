import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { Writable } from 'node:stream';
import { pino } from 'pino';
import { request } from 'undici';
import { afterEach, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge, type TestBridgeOptions } from '../support/bridge.ts';
import { post, terminalsOf } from '../support/client.ts';
import { openLive } from '../support/live-client.ts';
import { user } from '../support/messages.ts';
import { type ScriptedStore, scriptStore } from '../support/scripted-store.ts';
import { until } from '../support/until.ts';

let at: TestBridge;
const start = async (options: TestBridgeOptions = {}) => {
  at = await startTestBridge(options);
};
afterEach(() => at.close());

const bodyOf = (...texts: string[]) => ({ model: 'm', stream: true, store: false, input: texts.map(user) });
const thread = (id: string) => ({ 'thread-id': id });
const ends = (answer: Awaited<ReturnType<typeof post>>) => terminalsOf(answer).map(({ type }) => type);
const creates = () => at.simulator.journal.of('create');

describe('a session that loses its socket', () => {
  it('A lost socket fails the turn on it, and none of those that wait behind it', async () => {
    let scripted!: ScriptedStore;
    await start({ wrapStore: (store) => (scripted = scriptStore(store)).store });
    const first = await post(at.url, bodyOf('one'), thread('t'));
    const settling = Promise.withResolvers<void>();
    const reached = Promise.withResolvers<void>();
    scripted.once('settle', async (pass, ...args) => {
      reached.resolve();
      await settling.promise;
      return pass(...args);
    });
    at.simulator.script.onTurn({}, { kind: 'reset', at: { deltas: 1 } });
    const second = post(at.url, { ...bodyOf('two'), previous_response_id: first.body.id }, thread('t'));
    await reached.promise;
    // These turns were not sent yet, so the loss of the socket that they would have used does not affect them.
    const waiting = ['a', 'b'].map((text) =>
      post(at.url, { ...bodyOf(text), previous_response_id: first.body.id }, thread('t')),
    );
    settling.resolve();
    expect(ends(await second)).toEqual(['response.failed']);
    for (const answer of await Promise.all(waiting)) expect(ends(answer)).toEqual(['response.completed']);
  });
});

describe('a worker that was starved', () => {
  it('A worker that stood still does not mistake its own stall for silence of the provider', async () => {
    const main = new URL('../../src/testing/simulator/main.ts', import.meta.url).pathname;
    const child = spawn(process.execPath, [main, '--exit-with-stdin'], { stdio: ['pipe', 'pipe', 'ignore'] });
    const [url] = (await once(createInterface(child.stdout!), 'line')) as [string];
    const control = async (path: string, order?: unknown) => {
      const answer = await request(new URL(path, url), {
        method: order === undefined ? 'GET' : 'POST',
        ...(order === undefined ? {} : { body: JSON.stringify(order) }),
      });
      return (await answer.body.json()) as { rules: number[] };
    };
    try {
      await start({ env: { HOLDFAST_UPSTREAM_URL: url, HOLDFAST_FIRST_EVENT_MS: '400' } });
      const { rules } = await control('/__script', { on: 'turn', fault: { kind: 'hold', at: 'before_created' } });
      const answer = post(at.url, bodyOf('one'), thread('t'));
      await control('/__journal?kind=held&wait=5000');
      const released = control('/__control', { release: rules[0] });
      // The resume command must leave this process before it stalls.
      await new Promise((sent) => setTimeout(sent, 20));
      const until = performance.now() + 600;
      while (performance.now() < until);
      await released;
      expect(ends(await answer)).toEqual(['response.completed']);
    } finally {
      child.kill('SIGKILL');
    }
  });
});

describe('requests without an anchor beside a running turn', () => {
  it('Requests without an anchor run beside a running turn in lanes of their own, whose sockets close after the short limit', async () => {
    await start({ env: { HOLDFAST_LANE_IDLE_MS: '50' } });
    const held = at.simulator.script.onTurn({ nth: 1 }, { kind: 'hold', at: 'before_terminal' });
    const main = await openLive(at.url, bodyOf('foreground'), thread('t'));
    await main.until('response.output_item.done');
    const beside = await Promise.all(['a', 'b', 'c', 'd'].map((text) => post(at.url, bodyOf(text), thread('t'))));
    for (const answer of beside) {
      expect(answer.headers['x-holdfast-outcome']).toBe('parallel_lane');
      expect(ends(answer)).toEqual(['response.completed']);
    }
    held.release();
    const { events } = await main.rest();
    expect(events.at(-1)!.type).toBe('response.completed');
    await until(() => at.bridge.sessions().length === 1);
    const response = events.at(-1)!.data.response as { output: object[] };
    const input = [user('foreground'), ...response.output, user('next')];
    const next = await post(at.url, { ...bodyOf(), input }, thread('t'));
    expect(next.headers['x-holdfast-outcome']).toBe('live_reuse');
  });
});

describe('a conversation whose head moves while a request is placed', () => {
  it('A request is placed three times while its conversation moves, then its client is asked to retry', async () => {
    let scripted!: ScriptedStore;
    await start({ wrapStore: (store) => (scripted = scriptStore(store)).store });
    await post(at.url, bodyOf('one'), thread('t'));
    for (let time = 0; time < 9; time += 1) scripted.once('start', async () => ({ verdict: 'head_moved' }) as never);
    const answer = await post(at.url, bodyOf('two'), thread('t'));
    expect(answer.status).toBe(503);
    expect(answer.body.error?.bridge_code).toBe('bridge_conflict');
    expect(answer.headers['retry-after']).toBe('1');
    expect(scripted.calls.filter((name) => name === 'start')).toHaveLength(3);
    expect(creates()).toHaveLength(1);
  });
});

describe('a conversation that is being created', () => {
  it('A conversation is created even if its first client leaves, and the waiting request is served', async () => {
    await start();
    at.simulator.script.onUpgrade({ nth: 1 }, { kind: 'hang' });
    const control = new AbortController();
    const first = post(at.url, bodyOf('one'), thread('t'), control.signal).catch(() => null);
    await at.simulator.waitFor('upgrade');
    const second = post(at.url, bodyOf('two'), thread('t'));
    control.abort();
    await first;
    expect(ends(await second)).toEqual(['response.completed']);
    expect((await at.store.sessions(9)).length).toBe(1);
  });

  it('A burst of requests for a new conversation creates one session under its key, and each gets its own answer', async () => {
    await start();
    const texts = Array.from({ length: 60 }, (_, index) => `say ${index}`);
    const answers = await Promise.all(texts.map((text) => post(at.url, bodyOf(text), thread('t'))));
    answers.forEach((answer, index) => {
      expect(ends(answer)).toEqual(['response.completed']);
      expect(digestOf(answer.body)).toBe(expectedDigest({ items: [user(texts[index]!)] as never }));
    });
    const sessions = await at.store.sessions(99);
    const keys = await Promise.all(sessions.map(({ id }) => at.store.keysOf(id)));
    expect(keys.filter((each) => each.length > 0)).toHaveLength(1);
  });
});

describe('a session that is stuck', () => {
  it('A session stuck in its handshake, its stream or its commit delays no other session', async () => {
    let scripted!: ScriptedStore;
    await start({
      env: { HOLDFAST_START_WAIT_MS: '10000', HOLDFAST_DISCONNECT_GRACE_MS: '50' },
      wrapStore: (store) => (scripted = scriptStore(store)).store,
    });
    const { script } = at.simulator;
    script.onUpgrade({ nth: 1 }, { kind: 'hang' });
    const control = new AbortController();
    const dialing = post(at.url, bodyOf('one'), thread('dials'), control.signal).catch(() => null);
    await at.simulator.waitFor('upgrade');
    script.onTurn({}, { kind: 'silence', at: 'after_created' });
    const silent = await openLive(at.url, bodyOf('one'), thread('streams'));
    await silent.until('response.created');
    const stuck = Promise.withResolvers<never>();
    scripted.once('create', () => stuck.promise);
    const committing = post(at.url, bodyOf('one'), thread('commits'), control.signal).catch(() => null);
    await at.simulator.waitFor('upgrade', ({ upgrade }) => upgrade === 3);
    for (const id of ['a', 'b', 'c']) expect(ends(await post(at.url, bodyOf('one'), thread(id)))).toHaveLength(1);
    control.abort();
    silent.hangUp();
    stuck.reject(new Error('the test is over'));
    await Promise.all([dialing, committing]);
  });
});

describe('idle conversations', () => {
  it('Beyond the socket limit the oldest idle socket is evicted, and its conversation continues', async () => {
    await start({ env: { HOLDFAST_MAX_SOCKETS: '2' } });
    const first = await post(at.url, bodyOf('one'), thread('a'));
    for (const id of ['b', 'c', 'd']) expect(ends(await post(at.url, bodyOf('one'), thread(id)))).toHaveLength(1);
    expect(at.bridge.sessions().length).toBeLessThanOrEqual(2);
    const input = [user('one'), ...first.body.output, user('two')];
    const back = await post(at.url, { ...bodyOf(), input }, thread('a'));
    expect(back.headers['x-holdfast-outcome']).toBe('stale_recovery');
    expect(digestOf(back.body)).toBe(expectedDigest({ items: input as never }));
  });
});

describe('records of a turn', () => {
  it('The record of a turn names the request that caused it, also when its session serves several', async () => {
    const lines: Record<string, unknown>[] = [];
    const sink = new Writable({
      write(chunk, _encoding, done) {
        lines.push(JSON.parse(String(chunk)));
        done();
      },
    });
    await start({ logger: pino({ level: 'info' }, sink) });
    const first = await post(at.url, bodyOf('one'), thread('t'));
    at.simulator.script.onTurn({}, { kind: 'failed', code: 'server_error' });
    const second = await post(
      at.url,
      { ...bodyOf(), input: [user('one'), ...first.body.output, user('two')] },
      thread('t'),
    );
    const turns = lines.filter(({ msg }) => msg === 'turn');
    expect(turns.map(({ request: id, terminal }) => [id, terminal])).toEqual([
      [first.headers['x-request-id'], 'completed'],
      [second.headers['x-request-id'], 'failed'],
    ]);
    expect(new Set(turns.map(({ session }) => session)).size).toBe(1);
  });

  it('A story that cannot be written delays no terminal', async () => {
    let scripted!: ScriptedStore;
    await start({ wrapStore: (store) => (scripted = scriptStore(store)).store });
    scripted.once('keepStory', () => new Promise(() => {}));
    at.simulator.script.onTurn({}, { kind: 'failed', code: 'server_error' });
    expect(ends(await post(at.url, bodyOf('one'), thread('t')))).toEqual(['response.failed']);
    expect(ends(await post(at.url, bodyOf('two'), thread('t')))).toEqual(['response.completed']);
  });
});
