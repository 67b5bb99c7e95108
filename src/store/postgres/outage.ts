import type { Clock } from '../../clock.ts';

/** Tells of a database that was lost while running: once when it is lost and once when it is back. */
export interface OutageLog {
  /** @param startedAt when the failed call began, milliseconds of the clock: an answer since then says that the database is there */
  failed(error: unknown, startedAt: number): void;
  answered(): void;
}

export interface OutageLogOptions {
  /** The database, without credentials. */
  where: string;
  /** Why it was not reached, in words. */
  causeOf(error: unknown): string;
  clock: Clock;
  logger: { warn(details: object, message: string): void };
}

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
