import { describe, expect, it } from 'vitest';
import { type Membership, startMembership } from '../../src/cluster/membership.ts';
import { readConfig } from '../../src/config.ts';
import type { SessionStore } from '../../src/store/port.ts';
import { createManualClock } from '../../src/testing/index.ts';
import { createMemoryDatabase, createMemoryStore } from '../../src/testing/memory-store/index.ts';
import { scriptStore } from '../support/scripted-store.ts';

const { deadlines } = readConfig({});
const quiet = { info() {}, warn() {} };
const settle = async () => {
  for (let i = 0; i < 30; i += 1) await Promise.resolve();
};
const unanswered = async () => ({ verdict: 'unknown' as const, reason: 'no answer' });

function world() {
  const clock = createManualClock();
  const database = createMemoryDatabase('5eed'.repeat(16));
  const scripted = scriptStore(createMemoryStore({ clock, database }));
  let count = 0;
  const died: string[] = [];
  const join = (over: Partial<Parameters<typeof startMembership>[0]> = {}) =>
    startMembership({
      store: scripted.store,
      clock,
      ids: { uuid: () => `worker-${(count += 1)}` },
      deadlines,
      version: 'test',
      internalUrl: null,
      livenessPath: null,
      onDead: (id) => died.push(id),
      log: quiet,
      ...over,
    });
  const pass = async (ms: number) => {
    for (let left = ms; left > 0; left -= 500) {
      clock.advance(Math.min(500, left));
      await settle();
    }
  };
  return { clock, database, scripted, join, pass, died };
}

const stateOf = async (store: SessionStore, { id }: Membership) =>
  (await store.workers()).find((worker) => worker.id === id)?.state;

describe('a worker’s membership', () => {
  it('A worker is registered before it serves, and its heartbeats keep the lease', async () => {
    const { scripted, join, pass } = world();
    const member = await join();
    expect(await stateOf(scripted.store, member)).toBe('serving');
    await pass(60_000);
    const [row] = await scripted.store.workers();
    expect(row!.leaseLeftMs).toBeGreaterThan(deadlines.lease - 2 * deadlines.heartbeat);
    expect(member.mayStart()).toBe(true);
    await member.stop();
  });

  it('A worker retries its registration while the store does not answer', async () => {
    const { scripted, join, pass } = world();
    for (let i = 0; i < 3; i += 1) scripted.once('register', unanswered);
    const joined = join();
    await settle();
    await pass(2_000);
    expect((await joined).mayStart()).toBe(true);
    expect(scripted.calls.filter((name) => name === 'register')).toHaveLength(4);
    await (await joined).stop();
  });

  it('A worker that other workers could not reach is not registered', async () => {
    const { scripted, join } = world();
    const announce = async () => {
      throw new Error('no worker answers there');
    };
    await expect(join({ checkReachable: announce })).rejects.toThrow('no worker answers there');
    expect(await scripted.store.workers()).toEqual([]);
  });

  it('A worker starts nothing once its last confirmed heartbeat is too old, and resumes when one is confirmed', async () => {
    const { clock, scripted, join, pass } = world();
    const member = await join();
    for (let i = 0; i < 12; i += 1) scripted.once('heartbeat', unanswered);
    await pass(deadlines.selfFence);
    expect(member.mayStart()).toBe(true);
    clock.advance(1);
    expect(member.mayStart()).toBe(false);
    await pass(9_000);
    expect(member.mayStart()).toBe(true);
    await member.stop();
  });

  it('A worker measures its self-fence from before the heartbeat was sent, however long the answer took', async () => {
    const { clock, scripted, join } = world();
    const member = await join();
    let answer = () => {};
    scripted.once(
      'heartbeat',
      (pass, ...call) => new Promise((done) => (answer = () => void pass(...call).then(done))),
    );
    clock.advance(deadlines.heartbeat);
    await settle();
    clock.advance(1_500);
    answer();
    await settle();
    clock.advance(deadlines.selfFence - 1_500);
    expect(member.mayStart()).toBe(true);
    clock.advance(1);
    expect(member.mayStart()).toBe(false);
    await member.stop();
  });

  it('A worker judges others only after a whole lease without a gap of its own', async () => {
    const { scripted, join, pass } = world();
    const member = await join();
    expect(member.mayDeclareDead()).toBe(false);
    await pass(deadlines.lease);
    expect(member.mayDeclareDead()).toBe(true);
    for (let i = 0; i < 12; i += 1) scripted.once('heartbeat', unanswered);
    await pass(12_000);
    expect(member.mayDeclareDead()).toBe(false);
    await pass(12_000);
    expect(member.mayDeclareDead()).toBe(true);
    await member.stop();
  });

  it('A worker that was declared dead registers again under another id, and reports it once', async () => {
    const { scripted, join, pass, died } = world();
    const member = await join();
    const before = member.id;
    await scripted.store.declareDead(before);
    await pass(deadlines.heartbeat * 2);
    expect(member.id).not.toBe(before);
    expect(died).toEqual([before]);
    expect(member.mayStart()).toBe(true);
    const states = (await scripted.store.workers()).map(({ id, state }) => [id, state]);
    expect(states).toEqual([
      [before, 'dead'],
      [member.id, 'serving'],
    ]);
    await member.stop();
  });

  it('A worker that drains announces it, and records its own death last', async () => {
    const { scripted, join, pass } = world();
    const member = await join();
    member.drain();
    await pass(deadlines.heartbeat);
    expect(member.draining).toBe(true);
    expect(await stateOf(scripted.store, member)).toBe('draining');
    await member.stop();
    expect(await stateOf(scripted.store, member)).toBe('dead');
    expect(member.mayStart()).toBe(false);
  });
});

