import { Migrator } from '@mikro-orm/migrations';
import { MikroORM } from '@mikro-orm/postgresql';
import pg from 'pg';
import { afterEach, describe, expect, test } from 'vitest';
import { purgeKinds } from '../../src/store/admin-port.ts';
import { entities } from '../../src/store/entities.ts';
import { migrationsList } from '../../src/store/migrations/index.ts';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { assertServer, placeOf } from '../../src/store/postgres/unusable.ts';
import { freshDatabase } from '../support/database.ts';
import { completed, face, idleLane, newWorker } from './calls.ts';

const cleanUps: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  while (cleanUps.length > 0) await cleanUps.pop()!();
});

async function emptyDatabase(): Promise<string> {
  const database = await freshDatabase({ empty: true });
  cleanUps.push(() => database.drop());
  return database.url;
}

async function opened(url: string) {
  const store = await openPostgresStore({ url, poolSize: 2 });
  cleanUps.push(() => store.shutdown());
  return store;
}

async function openedIn(url: string, schema: string) {
  const store = await openPostgresStore({ url, poolSize: 2, schema });
  cleanUps.push(() => store.shutdown());
  return store;
}

async function query<Row extends pg.QueryResultRow>(url: string, sql: string): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query<Row>(sql)).rows;
  } finally {
    await client.end();
  }
}

describe('opening a database', () => {
  test('Workers that start together on an empty database all succeed, and migrate it once', async () => {
    const url = await emptyDatabase();
    const stores = await Promise.all([opened(url), opened(url), opened(url)]);
    const peppers = await Promise.all(stores.map((store) => store.pepper()));
    expect(new Set(peppers).size).toBe(1);
    const applied = await query<{ name: string }>(url, 'select name from holdfast_migrations order by id');
    expect(applied.map(({ name }) => name)).toEqual([
      '0001-tables',
      '0002-fence',
      '0003-stories',
      '0004-shared-items',
      '0005-turn-facts',
      '0006-operate',
      '0007-lines',
      '0008-written-once',
      '0009-purge',
      '0010-repeats',
      '0011-lost-rows',
    ]);
  });

  test('A second start migrates nothing and keeps the pepper', async () => {
    const url = await emptyDatabase();
    const pepper = await (await opened(url)).pepper();
    expect(await (await opened(url)).pepper()).toBe(pepper);
  });

  test('Turns that an older release left active are moved to the active turns, and end as usual', async () => {
    const url = await emptyDatabase();
    const orm = await MikroORM.init({
      clientUrl: url,
      entities,
      extensions: [Migrator],
      migrations: { migrationsList, tableName: 'holdfast_migrations', snapshot: false, silent: true },
    });
    cleanUps.push(() => orm.close(true));
    await orm.migrator.up({ to: '0007-lines' });
    const session = (id: string, active: string | null, head: string | null) =>
      query(
        url,
        `insert into bridge_session (id, scope, state, machine_version, revision, epoch, upstream_id, owner_worker_id,
                                     owner_nonce, active_turn_id, head_turn_id, updated_at)
         values ('${id}', 'local', 'live', 1, 1, 1, 'u', 'w', 'n', ${active && `'${active}'`}, ${head && `'${head}'`},
                 '2026-01-02 03:45:06+00')`,
      );
    const turn = (id: string, sessionId: string, state: string) =>
      query(
        url,
        `insert into turn (id, session_id, scope, epoch, author_worker_id, shape, state, request_fp, context_fp,
                           replay, stored_upstream, credential_fp)
         values ('${id}', '${sessionId}', 'local', 1, 'w', 'fresh', '${state}', 'r', 'c', 'never', false, 'f')`,
      );
    await session('s', 'running', 'ended');
    await turn('ended', 's', 'completed');
    await turn('running', 's', 'active');
    await session('fork', null, 'ended');

    const store = await opened(url);
    expect(await query(url, 'select id from active_turn')).toEqual([{ id: 'running' }]);
    expect(await query(url, 'select id from only turn')).toEqual([{ id: 'ended' }]);
    const places = 'select id, fork_turn_id as fork, changed_hour::text as hour from bridge_session order by id';
    expect(await query(url, places)).toEqual([
      { id: 'fork', fork: 'ended', hour: '2026-01-02 03:00:00' },
      { id: 's', fork: null, hour: '2026-01-02 03:00:00' },
    ]);
    const me = { me: 'w', nonce: 'n', sessionId: 's', epoch: 1, face: face() };
    expect((await store.settle({ ...me, turnId: 'running', result: completed() })).verdict).toBe('ok');
    // A start by an older release that was in progress when the table was created.
    await turn('late', 's', 'active');
    await query(url, `update bridge_session set active_turn_id = 'late' where id = 's'`);
    expect((await store.settle({ ...me, turnId: 'late', result: completed() })).verdict).toBe('ok');
    expect(await query(url, 'select id, state from turn order by id')).toEqual(
      ['ended', 'late', 'running'].map((id) => ({ id, state: 'completed' })),
    );
  });

  test('Two databases never share a pepper', async () => {
    const [one, two] = await Promise.all([opened(await emptyDatabase()), opened(await emptyDatabase())]);
    expect(await one.pepper()).not.toBe(await two.pepper());
  });

  test('An old server is refused with a readable error', () => {
    const place = placeOf('postgres://me:hidden@db.example:6432/app');
    expect(() => assertServer({ versionNum: 140_011, version: '14.11', standby: false }, place)).toThrow(
      'PostgreSQL at db.example:6432, database "app": Holdfast needs PostgreSQL 15 or newer; this server is 14.11',
    );
    expect(() => assertServer({ versionNum: 150_000, version: '15.0', standby: false }, place)).not.toThrow();
  });

  test('A database that cannot be reached is an error, not a hang', async () => {
    await expect(openPostgresStore({ url: 'postgres://nobody@127.0.0.1:1/none' })).rejects.toThrow(/ECONNREFUSED/);
  });
});

