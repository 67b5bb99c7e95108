import { MikroORM } from '@mikro-orm/postgresql';
import pg from 'pg';
import { type Clock, systemClock } from '../../clock.ts';
import type { Log } from '../../log.ts';
import { entities } from '../entities.ts';
import type { SessionStore } from '../port.ts';
import { createAdmin } from './admin.ts';
import { createCall } from './call.ts';
import { createExecutor } from './executor.ts';
import { createFence } from './fence.ts';
import { migrate } from './migrate.ts';
import { createOutageLog } from './outage.ts';
import { createRead, createReads } from './reads.ts';
import { causeOf, placeOf, unusable } from './unusable.ts';
import { createWorkerRegistry } from './workers.ts';

export interface PostgresStoreOptions {
  /** Connection URL, as libpq understands it. */
  url: string;
  /** Schema of the tables. Null (the default): the one that holds them, else a schema `holdfast`. */
  schema?: string | null;
  /** Timeout of every call in milliseconds; default 2000. */
  statementTimeoutMs?: number;
  /** Connections for fence calls and reads; default 10. Heartbeats use one more. */
  poolSize?: number;
  logger?: Log<'warn'>;
  /** Called with the statement's name each time one is sent. Every fence statement is one commit. */
  onStatement?: (name: string) => void;
  clock?: Clock;
}

/** Time in milliseconds for which idle connections are kept: reconnecting costs several milliseconds of a turn. */
const IDLE_CONNECTION_MS = 600_000;

/** Connect timeout for migrations, in milliseconds. */
const CONNECT_MS = 10_000;

/**
 * Opens the store: migrates the database, checks its version, and creates a pool (the ORM's own, shared by entities and
 * fence) and a heartbeat connection.
 *
 * @throws `DatabaseUnusable` that names host, database and cause
 */
export async function openPostgresStore(options: PostgresStoreOptions): Promise<SessionStore> {
  const { url, statementTimeoutMs = 2000, poolSize = 10, logger, onStatement, clock = systemClock } = options;
  const place = placeOf(url);
  const connection = {
    connectionString: url,
    connectionTimeoutMillis: statementTimeoutMs,
    keepAlive: true,
    idleTimeoutMillis: IDLE_CONNECTION_MS,
  };
  const orm = await MikroORM.init({
    dbName: place.database,
    entities,
    driverOptions: { ...connection, max: poolSize, application_name: 'holdfast' },
    // The outage log reports lost connections, once per outage instead of once per connection.
    logger: () => undefined,
  });
  const heartbeats = new pg.Pool({ ...connection, max: 1, application_name: 'holdfast heartbeat' });
  heartbeats.on('error', () => undefined);
  heartbeats.on('connect', (client) => client.on('error', () => undefined));

  const closePools = async () => {
    await Promise.all([orm.close(true), heartbeats.end()]);
  };
  let schema: string;
  try {
    schema = await migrate(orm, {
      connection: { connectionString: url, connectionTimeoutMillis: CONNECT_MS },
      place,
      schema: options.schema ?? null,
    });
  } catch (error) {
    await closePools();
    throw unusable(error, place);
  }

  orm.config.set('schema', schema);
  const pool = await orm.em.getConnection().getNativeClient();
  const outages =
    logger && createOutageLog({ where: place.text, causeOf: (error) => causeOf(error, place), clock, logger });
  const limits = { schema, timeoutMs: statementTimeoutMs, clock, outages, onStatement };
  const calls = createExecutor({ pool, ...limits });
  const beats = createExecutor({ pool: heartbeats, ...limits });
  const read = createRead(calls);

  return {
    ...createFence(createCall(calls)),
    ...createWorkerRegistry(createCall(calls), createCall(beats), read),
    ...createReads(read),
    ...createAdmin(read),
    async shutdown() {
      calls.stop();
      beats.stop();
      await closePools();
    },
  };
}
