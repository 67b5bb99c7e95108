import type { Pool, PoolClient } from 'pg';
import type { Clock } from '../../clock.ts';
import { exchange, wasPooled } from './exchange.ts';
import type { OutageLog } from './outage.ts';
import { isOwnLimit, isTransient, NoAnswer, sqlState } from './outcome.ts';

/** Statement, prepared once per direct connection. The name also labels its count. */
export interface Statement {
  name: string;
  text: string;
  /** Milliseconds for this statement instead of the executor's timeout; for background work. */
  timeoutMs?: number;
}

export interface ExecutorOptions {
  pool: Pool;
  /** The schema that holds the tables and functions. */
  schema: string;
  /** Milliseconds from the call to its answer, including the wait for a connection. */
  timeoutMs: number;
  clock: Clock;
  outages?: OutageLog;
  onStatement?: (name: string) => void;
}

export interface Executor {
  /**
   * Executes one statement in one round trip, with autocommit.
   *
   * @throws `NoAnswer` when it is unknown whether the statement took effect, else PostgreSQL's error
   */
  run<Row>(statement: Statement, values: readonly unknown[]): Promise<Row[]>;
  /** Fails every call in flight with `NoAnswer`, and rejects later ones. */
  stop(): void;
}

/** Quotes a name for SQL text. */
export const quoted = (name: string) => `"${name.replaceAll('"', '""')}"`;

/**
 * Returns the `search_path` value. Temporary tables of other users of a pooled connection come last; by default they come
 * first.
 */
export const searchPathOf = (schema: string) => `${quoted(schema)}, pg_temp`;

/**
 * Share of a call's remaining time that the server gets as its limit. So the server gives up first: its answer leaves the
 * connection usable, and no server process continues an abandoned call.
 */
const SERVER_SHARE = 0.9;

/**
 * Creates an executor that applies the deadline on both sides: at the server, which stops abandoned statements, and here,
 * because a half-open connection never reports anything. The connection of a call abandoned here is destroyed with it: its
 * answer must not be taken for that of a later call.
 */
export function createExecutor({ pool, schema, timeoutMs, clock, outages, onStatement }: ExecutorOptions): Executor {
  const inFlight = new Set<(reason: string) => void>();
  const searchPath = searchPathOf(schema);
  let stopped = false;

  function run<Row>(statement: Statement, values: readonly unknown[]): Promise<Row[]> {
    if (stopped) return Promise.reject(new NoAnswer('the store is shut down'));
    onStatement?.(statement.name);
    return new Promise((resolve, reject) => {
      const withinMs = statement.timeoutMs ?? timeoutMs;
      const startedAt = clock.now();
      let client: PoolClient | null = null;
      let over = false;

      const finish = (destroy: boolean) => {
        over = true;
        disarm();
        inFlight.delete(giveUp);
        client?.release(destroy);
      };
      const giveUp = (reason: string, keep = false) => {
        finish(!keep);
        reject(new NoAnswer(reason));
      };
      const failed = (error: unknown) => {
        if (over) return;
        if (!isTransient(error)) {
          finish(false);
          reject(error);
        } else {
          if (!isOwnLimit(error)) outages?.failed(error, startedAt);
          giveUp(error instanceof Error && error.message !== '' ? error.message : String(error), isOwnLimit(error));
        }
      };
      const disarm = clock.after(withinMs, () => {
        const error = new Error(`no answer within ${withinMs} ms`);
        outages?.failed(error, startedAt);
        giveUp(error.message);
      });
      inFlight.add(giveUp);

      const ask = async (connected: PoolClient) => {
        const { name, text } = statement;
        const left = withinMs - (clock.now() - startedAt);
        const settings = { searchPath, limitMs: Math.max(1, Math.floor(left * SERVER_SHARE)) };
        try {
          const result = await exchange<Row>(connected, { name, text, values }, settings);
          if (over) return;
          if (result.standby) return failed(new Error('the server only follows another one'));
          outages?.answered();
          finish(false);
          resolve(result.rows);
        } catch (error) {
          // Neither statement was executed: a prepared statement was missing, or its name was taken.
          if (!over && wasPooled(connected, sqlState(error))) return void ask(connected);
          failed(error);
        }
      };
      pool.connect().then((connected) => {
        if (over) return connected.release();
        client = connected;
        void ask(connected);
      }, failed);
    });
  }

  return {
    run,
    stop() {
      stopped = true;
      for (const giveUp of [...inFlight]) giveUp('the store is shut down');
    },
  };
}
