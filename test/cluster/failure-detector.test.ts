import { mkdtemp, rename, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { createFailureDetector } from '../../src/cluster/failure-detector.ts';
import { createManualClock } from '../../src/testing/index.ts';
import { createMemoryDatabase, createMemoryStore } from '../../src/testing/memory-store/index.ts';

const LEASE = 10_000;

/** Returns the path of a Unix socket on which no process listens any more. */
async function abandonedSocket(): Promise<string> {
  const home = await mkdtemp(join(tmpdir(), 'hf-liveness-'));
  onTestFinished(() => rm(home, { recursive: true }));
  const [path, left] = [join(home, 'open.sock'), join(home, 'left.sock')];
  const server = createServer();
  await new Promise<void>((listening) => server.listen(path, listening));
  // Closing a server removes its file from the path where it began to listen.
  await rename(path, left);
  await new Promise((closed) => server.close(closed));
  return left;
}

function world(mayDeclareDead = true) {
  const clock = createManualClock();
  const database = createMemoryDatabase('0'.repeat(64));
  const store = createMemoryStore({ clock, database });
  const register = (id: string, livenessPath: string | null = null) =>
    store.register({ id, internalUrl: 'http://a', livenessPath, version: '1', leaseMs: LEASE });
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

it('A refused liveness socket proves a death while the lease is still valid, a missing one proves nothing', async () => {
  const { database, register, liveness } = world(false);
  const path = await abandonedSocket();
  await register('killed', path);
  await register('unknown', `${path}.none`);
  expect(await liveness('unknown')).toBe('alive');
  expect(await liveness('killed')).toBe('dead');
  expect(database.workers.get('killed')?.state).toBe('dead');
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
