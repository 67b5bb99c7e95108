import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type SessionStore, StoreUnavailable } from '../../src/store/port.ts';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { freshDatabase } from '../support/database.ts';
import { busyLane, idleLane, type Lane, LEASE_MS, newWorker } from './calls.ts';
import { type FaultyProxy, faultyProxy } from './faulty-proxy.ts';
import { type SecondConnection, secondConnection, waiting } from './second-connection.ts';

let database: Awaited<ReturnType<typeof freshDatabase>>;
let proxy: FaultyProxy;
/** Connects through the proxy, with two connections and a short deadline. */
let store: SessionStore;
let witness: SessionStore;
let holder: SecondConnection;
const statements: string[] = [];

beforeAll(async () => {
  database = await freshDatabase();
  proxy = await faultyProxy(database.url);
  witness = await openPostgresStore({
    url: database.url,
    poolSize: 2,
    // Not the subject here, so it must not end a call on a busy machine.
    statementTimeoutMs: 60_000,
    onStatement: (name) => statements.push(name),
  });
  store = await openPostgresStore({ url: proxy.url, poolSize: 2, statementTimeoutMs: 400 });
  holder = await secondConnection(database.url);
});
afterAll(async () => {
  await holder.end();
  await Promise.all([store.shutdown(), witness.shutdown()]);
  await proxy.close();
  await database.drop();
});

/**
 * Returns the verdict of a call that is repeated until it is answered: on a busy machine a new connection may take too
 * long.
 */
async function answered(call: () => Promise<{ verdict: string }>): Promise<string> {
  for (;;) {
    const { verdict } = await call();
    if (verdict !== 'unknown') return verdict;
  }
}

/** Opens both connections: the first attempts may take longer than the deadline. */
async function warm({ scope, sessionId }: Lane): Promise<void> {
  const read = () => store.session(scope, sessionId);
  while (!(await Promise.all([read(), read()]).catch(() => null)));
}

describe('a half-open connection', () => {
  test('A call on a half-open connection returns unknown within the deadline, and the connection is replaced', async () => {
    const idle = await idleLane(witness, await newWorker(witness));
    await warm(idle);
    proxy.stall();
    const start = idle.start({ expectedHead: idle.firstTurn.id });
    const [unanswered, read] = await Promise.all([
      store.start(start),
      store.session(idle.scope, idle.sessionId).catch((error: unknown) => error),
    ]);
    expect(unanswered.verdict).toBe('unknown');
    expect(read).toBeInstanceOf(StoreUnavailable);
    const before = proxy.accepted;
    expect(['ok', 'already']).toContain(await answered(() => store.start(start)));
    expect(proxy.accepted).toBeGreaterThan(before);
  });

  test('A half-open connection of the heartbeat is replaced too', async () => {
    const me = await newWorker(witness);
    await answered(() => store.heartbeat(me, 'serving', LEASE_MS));
    proxy.stall();
    expect((await store.heartbeat(me, 'serving', LEASE_MS)).verdict).toBe('unknown');
    expect(await answered(() => store.heartbeat(me, 'serving', LEASE_MS))).toBe('ok');
  });
});

describe('a locked row', () => {
  test('A call that waits for a locked row is bounded, and its repeat reports the actual result', async () => {
    const idle = await idleLane(witness, await newWorker(witness));
    const start = idle.start({ expectedHead: idle.firstTurn.id });
    await holder.begin();
    await holder.lockSession(idle.sessionId);
    expect((await store.start(start)).verdict).toBe('unknown');
    await holder.commit();
    expect(['ok', 'already']).toContain(await answered(() => store.start(start)));
    expect((await witness.session(idle.scope, idle.sessionId))?.revision).toBe(3);
  });

  test('A heartbeat is sent though every other connection waits for a locked row', async () => {
    const idle = await idleLane(witness, await newWorker(witness));
    await holder.begin();
    await holder.lockSession(idle.sessionId);
    const stuck = [witness.release(idle.hold()), witness.release(idle.hold())];
    const observer = await secondConnection(database.url);
    await waiting(observer, 2);
    expect(await witness.heartbeat(idle.me, 'serving', LEASE_MS)).toEqual({ verdict: 'ok' });
    await holder.commit();
    expect((await Promise.all(stuck)).map(({ verdict }) => verdict).sort()).toEqual(['already', 'ok']);
    await observer.end();
  });
});

test('A terminated backend leaves an unknown verdict, and the next call uses a new connection', async () => {
  const busy = await busyLane(witness, await newWorker(witness));
  await holder.begin();
  await holder.lockSession(busy.sessionId);
  const call = busy.settle(busy.firstTurn.id);
  const answer = witness.settle(call);
  const observer = await secondConnection(database.url);
  await waiting(observer);
  await observer.query(
    `select pg_terminate_backend(pid) from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock'`,
  );
  expect((await answer).verdict).toBe('unknown');
  await holder.commit();
  expect((await witness.settle(call)).verdict).toBe('ok');
  await observer.end();
});

test('A turn costs two statements, and a look-up and a lineage one each', async () => {
  const idle = await idleLane(witness, await newWorker(witness));
  statements.length = 0;
  const start = idle.start({ expectedHead: idle.firstTurn.id });
  await witness.start(start);
  await witness.settle(idle.settle(start.turn.id));
  await witness.lookup({ scope: 'local', anchor: 'a', tokenSessionId: idle.sessionId, hardKey: null });
  await witness.lineage('local', start.turn.id);
  expect(statements).toEqual(['holdfast_start', 'holdfast_settle', 'holdfast_lookup', 'holdfast_lineage']);
});
