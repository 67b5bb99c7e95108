import { access, constants, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { SKEW_MS } from '../../cluster/forward/envelope.ts';
import type { Config } from '../../config.ts';
import { embeddedMajor, unsafeMessage, unsafeParts } from '../../store/embedded/binaries.ts';
import { ADMIN_TOKEN_FILE, dataDirState } from '../../store/embedded/index.ts';
import { ofDevelopment, schemaStatus } from '../../store/postgres/migrate.ts';
import { sqlState } from '../../store/postgres/outcome.ts';
import { assertPostgres, DatabaseUnusable, placeOf } from '../../store/postgres/unusable.ts';
import { withClient } from '../database.ts';
import { duration, size } from '../output.ts';
import { type Finding, fault, fromMessage, type Machine, note, ok, warning } from './finding.ts';
import { checkSecretFiles } from './settings.ts';

type Client = Parameters<Parameters<typeof withClient>[1]>[0];

/** A configured database, or that of a running Holdfast. */
export async function checkServer(url: string, config: Config, machine: Machine): Promise<Finding[]> {
  try {
    await assertPostgres(placeOf(url));
    return await withClient(url, async (client) => [
      ...(await checkSchema(client, url, config)),
      ...(await checkClock(client, machine)),
      ...(await checkDurability(client, config)),
    ]);
  } catch (error) {
    if (!(error instanceof DatabaseUnusable)) throw error;
    if (sqlState(error.cause) === '42501') {
      return [fault('privileges', error.message, grants(config.databaseSchema ?? 'holdfast', placeOf(url).user))];
    }
    return [
      fromMessage('database', error.message, 'check DATABASE_URL, and that the server runs and lets this user in'),
    ];
  }
}

const grants = (schema: string, user: string) =>
  `as the owner of the tables run GRANT USAGE ON SCHEMA "${schema}" TO "${user}"; ` +
  `GRANT ALL ON ALL TABLES IN SCHEMA "${schema}" TO "${user}"`;

async function checkSchema(client: Client, url: string, config: Config): Promise<Finding[]> {
  const place = placeOf(url);
  const status = await schemaStatus(client, place, config.databaseSchema);
  const { schema, server } = status;
  const findings = [ok('database', `${place.text}: PostgreSQL ${server} answers user "${place.user}"`)];
  if (status.development) return [...findings, fault('schema', ...halves(ofDevelopment(schema, place)))];
  const pending = status.migrations.filter(({ executedAt }) => executedAt === null);
  const { rows } = await client.query<{ exists: boolean; database: boolean; schema: boolean; closed: string[] | null }>(
    `select n.oid is not null as exists,
            has_database_privilege(current_database(), 'create') as database,
            coalesce(has_schema_privilege(n.oid, 'create'), false) as schema,
            (select array_agg(c.relname::text order by c.relname) from pg_class c
              where c.relnamespace = n.oid and c.relkind = 'r'
                and not (has_schema_privilege(n.oid, 'usage')
                  and has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert')
                  and has_table_privilege(c.oid, 'update') and has_table_privilege(c.oid, 'delete'))) as closed
       from (select) one left join pg_namespace n on n.nspname = $1`,
    [schema],
  );
  const may = rows[0]!;
  const asAdministrator = `as an administrator run CREATE SCHEMA IF NOT EXISTS "${schema}" AUTHORIZATION "${place.user}", or name a schema of that user with HOLDFAST_DB_SCHEMA`;
  if (pending.length > 0 && !(may.exists ? may.schema : may.database)) {
    const what = may.exists ? `create tables in schema "${schema}"` : `create schema "${schema}"`;
    return [
      ...findings,
      fault('privileges', `user "${place.user}" may not ${what}, and migrations are pending`, asAdministrator),
    ];
  }
  if (status.exists && may.closed !== null) {
    findings.push(
      fault(
        'privileges',
        `user "${place.user}" may not read and write ${may.closed.slice(0, 3).join(', ')} in schema "${schema}"`,
        grants(schema, place.user),
      ),
    );
  } else findings.push(ok('privileges', `user "${place.user}" has the rights that it needs`));
  if (status.newer.length > 0) {
    findings.push(
      note(
        'schema',
        `a newer release has migrated schema "${schema}" (${status.newer.join(', ')})`,
        'nothing while you roll: for one release migrations only add',
      ),
    );
  } else if (pending.length > 0) {
    const names = pending.map(({ name }) => name).join(', ');
    findings.push(
      note(
        'schema',
        `schema "${schema}" has pending migrations: ${names}`,
        'the next start executes them, as does `holdfast migrate apply`',
      ),
    );
  } else findings.push(ok('schema', `schema "${schema}" has every migration of this release`));
  return findings;
}

/** Splits a message at its first colon after the place. */
function halves(message: string): [says: string, mend: string] {
  const at = message.indexOf(': name another');
  return [message.slice(0, at), message.slice(at + 2)];
}

/** Clock of this machine against the one by which leases are judged. Two workers may be apart twice as much. */
async function checkClock(client: Client, machine: Machine): Promise<Finding[]> {
  const before = machine.wall();
  const { rows } = await client.query<{ ms: string }>('select extract(epoch from clock_timestamp()) * 1000 as ms');
  const after = machine.wall();
  const apart = Math.abs(Number(rows[0]!.ms) - (before + after) / 2);
  // The answer was somewhere on its way between the two readings.
  const least = Math.max(0, apart - (after - before) / 2);
  if (least <= 1_000) return [ok('clock', `this machine and the database are ${duration(apart)} apart`)];
  const says = `the clocks of this machine and of the database are ${duration(apart)} apart`;
  const mend = 'synchronise both (chrony, systemd-timesyncd): tokens are dated by the one, leases by the other';
  return [least > SKEW_MS / 2 ? fault('clock', says, mend) : warning('clock', says, mend)];
}

/** Settings of the server that this installation depends on. */
async function checkDurability(client: Client, { workers, limits }: Config): Promise<Finding[]> {
  const { rows } = await client.query<{
    connections: string;
    reserved: string;
    commit: string;
    fsync: string;
    used: string;
  }>(
    `select current_setting('max_connections') as connections,
            current_setting('superuser_reserved_connections') as reserved,
            current_setting('synchronous_commit') as commit, current_setting('fsync') as fsync,
            (select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()) as used`,
  );
  const { connections, reserved, commit, fsync } = rows[0]!;
  const findings: Finding[] = [];
  if (commit === 'off' || fsync === 'off') {
    const name = fsync === 'off' ? 'fsync' : 'synchronous_commit';
    findings.push(
      warning(
        'durability',
        `${name} is off: a crash of the server loses turns that clients have received`,
        `switch ${name} on for this database`,
      ),
    );
  } else findings.push(ok('durability', 'commits are durable'));
  const needed = workers * (limits.poolSize + 1) + 1;
  const free = Number(connections) - Number(reserved);
  findings.push(
    needed > free
      ? fault(
          'connections',
          `the ${workers} workers of this machine may take ${needed} connections, and the server allows ${free}`,
          'lower HOLDFAST_POOL_SIZE or HOLDFAST_WORKERS, raise max_connections, or put PgBouncer between',
        )
      : ok('connections', `the server allows ${free} connections; this installation may take ${needed} per machine`),
  );
  return findings;
}

/** Free space below which a database stops, and below which it soon may, in bytes. */
const FULL_BYTES = 200_000_000;
const NEARLY_FULL_BYTES = 1_000_000_000;

/** The data directory of the embedded database, and the database in it. */
export async function checkDataDir(config: Config, machine: Machine): Promise<Finding[]> {
  const dataDir = resolve(config.dataDir);
  const findings: Finding[] = [];
  let place = dataDir;
  while (!(await stat(place).catch(() => null)) && dirname(place) !== place) place = dirname(place);
  const info = await stat(place);
  const choose = 'choose another HOLDFAST_DATA_DIR, or give this user the right to write there';
  const writable = await access(place, constants.W_OK | constants.X_OK).then(
    () => true,
    () => false,
  );
  if (!info.isDirectory())
    findings.push(fault('data directory', `${place} is not a directory`, 'choose another HOLDFAST_DATA_DIR'));
  else if (!writable) findings.push(fault('data directory', `this user may not write in ${place}`, choose));
  else findings.push(ok('data directory', `${dataDir} ${place === dataDir ? 'is writable' : 'can be made'}`));
  const unsafe = (await unsafeParts(place)).filter(({ mendable, path }) => !mendable || path !== dataDir);
  for (const part of unsafe) findings.push(fromMessage('data directory', unsafeMessage(part), choose));
  const free = await machine.freeBytes(place);
  if (free !== null) {
    const says = `${size(free)} are free at ${place}`;
    const mend = 'free space, or move the data directory to a larger file system: a full one stops the database';
    findings.push(
      free < FULL_BYTES
        ? fault('disk', says, mend)
        : free < NEARLY_FULL_BYTES
          ? warning('disk', says, mend)
          : ok('disk', says),
    );
  }
  const names = ['token.secrets', ADMIN_TOKEN_FILE, 'pg.password'];
  findings.push(
    ...(await checkSecretFiles(
      names.map((name) => ({ path: join(dataDir, name), what: 'of the embedded database' })),
      machine,
    )),
  );
  return [...findings, ...(await checkCluster(dataDir, config, machine))];
}

async function checkCluster(dataDir: string, config: Config, machine: Machine): Promise<Finding[]> {
  let programs: string;
  try {
    programs = await embeddedMajor();
  } catch (error) {
    return [
      fromMessage(
        'database',
        (error as Error).message,
        'install Holdfast with its optional dependencies, or set DATABASE_URL',
      ),
    ];
  }
  const { major, inUse, url } = await dataDirState(dataDir);
  if (major !== null && major !== programs) {
    return [
      fault(
        'database',
        `the database in ${join(dataDir, 'pg')} was made by PostgreSQL ${major}, and the embedded one is ${programs}`,
        `go on with the release of Holdfast that has PostgreSQL ${major}, or choose another HOLDFAST_DATA_DIR and start afresh`,
      ),
    ];
  }
  if (url !== null) return checkServer(url, config, machine);
  if (inUse) {
    return [
      warning(
        'database',
        `a Holdfast uses ${dataDir}, and its database does not answer`,
        `look at ${join(dataDir, 'pg.log')}`,
      ),
    ];
  }
  const says =
    major === null
      ? 'there is none yet; the first start makes it'
      : 'it rests; the next start checks it, as does `holdfast migrate status`';
  return [ok('database', `embedded PostgreSQL ${programs}: ${says}`)];
}
