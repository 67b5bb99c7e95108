import type { Pool, PoolClient } from 'pg';
import type { Clock } from '../../clock.ts';
import { isTransient, NoAnswer } from './outcome.ts';

/** A named prepared statement: parsed once per connection, and the name under which it is counted. */
export interface Statement {
  name: string;
  text: string;
}

export interface ExecutorOptions {
  pool: Pool;
  /** Milliseconds from the call to its answer, waiting for a connection included. */
  timeoutMs: number;
  clock: Clock;
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

/**
 * The deadline is kept on this side, because a half-open connection never reports anything. The connection of a call
 * that was given up is destroyed with it: its answer must not be read as that of a later call.
 */
export function createExecutor({ pool, timeoutMs, clock, onStatement }: ExecutorOptions): Executor {
  const inFlight = new Set<(reason: string) => void>();
  let stopped = false;

  function run<Row>(statement: Statement, values: readonly unknown[]): Promise<Row[]> {
    if (stopped) return Promise.reject(new NoAnswer('the store is shut down'));
    onStatement?.(statement.name);
    return new Promise((resolve, reject) => {
      let client: PoolClient | null = null;
      let over = false;

      const finish = (destroy: boolean) => {
        over = true;
        disarm();
        inFlight.delete(giveUp);
        client?.release(destroy);
      };
      const giveUp = (reason: string) => {
        finish(true);
        reject(new NoAnswer(reason));
      };
      const failed = (error: unknown) => {
        if (over) return;
        if (!isTransient(error)) {
          finish(false);
          reject(error);
        } else {
          giveUp(error instanceof Error && error.message !== '' ? error.message : String(error));
        }
      };
      const disarm = clock.after(timeoutMs, () => giveUp(`no answer within ${timeoutMs} ms`));
      inFlight.add(giveUp);

      pool.connect().then((connected) => {
        if (over) return connected.release();
        client = connected;
        connected.query({ name: statement.name, text: statement.text, values: [...values] }).then((result) => {
          if (over) return;
          finish(false);
          resolve(result.rows);
        }, failed);
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
