import type { MikroORM } from '@mikro-orm/postgresql';
import pg from 'pg';
import type { Log } from '../../log.ts';
import { type Clock, systemClock } from '../../system.ts';
import type { SessionStore } from '../port.ts';
import { createExecutor, type Executor } from './executor.ts';
import { migrate } from './migrate.ts';
import { createOrm } from './orm.ts';
import { createOutageLog } from './outage.ts';
import { SessionRepository } from './session-repository.ts';
import { TurnRepository } from './turn-repository.ts';
import { causeOf, placeOf, unusable } from './unusable.ts';
import { WorkerRepository } from './worker-repository.ts';

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
  /** Called for each statement that is sent, with its name, or its text if it has none. Every fence statement is one commit. */
  onStatement?: (name: string) => void;
  clock?: Clock;
}

/** Time in milliseconds for which idle connections are kept: reconnecting costs several milliseconds of a turn. */
const IDLE_CONNECTION_MS = 600_000;

/** Connect timeout for migrations, in milliseconds. */
const CONNECT_MS = 10_000;

/** Times as text, as MikroORM expects them, and 64-bit integers as numbers: revisions and counts stay below 2^53. */
const types = new pg.TypeOverrides();
const { INT8, TIMESTAMP, TIMESTAMPTZ } = pg.types.builtins;
for (const oid of [TIMESTAMP, TIMESTAMPTZ]) types.setTypeParser(oid, String);
types.setTypeParser(INT8, Number);

/**
 * Opens the store: migrates the database, checks its version, and creates a pool (the connections of MikroORM and of the
 * fence alike) and a heartbeat connection.
 *
 * @throws `DatabaseUnusable` that names host, database and cause
 */
export async function openPostgresStore(options: PostgresStoreOptions): Promise<SessionStore> {
  const { url, statementTimeoutMs = 2000, poolSize = 10, logger, onStatement, clock = systemClock } = options;
  const place = placeOf(url);
  let calls!: Executor;
  const orm = createOrm((statement, values) => calls.run(statement, values));
  let schema: string;
  try {
    schema = await migrate(orm, {
      connection: { connectionString: url, connectionTimeoutMillis: CONNECT_MS },
      place,
      schema: options.schema ?? null,
    });
  } catch (error) {
    await orm.close(true);
    throw unusable(error, place);
  }

  const pool = openPool(poolSize, 'holdfast');
  const heartbeats = openPool(1, 'holdfast heartbeat');
  const outages =
    logger && createOutageLog({ where: place.text, causeOf: (error) => causeOf(error, place), clock, logger });
  const limits = { schema, timeoutMs: statementTimeoutMs, clock, outages, onStatement };
  calls = createExecutor({ pool, ...limits });
  const beats = createExecutor({ pool: heartbeats, ...limits });
  return {
    ...storeOver(calls, beats, orm),
    async shutdown() {
      calls.stop();
      beats.stop();
      await Promise.all([orm.close(true), pool.end(), heartbeats.end()]);
    },
  };

  function openPool(max: number, application_name: string): pg.Pool {
    const opened = new pg.Pool({
      connectionString: url,
      connectionTimeoutMillis: statementTimeoutMs,
      keepAlive: true,
      idleTimeoutMillis: IDLE_CONNECTION_MS,
      max,
      application_name,
      types,
    });
    // The outage log reports lost connections.
    opened.on('error', () => undefined);
    opened.on('connect', (client) => client.on('error', () => undefined));
    return opened;
  }
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
  };
}
