import { expect, it } from 'vitest';
import { createFailureDetector } from '../../src/cluster/failure-detector.ts';
import { createManualClock } from '../../src/testing/index.ts';
import { createMemoryDatabase, createMemoryStore } from '../../src/testing/memory-store/index.ts';

const LEASE = 10_000;

function world(mayDeclareDead = true) {
  const clock = createManualClock();
  const database = createMemoryDatabase('0'.repeat(64));
  const store = createMemoryStore({ clock, database });
  const register = (id: string) =>
    store.register({ id, internalUrl: 'http://a', livenessPath: null, version: '1', leaseMs: LEASE });
  return {
    clock,
    database,
    store,
    register,
    ...createFailureDetector(store, () => mayDeclareDead),
  };
}

it('A worker without a row is given one, and is declared dead when that lease has expired', async () => {
  const { clock, database, liveness } = world();
  expect(await liveness('lost')).toBe('alive');
  expect(database.workers.get('lost')).toMatchObject({ state: 'serving', version: 'unknown' });
  clock.advance(LEASE + 1);
  expect(await liveness('lost')).toBe('dead');
});

it('A worker that was not continuously alive itself declares no other worker dead', async () => {
  const { clock, register, liveness } = world(false);
  await register('late');
  clock.advance(LEASE + 1);
  expect(await liveness('late')).toBe('alive');
});

it('A silent peer is slow while it may still answer, unreachable when it renews its lease without answering, dead once its death is stored', async () => {
  const { clock, store, register, patience } = world();
  await register('peer');
  const beat = () => {
    clock.advance(10);
    return store.heartbeat('peer', 'serving', LEASE);
  };
  const slow = patience('peer');
  // Repeated checks change nothing: the peer has not renewed its lease since.
  for (let i = 0; i < 10; i += 1) expect(await slow.ask()).toBe('slow');
  for (let i = 0; i < 2; i += 1) {
    await beat();
    expect(await slow.ask()).toBe('slow');
  }
  slow.heard();
  for (let i = 0; i < 3; i += 1) {
    expect(await slow.ask()).toBe('slow');
    await beat();
  }
  expect(await slow.ask()).toBe('unreachable');
  const dying = patience('peer');
  expect(await dying.ask()).toBe('slow');
  clock.advance(LEASE + 1);
  expect(await dying.ask()).toBe('dead');
});

it('A peer is unreachable once three connections in a row were closed before an answer', async () => {
  const { register, patience } = world();
  await register('peer');
  const behindRelay = patience('peer');
  for (let i = 0; i < 2; i += 1) {
    behindRelay.dropped();
    expect(await behindRelay.ask()).toBe('slow');
  }
  behindRelay.heard();
  behindRelay.dropped();
  expect(await behindRelay.ask()).toBe('slow');
  behindRelay.dropped();
  behindRelay.dropped();
  expect(await behindRelay.ask()).toBe('unreachable');
});
