import type { MikroORM } from '@mikro-orm/postgresql';
import pg from 'pg';
import { migrationsList } from '../migrations/index.ts';
import { quoted, searchPathOf } from './executor.ts';
import { sqlState } from './outcome.ts';
import { assertPostgres, assertServer, DatabaseUnusable, type Place } from './unusable.ts';

/** Table of the migrations that were carried out; it also tells Holdfast's schema from another's. */
const MIGRATIONS_TABLE = 'holdfast_migrations';

/** Schema of a database that has no Holdfast in it yet. */
const OWN_SCHEMA = 'holdfast';

/** Key of the advisory lock under which migrations run: "holdfast" in ASCII, read as one number. */
const MIGRATION_LOCK = '7525352680829580148';

/** Limits of a migration, whatever those of its role are, milliseconds: waiting for another's, one statement, being lost. */
const LIMITS = { lock_timeout: 120_000, statement_timeout: 1_800_000, idle_in_transaction_session_timeout: 120_000 };

export interface MigrateOptions {
  connection: pg.ClientConfig;
  place: Place;
  /** Schema to use; null: the one where Holdfast's tables are found, else one of its own. */
  schema: string | null;
}

/**
 * Brings the database up to date: one connection and one transaction, in which everything that is set ends with it, so
 * that it passes a connection pooler in transaction mode. Processes that start together queue on an advisory lock of that
 * transaction; all but the first then find nothing left to do. A role without the right to create anything will do where
 * there is nothing to create.
 *
 * @param orm gives the migrations what they are made with; its connections are not used
 * @returns the schema that holds the tables
 * @throws `DatabaseUnusable`, or the error of the connection
 */
export async function migrate(orm: MikroORM, options: MigrateOptions): Promise<string> {
  await assertPostgres(options.place);
  const client = new pg.Client({ ...options.connection, application_name: 'holdfast migrations' });
  let lost: Error | null = null;
  client.on('error', (error) => {
    lost = error;
  });
  try {
    await client.connect();
    const { rows } = await client.query<{ num: string; version: string; standby: boolean }>(
      `select current_setting('server_version_num') as num, current_setting('server_version') as version,
              pg_is_in_recovery() or current_setting('transaction_read_only')::boolean as standby`,
    );
    const { num, version, standby } = rows[0]!;
    assertServer({ versionNum: Number(num), version, standby }, options.place);
    await client.query('begin');
    for (const [name, ms] of Object.entries(LIMITS)) await client.query(`set local ${name} = ${ms}`);
    await client.query(`select pg_advisory_xact_lock(${MIGRATION_LOCK})`);
    const schema = await carryOut(client, orm, options);
    if (lost) throw lost;
    await client.query('commit');
    return schema;
  } finally {
    await client.end().catch(() => undefined);
  }
}

async function carryOut(client: pg.Client, orm: MikroORM, { schema: wanted, place }: MigrateOptions): Promise<string> {
  const schema = wanted ?? (await schemaFound(client)) ?? OWN_SCHEMA;
  try {
    await createSchema(client, schema);
    await client.query(`set local search_path = ${searchPathOf(schema)}`);
    for (const { name, class: Kind } of await pending(client, schema)) {
      const migration = new Kind(orm.em.getDriver(), orm.config);
      migration.up();
      for (const statement of migration.getQueries()) await client.query(String(statement));
      await client.query(`insert into ${MIGRATIONS_TABLE} (name) values ($1)`, [name]);
    }
    return schema;
  } catch (error) {
    const state = sqlState(error);
    const said = error instanceof Error ? error.message : '';
    if (state === '42501') {
      throw new DatabaseUnusable(
        `${place.text}: user "${place.user}" may not create what Holdfast needs in schema "${schema}" (${said}): as an ` +
          `administrator run CREATE SCHEMA IF NOT EXISTS ${quoted(schema)} AUTHORIZATION ${quoted(place.user)}, or name ` +
          'a schema of that user with HOLDFAST_DB_SCHEMA',
        false,
        error,
      );
    }
    // Duplicate table, object or function.
    if (state !== null && ['42P07', '42710', '42723'].includes(state)) {
      throw new DatabaseUnusable(
        `${place.text}: schema "${schema}" holds tables of another application (${said}): name a schema of Holdfast's ` +
          'own with HOLDFAST_DB_SCHEMA',
        false,
        error,
      );
    }
    throw error;
  }
}

/** Where earlier releases put the tables: wherever the user's own `search_path` leads. */
async function schemaFound(client: pg.Client): Promise<string | null> {
  const { rows } = await client.query<{ schema: string }>(
    `select n.nspname as schema from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.oid = to_regclass('${MIGRATIONS_TABLE}')`,
  );
  return rows[0]?.schema ?? null;
}

/** `create schema if not exists` asks for the right to create one even where there is one. */
async function createSchema(client: pg.Client, schema: string): Promise<void> {
  const { rowCount } = await client.query('select from pg_namespace where nspname = $1', [schema]);
  if (rowCount === 0) await client.query(`create schema ${quoted(schema)}`);
}

/** Migrations that are not carried out yet, oldest first. */
async function pending(client: pg.Client, schema: string): Promise<typeof migrationsList> {
  const { rowCount } = await client.query(
    'select from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2',
    [schema, MIGRATIONS_TABLE],
  );
  if (rowCount === 0) {
    await client.query(
      `create table ${MIGRATIONS_TABLE} (
         id serial primary key, name varchar(255) not null, executed_at timestamptz not null default current_timestamp)`,
    );
  }
  const { rows } = await client.query<{ name: string }>(`select name from ${MIGRATIONS_TABLE}`);
  const done = new Set(rows.map(({ name }) => name));
  return migrationsList.filter(({ name }) => !done.has(name));
}
