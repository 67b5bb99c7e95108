import { MikroORM } from '@mikro-orm/postgresql';
import pg from 'pg';
import { afterEach, describe, expect, test } from 'vitest';
import { entities } from '../../src/store/entities.ts';
import { purgeKinds } from '../../src/store/port.ts';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { migrationsList } from '../../src/store/postgres/schema/index.ts';
import { assertServer, placeOf } from '../../src/store/postgres/unusable.ts';
import { freshDatabase } from '../support/database.ts';
import { completed, idleLane, newWorker } from './calls.ts';

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
    expect(applied.map(({ name }) => name)).toEqual(migrationsList.map(({ name }) => name));
  });

  test('A second start migrates nothing and keeps the pepper', async () => {
    const url = await emptyDatabase();
    const pepper = await (await opened(url)).pepper();
    expect(await (await opened(url)).pepper()).toBe(pepper);
  });

  test('of a development version is refused by its schema, and left as it is', async () => {
    const url = await emptyDatabase();
    await query(
      url,
      `create schema holdfast;
       create table holdfast.holdfast_migrations (id serial primary key, name varchar(255) not null);
       insert into holdfast.holdfast_migrations (name) values ('0001-tables'), ('0002-fence');
       create table holdfast.turn (id text primary key)`,
    );
    await expect(openPostgresStore({ url })).rejects.toThrow(
      /schema "holdfast" was made by a development version of Holdfast.*HOLDFAST_DB_SCHEMA/,
    );
    const tables = await query<{ name: string }>(
      url,
      `select table_name as name from information_schema.tables where table_schema = 'holdfast' order by 1`,
    );
    expect(tables.map(({ name }) => name)).toEqual(['holdfast_migrations', 'turn']);
    await (await openedIn(url, 'another')).pepper();
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
    `create function public.holdfast_key(id text) returns text language sql as $$ select 'theirs' $$`,
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

test('The functions of the fence are planned for keys, also in a database without statistics', async () => {
  const url = await emptyDatabase();
  await opened(url);
  const planned = await query<{ name: string }>(
    url,
    `select proname::text as name from pg_proc
      where 'enable_seqscan=off' = any(proconfig) and 'lock_timeout=2s' = any(proconfig) order by proname`,
  );
  const fence = ['claim', 'close', 'create', 'operate', 'release', 'settle', 'start'];
  expect(planned.map(({ name }) => name.replace('holdfast_', ''))).toEqual(fence);
});

test('Every function exists in one form, and is called by this release', async () => {
  const url = await emptyDatabase();
  await opened(url);
  const functions = await query<{ name: string }>(
    url,
    `select proname::text as name from pg_proc where proname like 'holdfast%' order by proname`,
  );
  expect(functions.map(({ name }) => name.replace('holdfast_', ''))).toEqual([
    'claim',
    'close',
    'create',
    'declare_dead',
    'declare_expired',
    'drop_shared',
    'erase',
    'heartbeat',
    'key',
    'operate',
    'purge_objects',
    'purge_sessions',
    'purge_shared',
    'purge_turns',
    'purge_workers',
    'register',
    'release',
    'settle',
    'start',
  ]);
});

describe('tables', () => {
  test('The tables match the entities', async () => {
    const url = await emptyDatabase();
    await opened(url);
    const orm = await MikroORM.init({
      clientUrl: url,
      entities,
      schema: 'holdfast',
      migrations: { tableName: 'holdfast_migrations' },
      schemaGenerator: { ignoreRoutines: true, skipViews: ['any_turn', 'every_scope'] },
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
    const still = ['changed_hour', 'created_at', 'fork_turn_id', 'id', 'owner_worker_id', 'scope'];
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
      'UNIQUE active_turn USING btree (session_id, scope)',
      'UNIQUE turn USING btree (scope, holdfast_key(response_id)) WHERE (response_id IS NOT NULL)',
      'active_turn USING btree (parent_turn_id)',
      'bridge_session USING btree (changed_hour, id)',
      'bridge_session USING btree (created_at)',
      'bridge_session USING btree (fork_turn_id) WHERE (fork_turn_id IS NOT NULL)',
      'bridge_session USING btree (id)',
      'bridge_session USING btree (owner_worker_id, changed_hour) WHERE (owner_worker_id IS NOT NULL)',
      `provider_object USING btree (created_at, scope, object_id) WHERE (kind = 'responses'::text)`,
      'provider_object USING btree (kind, scope, created_at, object_id)',
      'session_key USING btree (hash)',
      'session_key USING btree (session_id, scope)',
      'session_story USING btree (session_id, created_at)',
      'turn USING btree (ended_at)',
      'turn USING btree (hashtextextended((scope || request_fp), (0)::bigint), started_at)',
      'turn USING btree (parent_turn_id)',
      'turn USING btree (second_fp, scope, started_at) WHERE (second_fp IS NOT NULL)',
      'turn USING btree (session_id, scope, started_at)',
      'turn USING btree (third_fp, scope, started_at) WHERE (third_fp IS NOT NULL)',
      'turn USING btree (transcript_fp, scope, started_at) WHERE (transcript_fp IS NOT NULL)',
      'turn_item USING btree (item_id, scope, started_at)',
      'turn_shared_item USING btree (hash, scope)',
    ]);
  });

  test('Every table with tenants’ rows has the scope first in its primary and foreign keys, and in its unique ones', async () => {
    const url = await emptyDatabase();
    await opened(url);
    const tables = await query<{ name: string; scoped: boolean }>(
      url,
      `select c.relname::text as name,
              exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'scope') as scoped
         from pg_class c where c.relkind = 'r' and c.relnamespace = 'holdfast'::regnamespace order by 1`,
    );
    const names = (scoped: boolean) => tables.filter((table) => table.scoped === scoped).map(({ name }) => name);
    expect(names(false)).toEqual(['holdfast_meta', 'holdfast_migrations', 'worker']);
    const keys = await query<{ name: string; table: string; columns: string[]; unique: boolean }>(
      url,
      `select i.indexrelid::regclass::text as name, c.relname::text as table,
              array(select pg_get_indexdef(i.indexrelid, nth, true) from generate_series(1, i.indnatts) nth) as columns,
              not i.indisprimary as unique
         from pg_index i join pg_class c on c.oid = i.indrelid
        where i.indisunique and c.relnamespace = 'holdfast'::regnamespace
       union all
       select conname || ' ' || side, c.relname::text,
              array(select attname::text from unnest(columns) with ordinality k (number, nth)
                      join pg_attribute on attrelid = place and attnum = number order by nth),
              false
         from pg_constraint f join pg_class c on c.oid = f.conrelid
        cross join lateral (values ('from', conrelid, conkey), ('to', confrelid, confkey)) ends (side, place, columns)
        where contype = 'f' and connamespace = 'holdfast'::regnamespace`,
    );
    const ofTenants = keys.filter(({ table }) => names(true).includes(table));
    expect(new Set(ofTenants.map(({ table }) => table))).toEqual(new Set(names(true)));
    const lacking = ofTenants.filter(({ columns, unique }) =>
      unique ? !columns.includes('scope') : columns[0] !== 'scope',
    );
    expect(lacking).toEqual([]);
  });

  test('No statistics are kept of scopes', async () => {
    const url = await emptyDatabase();
    await opened(url);
    const kept = await query(
      url,
      `select c.relname::text as name from pg_attribute a join pg_class c on c.oid = a.attrelid
        where c.relkind = 'r' and c.relnamespace = 'holdfast'::regnamespace
          and a.attname = 'scope' and a.attstattarget is distinct from 0`,
    );
    expect(kept).toEqual([]);
  });

  test('No index but the primary key begins with the scope, unless it is partial', async () => {
    const url = await emptyDatabase();
    await opened(url);
    const others = await query<{ text: string }>(
      url,
      `select indexdef as text from pg_indexes
        where schemaname = 'holdfast' and indexname not like '%pkey' and indexdef like '%(scope,%' and indexdef not like '% WHERE %'`,
    );
    expect(others).toEqual([]);
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