it('A silent worker can be declared dead by one that was awake all the time, and not before its lease expired', async () => {
  const { scripted, join, pass } = world();
  const silent = await join();
  const awake = await join();
  for (let i = 0; i < 40; i += 1) {
    scripted.once('heartbeat', async (send, id, ...rest) => (id === silent.id ? unanswered() : send(id, ...rest)));
  }
  await pass(deadlines.lease - deadlines.heartbeat);
  expect(await scripted.store.declareExpired(silent.id)).toEqual({ verdict: 'alive' });
  await pass(deadlines.heartbeat + 1_000);
  expect(awake.mayDeclareDead()).toBe(true);
  expect(await scripted.store.declareExpired(silent.id)).toEqual({ verdict: 'dead' });
  expect(await scripted.store.declareExpired(awake.id)).toEqual({ verdict: 'alive' });
  await awake.stop();
});

it('A worker whose row was lost restores it under its own id, and a doubted lease is settled by an immediate heartbeat', async () => {
  const { clock, database, scripted, join, pass, died } = world();
  const member = await join({ internalUrl: 'http://a' });
  const { id } = member;
  // A failover lost the row, and another worker has seen the id since.
  scripted.once('heartbeat', async (beat, ...call) => {
    database.workers.delete(id);
    await scripted.store.declareExpired(id);
    return beat(...call);
  });
  member.doubt();
  expect(member.mayStart()).toBe(false);
  await settle();
  expect(member.mayStart()).toBe(true);
  await pass(deadlines.heartbeat);
  expect([member.id, died]).toEqual([id, []]);
  expect((await scripted.store.workers()).find((row) => row.id === id)?.internalUrl).toBe('http://a');
  scripted.once('heartbeat', unanswered);
  await pass(deadlines.heartbeat);
  const beats = scripted.calls.filter((name) => name === 'heartbeat').length;
  // An unanswered heartbeat is repeated long before the next one would be due.
  clock.advance(500);
  await settle();
  expect(scripted.calls.filter((name) => name === 'heartbeat').length).toBe(beats + 1);
  await member.stop();
});
