import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startEmbeddedPostgres } from '../../src/store/embedded/index.ts';
import { type SessionStore, StoreUnavailable } from '../../src/store/port.ts';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { freshDatabase } from '../support/database.ts';
import { idleLane, newWorker } from './calls.ts';
import { type SecondConnection, secondConnection } from './second-connection.ts';

const POOL = 4;

let database: Awaited<ReturnType<typeof freshDatabase>>;
/** A store with a short time limit. */
let store: SessionStore;
let witness: SessionStore;
let holder: SecondConnection;
let observer: SecondConnection;

beforeAll(async () => {
  database = await freshDatabase();
  store = await openPostgresStore({ url: database.url, poolSize: POOL, statementTimeoutMs: 500 });
  witness = await openPostgresStore({ url: database.url, poolSize: 1 });
  holder = await secondConnection(database.url);
  observer = await secondConnection(database.url);
});
afterAll(async () => {
  await Promise.all([holder.end(), observer.end(), store.shutdown(), witness.shutdown()]);
  await database.drop();
});

/** Returns the number of server processes that work for the store, and of those that wait for a lock. */
async function backends(): Promise<{ all: number; waiting: number }> {
  const [row] = await observer.query<{ all: number; waiting: number }>(
    `select count(*)::int as all, (count(*) filter (where wait_event_type = 'Lock'))::int as waiting
       from pg_stat_activity where datname = current_database() and application_name = 'holdfast' and pid <> pg_backend_pid()`,
  );
  return row!;
}

test('The server ends calls that wait for a lock too long: never more processes than twice the connections, and none remains', async () => {
  const idle = await idleLane(witness, await newWorker(witness));
  await holder.begin();
  await holder.query('lock table turn in access exclusive mode');
  const wave = () =>
    Promise.all([
      ...Array.from({ length: 25 }, () => store.turn(idle.scope, idle.firstTurn.id).catch((error: unknown) => error)),
      ...Array.from({ length: 25 }, () => store.start(idle.start({ expectedHead: idle.firstTurn.id }))),
    ]);
  let ended = false;
  let most = 0;
  const all = (async () => {
    for (let count = 0; count < 4; count += 1) {
      const answers = await wave();
      expect(answers.slice(0, 25).every((answer) => answer instanceof StoreUnavailable)).toBe(true);
      expect(answers.slice(25).map((answer) => (answer as { verdict: string }).verdict)).toEqual(
        Array.from({ length: 25 }, () => 'unknown'),
      );
    }
  })().finally(() => {
    ended = true;
  });
  while (!ended) most = Math.max(most, (await backends()).all);
  await all;
  // A process whose call timed out here slightly earlier may still be ending beside its successor.
  expect(most).toBeLessThanOrEqual(2 * POOL);
  // The lock is still held: a process that ends does so at its time limit.
  while ((await backends()).waiting > 0);
  await holder.rollback();
  expect((await witness.turn(idle.scope, idle.firstTurn.id))?.id).toBe(idle.firstTurn.id);
});

test('A commit that waits for its synchronous replica is cancelled by neither side', async () => {
  // A separate server, because the setting applies to a whole server.
  const dataDir = await mkdtemp(join(tmpdir(), 'hf-limits-'));
  const server = await startEmbeddedPostgres({ dataDir, settings: ['synchronous_standby_names=none_such'] });
  // Everything except the call under test commits at once.
  const at = new pg.Client({ connectionString: server.url });
  await at.connect();
  await at.query('set synchronous_commit = local');
  await at.query(`alter role holdfast set synchronous_commit = local`);
  const lenient = await openPostgresStore({ url: server.url });
  const idle = await idleLane(lenient, await newWorker(lenient));
  await lenient.shutdown();
  await at.query('alter role holdfast reset synchronous_commit');
  // Opening writes nothing when no migration is pending.
  const strict = await openPostgresStore({ url: server.url, statementTimeoutMs: 400 });
  try {
    const start = idle.start({ expectedHead: idle.firstTurn.id });
    expect((await strict.start(start)).verdict).toBe('unknown');
    expect((await strict.start(start)).verdict).toBe('unknown');
    const { rows } = await at.query(
      `select (select count(*)::int from pg_stat_activity where wait_event = 'SyncRep') as waiting,
              (select count(*)::int from holdfast.turn where id = $1) as seen`,
      [start.turn.id],
    );
    // Otherwise the turn of a cancelled wait would be visible, would count as recorded, and could be lost with this
    // server.
    expect(rows).toEqual([{ waiting: 1, seen: 0 }]);
  } finally {
    await at.end();
    await strict.shutdown();
    await server.stop();
    await rm(dataDir, { recursive: true, force: true });
  }
}, 120_000);

test('A row with deeply nested JSON, as another program may have written it, is read like any other', async () => {
  const idle = await idleLane(witness, await newWorker(witness));
  const deep = `${'['.repeat(6_000)}${']'.repeat(6_000)}`;
  await observer.query('update bridge_session set snapshot = $2 where id = $1', [idle.sessionId, deep]);
  await observer.query('update turn set usage = $2 where id = $1', [idle.firstTurn.id, deep]);
  expect((await witness.session(idle.scope, idle.sessionId))!.id).toBe(idle.sessionId);
  expect((await witness.turn(idle.scope, idle.firstTurn.id))!.id).toBe(idle.firstTurn.id);
});
