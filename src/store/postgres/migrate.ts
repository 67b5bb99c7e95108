import type { MikroORM } from '@mikro-orm/postgresql';
import pg from 'pg';
import { quoted, searchPathOf } from './executor.ts';
import { sqlState } from './outcome.ts';
import { functions, migrationsList } from './schema/index.ts';
import { assertPostgres, assertServer, DatabaseUnusable, type Place } from './unusable.ts';

/** Table of the executed migrations. It also identifies a schema as Holdfast's. */
const MIGRATIONS_TABLE = 'holdfast_migrations';

/** Schema used in a database without Holdfast's tables. */
const OWN_SCHEMA = 'holdfast';

/** Key of the advisory lock for migrations: "holdfast" in ASCII, read as one number. */
const MIGRATION_LOCK = '7525352680829580148';

/**
 * Limits of a migration in milliseconds, overriding those of its role: waiting for another migration, one statement, losing
 * the client.
 */
const LIMITS = { lock_timeout: 120_000, statement_timeout: 1_800_000, idle_in_transaction_session_timeout: 120_000 };

/** Connection for a migration. */
export interface MigrationConnection {
  client: pg.ClientBase;
  /** Gives the connection back or closes it. @param clean false if a transaction may be open on it */
  end(clean: boolean): Promise<void>;
}

export interface MigrateOptions {
  /** Opens a connection on which nothing else runs. */
  connect(): Promise<MigrationConnection>;
  place: Place;
  /** Schema to use; null: the one that holds Holdfast's tables, else `holdfast`. */
  schema: string | null;
  /** Called before each migration that is executed, with its position and the number of all that will be. */
  onMigration?: (name: string, position: number, of: number) => void;
}

/** State of the tables in a database. */
export interface SchemaStatus {
  /** Version of the server, as it names itself. */
  server: string;
  /** Schema of the tables, or the one where they will be. */
  schema: string;
  /** The schema has Holdfast's tables. */
  exists: boolean;
  /** They were made by a development version, from which there is no migration. */
  development: boolean;
  /** Every migration of this release, oldest first. `executedAt` is ISO 8601, null while the migration is pending. */
  migrations: { name: string; executedAt: string | null }[];
  /** Executed migrations that this release does not know: a newer release has executed them. */
  newer: string[];
}

/**
 * Migrates the database on one connection and in one transaction. MikroORM's migrator cannot: it takes connections of the
 * pool, has no lock between processes that start together, and its settings outlive a transaction. All settings end with the transaction, so that it works
 * through a pooler in transaction mode. Processes that start together queue on an advisory lock of that transaction; all
 * but the first then find nothing to do. A role without the right to create objects is sufficient when nothing needs to be
 * created.
 *
 * @param orm supplies what the migration classes need; its connections are not used
 * @returns the schema that holds the tables
 * @throws `DatabaseUnusable`, or the error of the connection
 */
export async function migrate(orm: MikroORM, options: MigrateOptions): Promise<string> {
  const { client, end } = await options.connect();
  let lost: Error | null = null;
  const onError = (error: Error) => {
    lost = error;
  };
  client.on('error', onError);
  let clean = false;
  try {
    await serverVersion(client, options.place);
    await client.query('begin');
    for (const [name, ms] of Object.entries(LIMITS)) await client.query(`set local ${name} = ${ms}`);
    await client.query(`select pg_advisory_xact_lock(${MIGRATION_LOCK})`);
    const schema = await carryOut(client, orm, options);
    if (lost) throw lost;
    await client.query('commit');
    clean = true;
    return schema;
  } finally {
    await end(clean).catch(() => undefined);
    client.off('error', onError);
  }
}

/**
 * Opens a connection of its own for a migration.
 *
 * @throws `DatabaseUnusable` when what answers there is no PostgreSQL, or the error of the connection
 */
export async function connectTo(connection: pg.ClientConfig, place: Place): Promise<MigrationConnection> {
  await assertPostgres(place);
  const client = new pg.Client({ ...connection, application_name: 'holdfast migrations' });
  // `pg` reports a connection that is refused during the handshake in this way too.
  client.on('error', () => undefined);
  try {
    await client.connect();
  } catch (error) {
    await client.end().catch(() => undefined);
    throw error;
  }
  return { client, end: () => client.end() };
}

/**
 * Returns the version of the server.
 *
 * @throws `DatabaseUnusable` for a server that is too old, or a standby
 */
async function serverVersion(client: pg.ClientBase, place: Place): Promise<string> {
  const { rows } = await client.query<{ num: string; version: string; standby: boolean }>(
    `select current_setting('server_version_num') as num, current_setting('server_version') as version,
            pg_is_in_recovery() or current_setting('transaction_read_only')::boolean as standby`,
  );
  const { num, version, standby } = rows[0]!;
  assertServer({ versionNum: Number(num), version, standby }, place);
  return version;
}

