import { describe, expect, it } from 'vitest';
import { type Membership, startMembership } from '../../src/cluster/membership.ts';
import { readConfig } from '../../src/config.ts';
import { createMemoryDatabase, createMemoryStore } from '../../src/store/memory/index.ts';
import type { SessionStore } from '../../src/store/port.ts';
import { createManualClock } from '../../src/testing/index.ts';
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

describe('a worker', () => {
  it('is registered before it serves, and heartbeats keep its lease', async () => {
    const { scripted, join, pass } = world();
    const member = await join();
    expect(await stateOf(scripted.store, member)).toBe('serving');
    await pass(60_000);
    const [row] = await scripted.store.workers();
    expect(row!.leaseLeftMs).toBeGreaterThan(deadlines.lease - 2 * deadlines.heartbeat);
    expect(member.mayStart()).toBe(true);
    await member.stop();
  });

  it('keeps trying while the store does not answer its registration', async () => {
    const { scripted, join, pass } = world();
    for (let i = 0; i < 3; i += 1) scripted.once('register', unanswered);
    const joined = join();
    await settle();
    await pass(2_000);
    expect((await joined).mayStart()).toBe(true);
    expect(scripted.calls.filter((name) => name === 'register')).toHaveLength(4);
    await (await joined).stop();
  });

  it('is not registered when others would not find it', async () => {
    const { scripted, join } = world();
    const announce = async () => {
      throw new Error('nobody answers there');
    };
    await expect(join({ announce })).rejects.toThrow('nobody answers there');
    expect(await scripted.store.workers()).toEqual([]);
  });

  it('starts nothing once its last confirmed heartbeat was sent too long ago, and goes on when one is confirmed', async () => {
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

  it('measures its fence from before the heartbeat was sent, however long the answer took', async () => {
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

  it('judges others only after a whole lease without a gap of its own', async () => {
    const { scripted, join, pass } = world();
    const member = await join();
    expect(member.mayJudge()).toBe(false);
    await pass(deadlines.lease);
    expect(member.mayJudge()).toBe(true);
    for (let i = 0; i < 12; i += 1) scripted.once('heartbeat', unanswered);
    await pass(12_000);
    expect(member.mayJudge()).toBe(false);
    await pass(12_000);
    expect(member.mayJudge()).toBe(true);
    await member.stop();
  });

  it('that was declared dead begins again under another id, and says so once', async () => {
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

  it('that drains says so, and its last act is its own death', async () => {
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

it('a worker that falls silent can be declared dead by one that was awake all the while, and not before its lease ran out', async () => {
  const { scripted, join, pass } = world();
  const silent = await join();
  const awake = await join();
  for (let i = 0; i < 40; i += 1) {
    scripted.once('heartbeat', async (send, id, ...rest) => (id === silent.id ? unanswered() : send(id, ...rest)));
  }
  await pass(deadlines.lease - deadlines.heartbeat);
  expect(await scripted.store.declareExpired(silent.id)).toEqual({ verdict: 'alive' });
  await pass(deadlines.heartbeat + 1_000);
  expect(awake.mayJudge()).toBe(true);
  expect(await scripted.store.declareExpired(silent.id)).toEqual({ verdict: 'dead' });
  expect(await scripted.store.declareExpired(awake.id)).toEqual({ verdict: 'alive' });
  await awake.stop();
});

it('a worker whose row was lost restores it under its own id, and a doubted lease is settled by a heartbeat at once', async () => {
  const { clock, database, scripted, join, pass, died } = world();
  const member = await join({ internalUrl: 'http://a' });
  const { id } = member;
  // A failover lost the row, and another worker has met the id meanwhile.
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
  // One that was not answered is repeated long before the next would be due.
  clock.advance(500);
  await settle();
  expect(scripted.calls.filter((name) => name === 'heartbeat').length).toBe(beats + 1);
  await member.stop();
});
