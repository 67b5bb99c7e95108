import pg from 'pg';
import { expect, it } from 'vitest';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { completed, lane, turnStart } from '../store/calls.ts';
import { startTestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { freshDatabase } from '../support/database.ts';
import { user } from '../support/messages.ts';

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

it('workers of this release go on while a newer one has migrated the database, and keep what it made', async () => {
  const database = await freshDatabase();
  const open = () => openPostgresStore({ url: database.url, poolSize: 2 });
  const first = await open();
  const registration = { internalUrl: null, livenessPath: null, version: 'this', leaseMs: 60_000 };
  await first.register({ ...registration, id: 'one' });
  const mine = lane('one');
  expect((await first.create(mine.create)).verdict).toBe('ok');
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  const source = async () =>
    (await client.query(`select pg_get_functiondef('holdfast.holdfast_claim'::regproc) as text`)).rows[0]
      .text as string;
  const later = (await source()).replaceAll(`'lostTurnId', s`, `'later', null, 'lostTurnId', s`);
  await client.query(`begin;
    set local search_path = holdfast;
    alter table turn add column later text;
    alter table active_turn add column later text;
    create or replace view any_turn as select * from turn union all select * from active_turn;
    alter table bridge_session add column later text;
    ${later};
    insert into holdfast_migrations (name) values ('0002-later');
    commit`);
  const newer = await source();
  expect((await first.settle(mine.settle(mine.firstTurn.id, completed()))).verdict).toBe('ok');

  const second = await open();
  expect(await source()).toBe(newer);
  await second.register({ ...registration, id: 'two' });
  const row = (await second.session(mine.scope, mine.sessionId))!;
  const read = { epochRead: row.epoch, revisionRead: row.revision };
  const taken = await second.claim({ me: 'two', nonce: 'n', scope: row.scope, sessionId: row.id, ...read });
  expect(taken).toMatchObject({ verdict: 'row', row: { headTurnId: mine.firstTurn.id } });
  const late = mine.start({ expectedHead: mine.firstTurn.id, turn: turnStart() });
  expect((await first.start(late)).verdict).toBe('fenced');
  expect(await second.lineage(mine.scope, mine.firstTurn.id)).toHaveLength(1);
  await Promise.all([first.shutdown(), second.shutdown(), client.end()]);
  await database.drop();
});
