import type { MikroORM } from '@mikro-orm/postgresql';
import pg from 'pg';

/** Named by its own version numbering: 150000 is 15.0. */
export const MINIMUM_SERVER_VERSION = 150_000;

/** Key of the advisory lock under which migrations run: "holdfast" in ASCII, read as one number. */
const MIGRATION_LOCK = '7525352680829580148';

/** How long a process waits for another's migrations, milliseconds. */
const MIGRATION_WAIT_MS = 120_000;

/** Throws when the server is older than the fence functions need. `versionNum`: the setting `server_version_num`. */
export function assertServerVersion(versionNum: number, version: string): void {
  if (versionNum >= MINIMUM_SERVER_VERSION) return;
  throw new Error(`Holdfast needs PostgreSQL 15 or newer; this server is ${version}.`);
}

/**
 * Brings the database up to date. Processes that start together queue on a transaction-level advisory lock (a
 * session-level one would stay behind in a connection pooler); all but the first then find nothing left to do.
 * Throws when the server is too old, a migration fails, or the database cannot be reached.
 */
export async function migrate(orm: MikroORM, connection: pg.ClientConfig): Promise<void> {
  const client = new pg.Client({ ...connection, application_name: 'holdfast migrations' });
  let lost: Error | null = null;
  client.on('error', (error) => {
    lost = error;
  });
  await client.connect();
  try {
    const { rows } = await client.query<{ num: string; version: string }>(
      `select current_setting('server_version_num') as num, current_setting('server_version') as version`,
    );
    assertServerVersion(Number(rows[0]!.num), rows[0]!.version);
    await client.query('begin');
    await client.query(`set local lock_timeout = ${MIGRATION_WAIT_MS}`);
    await client.query(`select pg_advisory_xact_lock(${MIGRATION_LOCK})`);
    await orm.migrator.up();
    if (lost) throw lost;
    await client.query('commit');
  } finally {
    await client.end().catch(() => undefined);
  }
}