describe('a shared database', () => {
  /** Tables, a type and a function of an application, with names that Holdfast uses. */
  const foreign = [
    ...['worker', 'session', 'turn', 'bridge_session', 'session_key', 'turn_items', 'shared_item', 'holdfast_meta'].map(
      (name) => `create table public.${name} (id integer primary key, note text)`,
    ),
    `insert into public.turn values (1, 'theirs')`,
    `create function public.holdfast_turn_json(t public.turn) returns text language sql as $$ select 'theirs' $$`,
  ];

  /** Runs a conversation as a worker does; returns the rows that it wrote. */
  async function conversation(url: string, schema: string | null): Promise<{ turns: number }> {
    const store = await openPostgresStore({ url, poolSize: 2, schema });
    cleanUps.push(() => store.shutdown());
    const idle = await idleLane(store, await newWorker(store));
    const start = idle.start({ expectedHead: idle.firstTurn.id });
    expect((await store.start(start)).verdict).toBe('ok');
    expect((await store.settle(idle.settle(start.turn.id, completed()))).verdict).toBe('ok');
    const found = await store.lookup({
      scope: idle.scope,
      anchor: null,
      tokenSessionId: idle.sessionId,
      hardKey: null,
    });
    expect(found.token?.headTurnId).toBe(start.turn.id);
    for (const kind of purgeKinds) await store.purge({ kind, olderThanHours: 24, limit: 10, after: null });
    await store.listSessions({ limit: 10 });
    return { turns: (await store.lineage(idle.scope, start.turn.id)).length };
  }

  test.each([null, 'bridge', 'Odd_Näme$1'])(
    'A database is shared with an application that has tables of the same names; schema %s',
    async (schema) => {
      const url = await emptyDatabase();
      const { pathname } = new URL(url);
      await query(url, [...foreign, `alter database ${pathname.slice(1)} set search_path = public`].join(';'));
      expect((await conversation(url, schema)).turns).toBeGreaterThan(0);
      expect(await query(url, 'select * from public.turn')).toEqual([{ id: 1, note: 'theirs' }]);
      const tables = await query<{ name: string }>(
        url,
        `select table_schema as name from information_schema.tables where table_name = 'turn' order by 1`,
      );
      expect(tables.map(({ name }) => name).sort()).toEqual([schema ?? 'holdfast', 'public'].sort());
    },
  );

  test('An installation with its tables in public, or elsewhere on its search path, keeps them there', async () => {
    for (const schema of ['public', 'elsewhere']) {
      const url = await emptyDatabase();
      const { pathname } = new URL(url);
      await query(url, `create schema if not exists ${schema}`);
      await query(url, `alter database ${pathname.slice(1)} set search_path = ${schema}`);
      const pepper = await (await openedIn(url, schema)).pepper();
      expect(await (await opened(url)).pepper()).toBe(pepper);
      const schemas = await query(url, `select 1 from pg_namespace where nspname = 'holdfast'`);
      expect(schemas).toHaveLength(0);
      await conversation(url, null);
    }
  });

  test('A schema that holds foreign tables is refused by name', async () => {
    const url = await emptyDatabase();
    await query(url, foreign.join(';'));
    await expect(openPostgresStore({ url, schema: 'public' })).rejects.toThrow(
      /schema "public" holds tables of another application .*HOLDFAST_DB_SCHEMA/,
    );
    expect(await query(url, 'select * from public.turn')).toHaveLength(1);
  });

  test('Two installations in one database do not affect each other', async () => {
    const url = await emptyDatabase();
    const [one, two] = await Promise.all([openedIn(url, 'one'), openedIn(url, 'two')]);
    expect(await one.pepper()).not.toBe(await two.pepper());
    const me = await newWorker(one);
    expect((await two.heartbeat(me, 'serving', 1_000)).verdict).toBe('dead');
  });
});

