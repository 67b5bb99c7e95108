import { connect, createServer, type Socket } from 'node:net';
import { pino } from 'pino';
import { afterEach, expect, it } from 'vitest';
import type { SessionStore } from '../../src/store/port.ts';
import { systemClock } from '../../src/system.ts';
import { type TestBridge, type TestBridgeOptions, testBridge } from '../../src/testing/index.ts';
import { createMemoryDatabase, createMemoryStore } from '../../src/testing/memory-store/index.ts';
import { post } from '../support/client.ts';
import { user } from '../support/messages.ts';
import { until } from '../support/until.ts';
import { freePort } from '../support/worker-process.ts';

const closing: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

const thread = { 'thread-id': 't' };
const ask = (more: object = {}) => ({ model: 'm', stream: true, store: false, input: [user('one')], ...more });

/** Opens a path to a port that can be paused: bytes wait until it is resumed. */
async function holdableWay(port: number) {
  let held: (() => void)[] | null = null;
  const sockets = new Set<Socket>();
  const server = createServer((near) => {
    const far = connect(port, '127.0.0.1');
    for (const socket of [near, far]) {
      sockets.add(socket);
      socket.on('error', () => {});
    }
    const close = () => {
      near.destroy();
      far.destroy();
    };
    near.on('close', close);
    far.on('close', close);
    near.on('data', (chunk) => {
      if (held) held.push(() => far.write(chunk));
      else far.write(chunk);
    });
    far.on('data', (chunk) => near.write(chunk));
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  closing.push(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((closed) => server.close(closed));
  });
  return {
    url: `http://127.0.0.1:${(server.address() as { port: number }).port}`,
    hold() {
      held = [];
    },
    letGo() {
      const waiting = held ?? [];
      held = null;
      for (const write of waiting) write();
    },
    cut() {
      for (const socket of sockets) socket.resetAndDestroy();
      sockets.clear();
    },
  };
}

/** Starts two workers on one store. Calls of each are counted, and its heartbeats can be withheld. */
async function pair(env: Record<string, string> = {}) {
  const database = createMemoryDatabase('0'.repeat(64));
  const internal = await freePort();
  const way = await holdableWay(internal);
  let first: TestBridge | undefined;
  async function start(more: Record<string, string>, options: TestBridgeOptions = {}) {
    const calls: string[] = [];
    const lines: { msg: string; terminal?: string; outcome?: string }[] = [];
    let beating = true;
    const at = await testBridge({
      openStore: async () => createMemoryStore({ clock: systemClock, database }),
      wrapStore: (inner) =>
        new Proxy(inner, {
          get(target, name: keyof SessionStore) {
            const real = target[name] as (...args: unknown[]) => unknown;
            return async (...args: unknown[]) => {
              calls.push(name);
              if (name === 'heartbeat' && !beating) return { verdict: 'unknown', reason: 'withheld' };
              return real.apply(target, args);
            };
          },
        }),
      logger: pino({ level: 'info' }, { write: (line: string) => void lines.push(JSON.parse(line)) }) as never,
      env: { ...env, ...more },
      ...(first ? { simulator: first.simulator } : {}),
      ...options,
    });
    closing.push(() => at.close());
    const beats = (on: boolean) => {
      beating = on;
    };
    return { at, calls, lines, beats, count: (name: string) => calls.filter((each) => each === name).length };
  }
  const owner = await start({ HOLDFAST_INTERNAL_PORT: String(internal), HOLDFAST_ADVERTISE_URL: way.url });
  first = owner.at;
  const other = await start({});
  return { database, way, owner, other, simulator: owner.at.simulator };
}

it('A peer that is slow to accept is waited for, and keeps its session and its socket', async () => {
  const { way, owner, other, simulator } = await pair({ HOLDFAST_OWNER_POLL_MS: '50' });
  const one = await post(owner.at.url, ask(), thread);
  way.hold();
  const asked = other.count('workers');
  const two = post(other.at.url, ask({ previous_response_id: one.body.id, input: [user('two')] }), thread);
  // Its lease has been read several times: every deadline of the hop has passed by then.
  await until(() => other.count('workers') >= asked + 4);
  way.letGo();
  expect((await two).status).toBe(200);
  expect((await two).headers['x-holdfast-outcome']).toBe('live_reuse');
  expect([other.count('claim'), simulator.journal.of('upgrade').length]).toEqual([0, 1]);
  expect(simulator.journal.of('create')).toHaveLength(2);
});

it('A hop that is cut before any output was shown is resumed by its turn id: one generation', async () => {
  const { way, owner, other, simulator } = await pair();
  const one = await post(owner.at.url, ask(), thread);
  const held = simulator.script.onTurn({}, { kind: 'hold', at: 'before_created' });
  const two = post(other.at.url, ask({ previous_response_id: one.body.id, input: [user('two')] }), thread);
  await simulator.waitFor('held');
  way.cut();
  held.release();
  expect((await two).status).toBe(200);
  expect(simulator.journal.of('create')).toHaveLength(2);
  await until(() => other.lines.some(({ msg }) => msg === 'turn'));
  expect(other.lines.filter(({ msg }) => msg === 'turn')).toMatchObject([
    { outcome: 'forwarded', terminal: 'completed' },
  ]);
});

it('A worker whose row was lost restores it and keeps its sessions; until then requests poll at intervals', async () => {
  const { database, owner, other, simulator } = await pair({
    HOLDFAST_HEARTBEAT_MS: '100',
    HOLDFAST_OWNER_WAIT_MS: '1500',
    HOLDFAST_OWNER_POLL_MS: '200',
  });
  const one = await post(owner.at.url, ask(), thread);
  const held = simulator.script.onTurn({}, { kind: 'hold', at: 'before_terminal' });
  const running = post(owner.at.url, ask({ previous_response_id: one.body.id, input: [user('two')] }), thread);
  await simulator.waitFor('held');
  owner.beats(false);
  const { workerId } = owner.at.bridge;
  const [turn] = [...database.turns.values()].filter(({ responseId }) => responseId === one.body.id);
  // Only the socket holds the anchor.
  turn!.replay = 'anchor_only';
  database.workers.delete(workerId);
  const before = other.count('lookup');
  const third = ask({ previous_response_id: one.body.id, input: [user('three')] });
  const refused = await post(other.at.url, third, thread);
  expect([refused.status, refused.body.error?.bridge_code]).toEqual([409, 'bridge_wrong_instance']);
  expect(other.count('lookup') - before).toBeLessThan(40);
  owner.beats(true);
  await until(() => database.workers.get(workerId)?.internalUrl != null);
  expect(owner.at.bridge.workerId).toBe(workerId);
  held.release();
  const answer = await running;
  expect(answer.status).toBe(200);
  const next = ask({ previous_response_id: answer.body.id, input: [user('four')] });
  const four = await post(other.at.url, next, thread);
  expect([four.status, four.headers['x-holdfast-outcome']]).toEqual([200, 'live_reuse']);
  expect(simulator.journal.of('upgrade')).toHaveLength(1);
});

it('A worker whose heartbeat is merely late serves as soon as the heartbeat is confirmed', async () => {
  const { owner } = await pair({ HOLDFAST_HEARTBEAT_MS: '100', HOLDFAST_SELF_FENCE_MS: '300' });
  const one = await post(owner.at.url, ask(), thread);
  owner.beats(false);
  await until(async () => !(await owner.at.bridge.readiness()).ready);
  const started = owner.count('start');
  const two = post(owner.at.url, ask({ previous_response_id: one.body.id, input: [user('two')] }), thread);
  const asked = owner.count('heartbeat');
  await until(() => owner.count('heartbeat') > asked + 2);
  expect(owner.count('start')).toBe(started);
  owner.beats(true);
  expect((await two).status).toBe(200);
});

it('A worker that is unreachable but renews its lease loses its idle sessions, and only after that', async () => {
  const { way, owner, other } = await pair({ HOLDFAST_HEARTBEAT_MS: '100', HOLDFAST_OWNER_POLL_MS: '50' });
  const one = await post(owner.at.url, ask(), thread);
  way.hold();
  const beats = owner.count('heartbeat');
  const two = await post(other.at.url, ask({ previous_response_id: one.body.id, input: [user('two')] }), thread);
  expect([two.status, two.headers['x-holdfast-outcome']]).toEqual([200, 'stale_recovery']);
  expect(owner.count('heartbeat') - beats).toBeGreaterThanOrEqual(3);
});
