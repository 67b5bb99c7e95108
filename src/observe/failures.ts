import type { Clock } from '../clock.ts';
import type { FlightEnding } from './flight.ts';
import type { TurnLine } from './log.ts';

/**
 * Request that was answered with an error. Describes it without a database row, a session or a story. Holds no content
 * and no credential.
 */
export interface FailedRequest {
  /** Wall-clock time at which the request ended, in milliseconds. */
  t: number;
  workerId: string;
  /** Id that the client received as `x-request-id`. */
  request: string;
  /** Null when the request had no session. A session whose first turn failed has no database row either. */
  session: string | null;
  /** Null for a request that did not become a turn. */
  turn: string | null;
  fault: string | null;
  cause: string | null;
  upstreamStatus: number | null;
  /** Timing and placement of the turn; null for a request that did not become a turn. */
  ending: FlightEnding | null;
}

/** The last requests that failed on this worker. Kept in memory only: a restart loses them. */
export interface Failures {
  /** Records a turn from its log line, if it failed. Ignores turns that succeeded or were cancelled. */
  turnEnded(line: TurnLine): void;
  /** Records a request that did not become a turn that the bridge answered with an error. */
  requestFailed(request: string, fault: string, cause: string | null): void;
  /**
   * Returns recorded failures, newest first.
   *
   * @param of request, turn or session id; null for all
   * @param limit maximum number of entries returned
   */
  list(of: string | null, limit: number): FailedRequest[];
}

const MOST = 500;

/** Faults caused by the client itself. They are not failures. */
const ofTheClient = new Set<string | null>(['bridge_turn_cancelled']);

/** Returns the fields of a turn's log line that describe its end. */
export function endingOf(line: TurnLine): FlightEnding {
  const { turn, outcome, decidedBy, shape, form, terminal, fault, cause, upstreamStatus } = line;
  const { heldMs, firstEventMs, totalMs } = line;
  return {
    ...{ turn, outcome, decidedBy, shape, form, terminal, fault, cause, upstreamStatus },
    ...{ heldMs, firstEventMs, totalMs },
  };
}

/** Creates the in-memory list of the last 500 failed requests. */
export function createFailures(options: { workerId(): string; clock: Pick<Clock, 'wall'> }): Failures {
  const kept: FailedRequest[] = [];
  const keep = (failed: Omit<FailedRequest, 't' | 'workerId'>) => {
    kept.push({ t: options.clock.wall(), workerId: options.workerId(), ...failed });
    if (kept.length > MOST) kept.shift();
  };
  return {
    turnEnded(line) {
      const { request, session, turn, terminal, fault, cause, upstreamStatus } = line;
      const isBad = terminal === 'failed' || terminal === 'lost' || (fault !== null && terminal !== 'completed');
      if (!isBad || ofTheClient.has(fault)) return;
      keep({ request, session, turn, fault, cause, upstreamStatus, ending: endingOf(line) });
    },
    requestFailed: (request, fault, cause) =>
      keep({ request, session: null, turn: null, fault, cause, upstreamStatus: null, ending: null }),
    list(of, limit) {
      const found: FailedRequest[] = [];
      for (let at = kept.length - 1; at >= 0 && found.length < limit; at -= 1) {
        const each = kept[at]!;
        if (of === null || [each.request, each.turn, each.session].includes(of)) found.push(each);
      }
      return found;
    },
  };
}