test('Every function exists in one form, and is called by this release or the previous one', async () => {
  const url = await emptyDatabase();
  await opened(url);
  const functions = await query<{ name: string }>(
    url,
    `select proname::text as name from pg_proc where proname like 'holdfast%' order by proname`,
  );
  expect(functions.map(({ name }) => name.replace('holdfast_', ''))).toEqual([
    'beat',
    'claim',
    'close',
    'create',
    'declare_dead',
    'declare_expired',
    'drop_shared',
    'erase',
    'heartbeat',
    'judge',
    'key',
    'operate',
    'purge_sessions',
    'purge_shared',
    'purge_turns',
    'purge_workers',
    'register',
    'release',
    'session_json',
    'settle',
    'start',
    'turn_json',
    'worker_json',
  ]);
});

describe('tables', () => {
  test('The tables match the entities', async () => {
    const url = await emptyDatabase();
    await opened(url);
    const orm = await MikroORM.init({
      clientUrl: url,
      entities,
      extensions: [Migrator],
      migrations: { tableName: 'holdfast_migrations', snapshot: false },
      schema: 'holdfast',
      schemaGenerator: { ignoreRoutines: true },
    });
    cleanUps.push(() => orm.close());
    expect(await orm.schema.getUpdateSchemaSQL({ wrap: false })).toBe('');
  });

  test('Pages of the session table keep free space, and no changing column is indexed', async () => {
    const url = await emptyDatabase();
    await opened(url);
    const [table] = await query<{ reloptions: string[] }>(
      url,
      `select reloptions from pg_class where relname = 'bridge_session'`,
    );
    expect(table?.reloptions).toContain('fillfactor=70');
    const indexed = await query<{ attname: string }>(
      url,
      `select distinct a.attname::text
         from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
        where i.indrelid = 'bridge_session'::regclass`,
    );
    // Columns that a turn does not change, except for the hour of its change.
    const still = ['changed_hour', 'created_at', 'fork_turn_id', 'id', 'owner_worker_id'];
    expect(indexed.map(({ attname }) => attname).sort()).toEqual(still);
  });

  test('The tables have the indexes that look-ups use, and no others', async () => {
    const url = await emptyDatabase();
    await opened(url);
    const indexes = await query<{ text: string }>(
      url,
      `select regexp_replace(indexdef, '^CREATE (UNIQUE )?INDEX .* ON holdfast.', '\\1') as text
         from pg_indexes where schemaname = 'holdfast' and indexname not like '%pkey'`,
    );
    expect(indexes.map(({ text }) => text).sort()).toEqual([
      'UNIQUE active_turn USING btree (session_id)',
      'UNIQUE turn USING btree (holdfast_key(response_id), scope) WHERE (response_id IS NOT NULL)',
      'active_turn USING btree (parent_turn_id)',
      'bridge_session USING btree (changed_hour, id)',
      'bridge_session USING btree (created_at)',
      'bridge_session USING btree (fork_turn_id) WHERE (fork_turn_id IS NOT NULL)',
      'bridge_session USING btree (owner_worker_id, changed_hour) WHERE (owner_worker_id IS NOT NULL)',
      'session_key USING btree (hash)',
      'session_key USING btree (session_id)',
      'session_story USING btree (session_id, created_at)',
      'turn USING btree (ended_at)',
      'turn USING btree (hashtextextended((scope || request_fp), (0)::bigint), started_at)',
      'turn USING btree (parent_turn_id)',
      'turn USING btree (scope, second_fp, started_at) WHERE (second_fp IS NOT NULL)',
      'turn USING btree (scope, third_fp, started_at) WHERE (third_fp IS NOT NULL)',
      'turn USING btree (scope, transcript_fp, started_at) WHERE (transcript_fp IS NOT NULL)',
      'turn USING btree (session_id, started_at)',
      'turn_item USING btree (scope, item_id, started_at)',
      'turn_shared_item USING btree (scope, hash)',
    ]);
  });

  test('A session can have only one active turn, also by constraint', async () => {
    const url = await emptyDatabase();
    await opened(url);
    await query(
      url,
      `insert into bridge_session (id, scope, state, machine_version, revision, epoch, upstream_id)
       values ('s', 'local', 'live', 1, 1, 1, 'u')`,
    );
    const insert = (id: string) =>
      query(
        url,
        `insert into active_turn (id, session_id, scope, epoch, author_worker_id, shape, state, request_fp, context_fp,
                           replay, stored_upstream, credential_fp)
         values ('${id}', 's', 'local', 1, 'w', 'fresh', 'active', 'r', 'c', 'never', false, 'f')`,
      );
    await insert('t1');
    await expect(insert('t2')).rejects.toThrow(/active_turn_session_id_unique/);
  });
});
