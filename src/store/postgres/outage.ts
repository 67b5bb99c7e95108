import type { Log } from '../../log.ts';
import type { Clock } from '../../system.ts';

/** Logs the loss of a running database: once when it is lost and once when it is back. */
export interface OutageLog {
  /**
   * Records a failed call.
   *
   * @param startedAt start of the failed call, in milliseconds of the clock; an answer received after it shows that the
   *   database is available
   */
  failed(error: unknown, startedAt: number): void;
  answered(): void;
}

export interface OutageLogOptions {
  /** The database, without credentials. */
  where: string;
  /** Returns a readable cause of the failure. */
  causeOf(error: unknown): string;
  clock: Clock;
  logger: Log<'warn'>;
}

/** Creates an outage log. A failure is ignored if an answer arrived after the failed call began. */
export function createOutageLog({ where, causeOf, clock, logger }: OutageLogOptions): OutageLog {
  let lastAnswerAt = Number.NEGATIVE_INFINITY;
  let lostAt: number | null = null;
  return {
    failed(error, startedAt) {
      if (lostAt !== null || lastAnswerAt >= startedAt) return;
      lostAt = clock.now();
      logger.warn({ database: where, cause: causeOf(error) }, 'the database does not answer; calls are tried again');
    },
    answered() {
      lastAnswerAt = clock.now();
      if (lostAt === null) return;
      logger.warn({ database: where, afterMs: Math.round(lastAnswerAt - lostAt) }, 'the database answers again');
      lostAt = null;
    },
  };
}
