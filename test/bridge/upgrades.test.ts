import { Migrator } from '@mikro-orm/migrations';
import { MikroORM } from '@mikro-orm/postgresql';
import pg from 'pg';
import { expect, it } from 'vitest';
import { systemClock } from '../../src/clock.ts';
import { entities } from '../../src/store/entities.ts';
import { migrationsList } from '../../src/store/migrations/index.ts';
import { createCall } from '../../src/store/postgres/call.ts';
import { createExecutor } from '../../src/store/postgres/executor.ts';
import { createFence } from '../../src/store/postgres/fence.ts';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { completed, lane, turnStart } from '../store/calls.ts';
import { startTestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { freshDatabase } from '../support/database.ts';

const user = (text: string) => ({ type: 'message', role: 'user', content: [{ type: 'input_text', text }] });

it('A worker that reads a snapshot of a newer machine version recovers the session from its columns', async () => {
  const at = await startTestBridge();
  const headers = { 'thread-id': 't' };
  const first = await post(at.url, { model: 'm', stream: true, store: false, input: [user('one')] }, headers);
  await at.bridge.close();
  const client = new pg.Client({ connectionString: at.databaseUrl });
  await client.connect();
  await client.query(`update bridge_session set machine_version = 99, snapshot = '{"value":"tomorrow","context":7}'`);
  await client.end();
  await at.restart();
  const input = [user('one'), ...first.body.output, user('two')];
  const second = await post(at.url, { model: 'm', stream: true, store: false, input }, headers);
  expect(second.headers['x-holdfast-outcome']).toBe('stale_recovery');
  expect(second.headers['x-holdfast-session']).toBe(first.headers['x-holdfast-session']);
  expect(digestOf(second.body)).toBe(expectedDigest({ items: input as never }));
  await at.close();
});

it('Workers of the previous release keep serving after a newer one has migrated the database, and each takes over from the other', async () => {
  const database = await freshDatabase({ empty: true });
  // Schema and statements as a worker of the first release creates and sends them.
  const orm = await MikroORM.init({
    clientUrl: database.url,
    entities,
    extensions: [Migrator],
    migrations: {
      migrationsList: migrationsList.slice(0, 2),
      tableName: 'holdfast_migrations',
      snapshot: false,
      silent: true,
    },
  });
  await orm.migrator.up();
  await orm.close(true);
  const pool = new pg.Pool({ connectionString: database.url, max: 2 });
  const old = createFence(createCall(createExecutor({ pool, schema: 'public', timeoutMs: 2_000, clock: systemClock })));
  const register = (id: string) =>
    pool.query('select holdfast_register($1, null, null, $2, 60000)', [id, 'release before']);
  await register('old');
  const mine = lane('old');
  expect((await old.create(mine.create)).verdict).toBe('ok');

  const newer = await openPostgresStore({ url: database.url, poolSize: 2 });
  await newer.register({ id: 'new', internalUrl: null, livenessPath: null, version: 'now', leaseMs: 60_000 });
  expect((await old.settle(mine.settle(mine.firstTurn.id, completed()))).verdict).toBe('ok');
  const row = (await newer.session(mine.sessionId))!;
  const taken = await newer.claim({
    me: 'new',
    nonce: 'n',
    sessionId: row.id,
    epochRead: row.epoch,
    revisionRead: row.revision,
  });
  expect(taken.verdict).toBe('row');
  const late = mine.start({ expectedHead: mine.firstTurn.id, turn: turnStart() });
  expect((await old.start(late)).verdict).toBe('fenced');
  const now = (await newer.session(mine.sessionId))!;
  const back = await old.claim({
    me: 'old',
    nonce: 'm',
    sessionId: now.id,
    epochRead: now.epoch,
    revisionRead: now.revision,
  });
  expect(back.verdict).toBe('row');
  await newer.shutdown();
  await pool.end();
  await database.drop();
});
