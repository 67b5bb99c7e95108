import { randomUUID } from 'node:crypto';
import { afterEach, expect, it } from 'vitest';
import { observeStore, observeTransport } from '../../src/observe/metrics/wrappers.ts';
import { type SessionStore, StoreUnavailable } from '../../src/store/port.ts';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { systemClock } from '../../src/system.ts';
import { createManualClock } from '../../src/testing/index.ts';
import { createMemoryStore } from '../../src/testing/memory-store/index.ts';
import type { DialResult, UpstreamConnection, UpstreamTransport } from '../../src/upstream/port.ts';
import { saved, turnStart } from '../store/calls.ts';
import { freshDatabase } from '../support/database.ts';

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

function recorder() {
  const facts: string[] = [];
  return {
    facts,
    metrics: {
      storeAnswered: (call: string, verdict: string) => void facts.push(`${call} ${verdict}`),
      storeRead: (call: string, _ms: number, failed: boolean) =>
        void facts.push(`${call} ${failed ? 'failed' : 'read'}`),
      takeover: (lostTurn: boolean) => void facts.push(`takeover ${lostTurn}`),
      heartbeatConfirmed: (sentAt: number) => void facts.push(`confirmed ${Number.isFinite(sentAt)}`),
    },
  };
}

const worker = (id: string, leaseMs: number) => ({ id, internalUrl: null, livenessPath: null, version: '1', leaseMs });

it('The store wrapper counts verdicts, takeovers and confirmed heartbeats of a real store, and changes no answer', async () => {
  const database = await freshDatabase();
  cleanups.push(() => database.drop());
  const inner = await openPostgresStore({ url: database.url });
  cleanups.push(() => inner.shutdown());
  const { facts, metrics } = recorder();
  const store = observeStore(inner, metrics, systemClock);
  const [one, two] = [randomUUID(), randomUUID()];
  const sessionId = randomUUID();
  await store.register(worker(one, 600_000));
  await store.register(worker(two, 600_000));
  const turn = turnStart();
  const writer = { me: one, nonce: randomUUID(), scope: 'local' };
  const created = await store.create({
    ...writer,
    sessionId,
    keys: [],
    upstreamId: 'upstream',
    model: null,
    headTurnId: null,
    turn,
    saved: saved(),
  });
  expect(created).toMatchObject({ verdict: 'ok', epoch: 1 });
  await store.declareDead(one);
  const row = (await store.session('local', sessionId))!;
  const read = { epochRead: row.epoch, revisionRead: row.revision };
  const claim = { ...writer, me: two, nonce: randomUUID(), sessionId, ...read };
  const answer = await store.claim(claim);
  expect(answer).toMatchObject({ verdict: 'row', lostTurnId: turn.id, row: { epoch: 2 } });
  expect(
    await store.start({ ...writer, sessionId, epoch: 1, expectedHead: null, turn: turnStart(), saved: saved() }),
  ).toEqual({ verdict: 'fenced' });
  await store.heartbeat(one, 'serving', 600_000);
  expect(await store.pepper()).toBe(await inner.pepper());
  expect(facts).toEqual([
    'register ok',
    'confirmed true',
    'register ok',
    'confirmed true',
    'create ok',
    'declareDead dead',
    'read read',
    'claim row',
    'takeover true',
    'start fenced',
    'heartbeat dead',
  ]);
});

it('The store wrapper counts unanswered calls, and rethrows read failures unchanged', async () => {
  const memory = createMemoryStore({ clock: createManualClock() });
  const { facts, metrics } = recorder();
  const store = observeStore(memory, metrics, systemClock);
  await memory.shutdown();
  expect(await store.heartbeat('w', 'serving', 1)).toMatchObject({ verdict: 'unknown' });
  await expect(store.session('local', 's')).rejects.toBeInstanceOf(StoreUnavailable);
  expect(facts).toEqual(['heartbeat unknown', 'read failed']);
});

it('The store wrapper leaves unknown calls on the store itself', () => {
  const inner = { ...createMemoryStore({ clock: createManualClock() }), unheardOf: () => 'reached' };
  const store = observeStore(inner, recorder().metrics, systemClock) as SessionStore & { unheardOf(): string };
  expect(store.unheardOf()).toBe('reached');
});

it('The transport wrapper counts handshakes by result, and connections until they are closed', async () => {
  const connection = { open: true } as { open: boolean } & UpstreamConnection;
  const results: DialResult[] = [
    { kind: 'open', connection, headers: {} },
    { kind: 'failed', reason: 'reset' },
    {
      kind: 'failed',
      reason: 'refused',
      unreachable: { text: 'ECONNREFUSED at u', kind: 'refused', final: true, byProxy: false },
    },
    { kind: 'refused', answer: { status: 403, headers: {}, body: Buffer.alloc(0) } },
  ];
  const inner = { dial: async () => results.shift()! } as unknown as UpstreamTransport;
  const seen: string[] = [];
  const causes: string[] = [];
  const observed = observeTransport(
    inner,
    { upstreamConnect: (result) => void seen.push(result), upstreamFailed: (cause) => void causes.push(cause) },
    systemClock,
  );
  const request = { target: { id: 'u', baseUrl: 'http://u' }, headers: {}, timeoutMs: 1 };
  expect(await observed.transport.dial(request)).toMatchObject({ connection });
  for (let dial = 0; dial < 3; dial += 1) await observed.transport.dial(request);
  expect(seen).toEqual(['opened', 'failed', 'failed', 'refused']);
  expect(causes).toEqual(['other', 'refused', 'http_4xx']);
  expect(observed.open).toBe(1);
  (connection as { open: boolean }).open = false;
  expect(observed.open).toBe(0);
});
