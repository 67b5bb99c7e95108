import { Migrator } from '@mikro-orm/migrations';
import { MikroORM } from '@mikro-orm/postgresql';
import pg from 'pg';
import { type Clock, systemClock } from '../../clock.ts';
import { entities } from '../entities.ts';
import { migrationsList } from '../migrations/index.ts';
import type { SessionStore } from '../port.ts';
import { createAdmin } from './admin.ts';
import { createCall } from './call.ts';
import { createExecutor } from './executor.ts';
import { createFence } from './fence.ts';
import { migrate } from './migrate.ts';
import { createRead, createReads } from './reads.ts';
import { createWorkerRegistry } from './workers.ts';

export interface PostgresStoreOptions {
  /** Connection URL, as libpq understands it. */
  url: string;
  /** Milliseconds within which every call answers; default 2000. */
  statementTimeoutMs?: number;
  /** Connections for fence calls and reads, default 10; heartbeats have one more. */
  poolSize?: number;
  logger?: { warn(details: object, message: string): void };
  /** Called with the statement's name each time one is sent. Every fence statement is one commit. */
  onStatement?: (name: string) => void;
  clock?: Clock;
}

/** Reconnecting costs several milliseconds of a turn, so idle connections are kept this long. */
const IDLE_CONNECTION_MS = 600_000;

/**
 * Opens the store: migrates the database, checks its version, and keeps a pool (the ORM's own, so that entities and
 * fence share it) and a heartbeat connection. Throws when the database cannot be reached, is older than PostgreSQL 15,
 * or cannot be migrated.
 */
export async function openPostgresStore(options: PostgresStoreOptions): Promise<SessionStore> {
  const { url, statementTimeoutMs = 2000, poolSize = 10, logger, onStatement, clock = systemClock } = options;
  const connection = {
    connectionString: url,
    connectionTimeoutMillis: statementTimeoutMs,
    keepAlive: true,
    idleTimeoutMillis: IDLE_CONNECTION_MS,
  };
  const orm = await MikroORM.init({
    clientUrl: url,
    entities,
    extensions: [Migrator],
    migrations: { migrationsList, tableName: 'holdfast_migrations', snapshot: false, silent: true },
    driverOptions: { ...connection, max: poolSize, application_name: 'holdfast' },
    // Lost connections are expected here and answered as `unknown`; they are nothing to print.
    logger: (message) => logger?.warn({ source: 'mikro-orm' }, message),
  });
  const heartbeats = new pg.Pool({ ...connection, max: 1, application_name: 'holdfast heartbeat' });
  heartbeats.on('error', (error) => logger?.warn({ err: error }, 'the heartbeat connection was lost'));
  heartbeats.on('connect', (client) => client.on('error', () => undefined));

  const closePools = async () => {
    await Promise.all([orm.close(true), heartbeats.end()]);
  };
  try {
    await migrate(orm, { connectionString: url, connectionTimeoutMillis: 10_000 });
  } catch (error) {
    await closePools();
    throw error;
  }

  const pool = await orm.em.getConnection().getNativeClient();
  const limits = { timeoutMs: statementTimeoutMs, clock, onStatement };
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
