import type { MikroORM } from '@mikro-orm/postgresql';
import pg from 'pg';
import type { Log } from '../../log.ts';
import { type Clock, systemClock } from '../../system.ts';
import type { SessionStore } from '../port.ts';
import { type ApplicationOrm, migrationOn, poolOf, reserveConnection } from './application.ts';
import { type Connections, createExecutor, type Executor } from './executor.ts';
import { connectTo, type MigrateOptions, migrate } from './migrate.ts';
import { ObjectRepository } from './object-repository.ts';
import { createOrm } from './orm.ts';
import { createOutageLog } from './outage.ts';
import { SessionRepository } from './session-repository.ts';
import { TurnRepository } from './turn-repository.ts';
import { causeOf, type Place, placeOf, unusable } from './unusable.ts';
import { WorkerRepository } from './worker-repository.ts';

/** Options of a store, wherever its connections come from. */
export interface StoreOptions {
  /** Schema of the tables. Null (the default): the one that holds them, else a schema `holdfast`. */
  schema?: string | null;
  /** Timeout of every call in milliseconds; default 2000. */
  statementTimeoutMs?: number;
  logger?: Log<'warn'>;
  /** Called for each statement that is sent, with its name, or its text if it has none. Every fence statement is one commit. */
  onStatement?: (name: string) => void;
  clock?: Clock;
}

export interface PostgresStoreOptions extends StoreOptions {
  /** Connection URL, as libpq understands it. */
  url: string;
  /** Connections for fence calls and reads; default 10. Heartbeats use one more. */
  poolSize?: number;
}

/** Time in milliseconds for which idle connections are kept: reconnecting costs several milliseconds of a turn. */
const IDLE_CONNECTION_MS = 600_000;

/** Connect timeout for migrations, in milliseconds. */
const CONNECT_MS = 10_000;

/**
 * Migrates a database, as the opening of the store does.
 *
 * @param options.onMigration called before each migration that is executed, with its position and the number of all
 * @returns the schema that holds the tables
 * @throws `DatabaseUnusable` that names host, database and cause
 */
export async function migrateDatabase(
  options: Pick<PostgresStoreOptions, 'url' | 'schema'> & Pick<MigrateOptions, 'onMigration'>,
): Promise<string> {
  const { url, schema = null, ...heard } = options;
  const place = placeOf(url);
  const orm = createOrm(() => Promise.reject(new Error('migrations have a connection of their own')));
  try {
    const connection = { connectionString: url, connectionTimeoutMillis: CONNECT_MS };
    return await migrate(orm, { connect: () => connectTo(connection, place), place, schema, ...heard });
  } catch (error) {
    throw unusable(error, place);
  } finally {
    await orm.close(true);
  }
}

/**
 * Opens the store: migrates the database, checks its version, and creates a pool (the connections of MikroORM and of the
 * fence alike) and a heartbeat connection.
 *
 * @throws `DatabaseUnusable` that names host, database and cause
 */
export async function openPostgresStore(options: PostgresStoreOptions): Promise<SessionStore> {
  const { url, statementTimeoutMs = 2000, poolSize = 10 } = options;
  const place = placeOf(url);
  const connection = { connectionString: url, connectionTimeoutMillis: CONNECT_MS };
  return openOver(
    options,
    place,
    () => connectTo(connection, place),
    () => {
      const pool = openPool(poolSize, 'holdfast');
      const beats = openPool(1, 'holdfast heartbeat');
      return { pool, own: true, size: poolSize, beats, close: () => Promise.all([pool.end(), beats.end()]) };
    },
  );

  function openPool(max: number, application_name: string): pg.Pool {
    const opened = new pg.Pool({
      connectionString: url,
      connectionTimeoutMillis: statementTimeoutMs,
      keepAlive: true,
      idleTimeoutMillis: IDLE_CONNECTION_MS,
      max,
      application_name,
    });
    // The outage log reports lost connections.
    opened.on('error', () => undefined);
    opened.on('connect', (client) => client.on('error', () => undefined));
    return opened;
  }
}

/**
 * Opens the store over the pool of an application's MikroORM, which stays open when the store is shut down. Migrations run on
 * one of its connections; heartbeats keep one for themselves.
 *
 * @returns the store, and the URL of the database without its credentials; null where it is on this machine
 * @throws `DatabaseUnusable` that names host, database and cause
 */