/**
 * Reads the state of the tables over a connection of the caller, and changes nothing.
 *
 * @param wanted schema to look at; null: the one that holds Holdfast's tables, else `holdfast`
 * @throws `DatabaseUnusable` for a server that is too old, or a standby
 */
export async function schemaStatus(client: pg.ClientBase, place: Place, wanted: string | null): Promise<SchemaStatus> {
  const server = await serverVersion(client, place);
  const schema = await schemaFor(client, wanted);
  const exists = await hasTables(client, schema);
  const { rows } = exists
    ? await client.query<{ name: string; at: string }>(
        `select name, to_json(executed_at) #>> '{}' as at from ${quoted(schema)}.${MIGRATIONS_TABLE} order by id`,
      )
    : { rows: [] };
  const executed = new Map(rows.map(({ name, at }) => [name, at]));
  const known = new Set(migrationsList.map(({ name }) => name));
  const development = executed.size > 0 && !executed.has(migrationsList[0]!.name);
  return {
    server,
    schema,
    exists,
    development,
    migrations: migrationsList.map(({ name }) => ({ name, executedAt: executed.get(name) ?? null })),
    newer: development ? [] : [...executed.keys()].filter((name) => !known.has(name)),
  };
}

const hasTables = async (client: pg.ClientBase, schema: string): Promise<boolean> => {
  const { rowCount } = await client.query(
    'select from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2',
    [schema, MIGRATIONS_TABLE],
  );
  return rowCount !== 0;
};

async function carryOut(client: pg.ClientBase, orm: MikroORM, options: MigrateOptions): Promise<string> {
  const { schema: wanted, place } = options;
  const schema = await schemaFor(client, wanted);
  try {
    await createSchema(client, schema);
    await client.query(`set local search_path = ${searchPathOf(schema)}`);
    const migrations = await pending(client, schema, place);
    for (const [at, { name, class: Kind }] of migrations.entries()) {
      options.onMigration?.(name, at + 1, migrations.length);
      const migration = new Kind(orm.em.getDriver(), orm.config);
      migration.up();
      for (const statement of migration.getQueries()) await client.query(String(statement));
      await client.query(`insert into ${MIGRATIONS_TABLE} (name) values ($1)`, [name]);
    }
    if (migrations.length > 0) for (const statement of functions) await client.query(statement);
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

/** Returns the schema to use: the wanted one, else the one that holds the tables, else Holdfast's own. */
const schemaFor = async (client: pg.ClientBase, wanted: string | null): Promise<string> =>
  wanted ?? (await schemaFound(client)) ?? OWN_SCHEMA;

/**
 * Returns the schema of an earlier release's tables, which followed the user's own `search_path`; null when there are none.
 */
async function schemaFound(client: pg.ClientBase): Promise<string | null> {
  const { rows } = await client.query<{ schema: string }>(
    `select n.nspname as schema from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.oid = to_regclass('${MIGRATIONS_TABLE}')`,
  );
  return rows[0]?.schema ?? null;
}

/** Returns the message about tables of a development version. */
export const ofDevelopment = (schema: string, place: Place): string =>
  `${place.text}: schema "${schema}" was made by a development version of Holdfast, from which there is no migration: ` +
  'name another schema with HOLDFAST_DB_SCHEMA (with the embedded database, or another HOLDFAST_DATA_DIR) and start ' +
  `afresh, which leaves the old tables as they are; to keep their conversations, go on with the version that made them; ` +
  `to lose them, run DROP SCHEMA ${quoted(schema)} CASCADE`;

/** Creates the schema if it is missing. `create schema if not exists` needs the right to create one even when it exists. */
async function createSchema(client: pg.ClientBase, schema: string): Promise<void> {
  const { rowCount } = await client.query('select from pg_namespace where nspname = $1', [schema]);
  if (rowCount === 0) await client.query(`create schema ${quoted(schema)}`);
}

/**
 * Returns the migrations that were not executed yet, oldest first.
 *
 * @throws `DatabaseUnusable` for tables of a development version, from which no migration leads here
 */
async function pending(client: pg.ClientBase, schema: string, place: Place): Promise<typeof migrationsList> {
  if (!(await hasTables(client, schema))) {
    await client.query(
      `create table ${MIGRATIONS_TABLE} (
         id serial primary key, name varchar(255) not null, executed_at timestamptz not null default current_timestamp)`,
    );
  }
  const { rows } = await client.query<{ name: string }>(`select name from ${MIGRATIONS_TABLE}`);
  const done = new Set(rows.map(({ name }) => name));
  if (done.size > 0 && !done.has(migrationsList[0]!.name)) {
    throw new DatabaseUnusable(ofDevelopment(schema, place), false);
  }
  return migrationsList.filter(({ name }) => !done.has(name));
}
