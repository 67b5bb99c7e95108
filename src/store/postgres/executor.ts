import type { Pool, PoolClient } from 'pg';
import type { Clock } from '../../clock.ts';
import { exchange, wasPooled } from './exchange.ts';
import type { OutageLog } from './outage.ts';
import { isOwnLimit, isTransient, NoAnswer, sqlState } from './outcome.ts';

/** A statement: parsed once per direct connection, and the name under which it is counted. */
export interface Statement {
  name: string;
  text: string;
  /** Milliseconds for this one where the executor's own do not do; for work in the background. */
  timeoutMs?: number;
}

export interface ExecutorOptions {
  pool: Pool;
  /** The schema that holds the tables and functions. */
  schema: string;
  /** Milliseconds from the call to its answer, waiting for a connection included. */
  timeoutMs: number;
  clock: Clock;
  outages?: OutageLog;
  onStatement?: (name: string) => void;
}

export interface Executor {
  /**
   * One statement, one round trip, autocommit. Throws `NoAnswer` when its fate is unknown, else PostgreSQL's error.
   */
  run<Row>(statement: Statement, values: readonly unknown[]): Promise<Row[]>;
  /** Gives every call in flight up, and refuses later ones. */
  stop(): void;
}

/** A name in SQL text. */
export const quoted = (name: string) => `"${name.replaceAll('"', '""')}"`;

/** Temporary tables of other users of a pooled connection come last: by default they would come before everything. */
export const searchPathOf = (schema: string) => `${quoted(schema)}, pg_temp`;

/**
 * Part of a call's remaining time that the server is given, so that it gives up first: its answer ends the call with a
 * connection that can be used on, and no server process goes on with what was given up here.
 */
const SERVER_SHARE = 0.9;

/**
 * The deadline is kept on both sides: by the server, which ends what is not waited for any more, and here, because a
 * half-open connection never reports anything. The connection of a call that was given up here is destroyed with it: its
 * answer must not be read as that of a later call.
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
          // Neither was carried out: the statement was not known, or its name was taken.
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