export async function openApplicationStore(
  orm: ApplicationOrm,
  options: StoreOptions,
): Promise<{ store: SessionStore; location: string | null }> {
  const { pool, place, location } = await poolOf(orm);
  const store = await openOver(
    options,
    place,
    () => migrationOn(pool),
    () => {
      const beats = reserveConnection(pool);
      return { pool, own: false, size: pool.options.max, beats, close: beats.end };
    },
  );
  return { store, location };
}

/** Connections of a store. */
interface Opened {
  pool: Connections;
  /** The connections belong to the store alone. */
  own: boolean;
  /** Number of connections of the pool. */
  size: number;
  /** Connection of the heartbeats. */
  beats: Connections;
  close(): Promise<unknown>;
}

async function openOver(
  { schema: wanted = null, statementTimeoutMs = 2000, logger, onStatement, clock = systemClock }: StoreOptions,
  place: Place,
  connect: MigrateOptions['connect'],
  open: () => Opened,
): Promise<SessionStore> {
  let calls!: Executor;
  const orm = createOrm((statement, values) => calls.run(statement, values));
  let schema: string;
  try {
    schema = await migrate(orm, { connect, place, schema: wanted });
  } catch (error) {
    await orm.close(true);
    throw unusable(error, place);
  }
  const { pool, own, size, beats: heartbeats, close } = open();
  const outages =
    logger && createOutageLog({ where: place.text, causeOf: (error) => causeOf(error, place), clock, logger });
  const limits = { own, schema, timeoutMs: statementTimeoutMs, clock, outages, onStatement };
  calls = createExecutor({ pool, size, ...limits });
  const beats = createExecutor({ pool: heartbeats, ...limits });
  return {
    ...storeOver(calls, beats, orm),
    async shutdown() {
      calls.stop();
      beats.stop();
      await Promise.all([orm.close(true), close()]);
    },
  };
}

/**
 * Creates the operations of the store over executors.
 *
 * @param beats executor of heartbeats
 */
export function storeOver(
  calls: Executor,
  beats: Executor = calls,
  orm: MikroORM = createOrm((statement, values) => calls.run(statement, values)),
): Omit<SessionStore, 'shutdown'> {
  const sessions = new SessionRepository(orm.em, calls);
  const turns = new TurnRepository(orm.em, calls);
  const workers = new WorkerRepository(orm.em, calls, beats);
  const objects = new ObjectRepository(orm.em, calls);
  return {
    create: sessions.createSession.bind(sessions),
    start: sessions.startTurn.bind(sessions),
    settle: sessions.settleTurn.bind(sessions),
    claim: sessions.claim.bind(sessions),
    release: sessions.release.bind(sessions),
    close: sessions.close.bind(sessions),
    register: workers.register.bind(workers),
    heartbeat: workers.heartbeat.bind(workers),
    declareExpired: workers.declareExpired.bind(workers),
    declareDead: workers.declareDead.bind(workers),
    workers: workers.workers.bind(workers),
    lookup: sessions.lookup.bind(sessions),
    session: sessions.session.bind(sessions),
    sessionById: sessions.sessionById.bind(sessions),
    sessions: sessions.sessions.bind(sessions),
    turn: turns.turn.bind(turns),
    turnsOf: turns.turnsOf.bind(turns),
    lineage: turns.lineage.bind(turns),
    line: turns.line.bind(turns),
    references: turns.references.bind(turns),
    repeated: turns.repeated.bind(turns),
    pepper: sessions.pepper.bind(sessions),
    listSessions: sessions.listSessions.bind(sessions),
    turnDetails: turns.turnDetails.bind(turns),
    keysOf: sessions.keysOf.bind(sessions),
    idsBeginning: sessions.idsBeginning.bind(sessions),
    ownedSessions: sessions.ownedSessions.bind(sessions),
    turnsEnded: turns.turnsEnded.bind(turns),
    forksOf: turns.forksOf.bind(turns),
    operatorRelease: (sessionId) => sessions.operate(sessionId, 'release'),
    operatorClose: (sessionId) => sessions.operate(sessionId, 'close'),
    dropAnchor: (sessionId) => sessions.operate(sessionId, 'drop-anchor'),
    purge: workers.purge.bind(workers),
    keepStory: sessions.keepStory.bind(sessions),
    story: sessions.story.bind(sessions),
    eraseResponse: turns.eraseResponse.bind(turns),
    keepObjects: objects.keepObjects.bind(objects),
    ownObjects: objects.ownObjects.bind(objects),
    listObjects: objects.listObjects.bind(objects),
    dropObject: objects.dropObject.bind(objects),
  };
}
