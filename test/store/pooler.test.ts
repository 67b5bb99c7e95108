import pg from 'pg';
import { afterEach, describe, expect, test } from 'vitest';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { inWorld } from '../chaos/world.ts';
import { freshDatabase } from '../support/database.ts';
import { hasPgbouncer, type PgbouncerOptions, startPgbouncer } from '../support/pgbouncer.ts';
import { idleLane, newWorker } from './calls.ts';

const cleanUps: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  while (cleanUps.length > 0) await cleanUps.pop()!();
});

async function pooled(options: PgbouncerOptions) {
  const database = await freshDatabase();
  cleanUps.push(() => database.drop());
  const pooler = await startPgbouncer(database.url, options);
  cleanUps.push(() => pooler.close());
  return { url: pooler.url, directUrl: database.url };
}

async function connected(url: string) {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  cleanUps.push(() => client.end());
  return client;
}

if (!hasPgbouncer) console.log('no pgbouncer: the tests behind a pooler are skipped');

describe.skipIf(!hasPgbouncer)('behind PgBouncer', () => {
  test.each(['transaction', 'session'] as const)(
    'Two workers hold conversations behind PgBouncer in %s mode',
    async (mode) => {
      // In session mode every connection of a worker uses one server connection; in transaction mode a few serve all.
      const { url } = await pooled({ mode, size: mode === 'session' ? 40 : 3 });
      const { tally } = await inWorld({ seed: 7, databaseUrl: url, workers: 2, conversations: 6 }, async (world) => {
        await world.talk(4);
      });
      expect(tally).toMatchObject({ turns: 24, wrong: 0, badTerminals: 0, lost: [] });
    },
    300_000,
  );

  test('Behind PgBouncer nothing is left on the server connections, and settings left there by others have no effect', async () => {
    const { url, directUrl } = await pooled({ mode: 'transaction', size: 1 });
    // One server connection for all clients: settings that the application leaves on it are there when the store uses
    // it.
    const application = await connected(url);
    await application.query('create table public.turn (id integer)');
    await application.query('create temporary table worker (id integer)');
    await application.query('create temporary table bridge_session (id integer)');
    await application.query('prepare holdfast_settings as select 1');
    await application.query('prepare holdfast_start as select 1');
    await application.query('set search_path = public');
    await application.query("set statement_timeout = '1h'");
    const store = await openPostgresStore({ url, poolSize: 3 });
    cleanUps.push(() => store.shutdown());
    const idle = await idleLane(store, await newWorker(store));
    const calls = await Promise.all(
      Array.from({ length: 30 }, () =>
        store.lookup({ scope: 'local', anchor: 'a', tokenSessionId: idle.sessionId, hardKey: null }),
      ),
    );
    expect(calls.every(({ token }) => token?.id === idle.sessionId)).toBe(true);
    expect((await application.query('show search_path')).rows).toEqual([{ search_path: 'public' }]);
    expect((await application.query('show statement_timeout')).rows).toEqual([{ statement_timeout: '1h' }]);
    const prepared = await application.query('select name from pg_prepared_statements order by name');
    expect(prepared.rows.map(({ name }) => name)).toEqual(['holdfast_settings', 'holdfast_start']);
    const direct = await connected(directUrl);
    expect((await direct.query('select from holdfast.turn')).rowCount).toBe(1);
    expect((await direct.query('select from public.turn')).rowCount).toBe(0);
  });

  test('Workers that start together behind one server connection migrate the database once', async () => {
    const { url, directUrl } = await pooled({ mode: 'transaction', size: 1 });
    const stores = await Promise.all([1, 2, 3].map(() => openPostgresStore({ url, poolSize: 1 })));
    for (const store of stores) cleanUps.push(() => store.shutdown());
    expect(new Set(await Promise.all(stores.map((store) => store.pepper()))).size).toBe(1);
    const direct = await connected(directUrl);
    expect((await direct.query('select from holdfast.holdfast_migrations')).rowCount).toBeGreaterThan(0);
  });
});
