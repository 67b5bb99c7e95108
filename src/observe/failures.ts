import type { Clock } from '../clock.ts';
import type { FlightEnding } from './flight.ts';
import type { TurnLine } from './log.ts';

/** A request that got an error: what is known of it without a row, a session or a story. No content, no credential. */
export interface FailedRequest {
  /** Wall milliseconds at which it ended. */
  t: number;
  workerId: string;
  /** The id its client was given as `x-request-id`. */
  request: string;
  /** Null when it never had one; a session whose first turn failed has no row either. */
  session: string | null;
  /** Null for a request that was no turn. */
  turn: string | null;
  fault: string | null;
  cause: string | null;
  upstreamStatus: number | null;
  /** How the turn went; null for a request that was no turn. */
  ending: FlightEnding | null;
}

/** The last requests that failed on this worker. They are not stored: a restart forgets them. */
export interface Failures {
  /** Takes the log line of a turn that has ended; one that ended well, or was cancelled, is passed over. */
  turnEnded(line: TurnLine): void;
  /** A request that was no turn got an error of the bridge. */
  requestFailed(request: string, fault: string, cause: string | null): void;
  /** @param of a request, turn or session id; null for all. Newest first. */
  list(of: string | null, limit: number): FailedRequest[];
}

const MOST = 500;

/** What the client itself ended is no failure. */
const ofTheClient = new Set<string | null>(['bridge_turn_cancelled']);

export function endingOf(line: TurnLine): FlightEnding {
  const { turn, outcome, decidedBy, shape, form, terminal, fault, cause, upstreamStatus } = line;
  const { heldMs, firstEventMs, totalMs } = line;
  return {
    ...{ turn, outcome, decidedBy, shape, form, terminal, fault, cause, upstreamStatus },
    ...{ heldMs, firstEventMs, totalMs },
  };
}

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
