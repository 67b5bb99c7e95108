import type { FailedRequest } from '../observe/failures.ts';
import type { FlightRecord } from '../observe/flight.ts';
import type { StoreAdmin } from '../store/admin-port.ts';
import type { SessionReads, WorkerRegistry, WorkerRow } from '../store/port.ts';

/** State of a session that only its owner knows. */
export interface LocalView {
  /** Dotted path. A parallel state ends the path. */
  state: string;
  epoch: number;
  socketOpen: boolean;
  socketAgeMs: number | null;
  queueLength: number;
  busy: boolean;
}

/** Question to a worker about sessions it owns. */
export interface Question {
  sessionIds: readonly string[];
  /** One session whose event record is requested too. */
  recordOf: string | null;
  /** Requests failures recorded there: those of one request, turn or session id, or the newest of all. */
  failures?: { of: string | null; limit: number } | undefined;
}

/** A worker's answer. It has no entries for sessions without an actor there. */
export interface LocalAnswer {
  views: Readonly<Record<string, LocalView>>;
  record: FlightRecord | null;
  /** Absent when not requested, and in answers of workers of an earlier release. */
  failures?: readonly FailedRequest[];
}

export type OperatorAction = 'release' | 'close' | 'drop-anchor';

/** Services that the admin API uses. */
export interface AdminPort {
  store: Pick<
    StoreAdmin,
    | 'listSessions'
    | 'turnDetails'
    | 'keysOf'
    | 'forksOf'
    | 'ownedSessions'
    | 'story'
    | 'operatorRelease'
    | 'operatorClose'
    | 'dropAnchor'
  > &
    Pick<SessionReads, 'session' | 'turn'> &
    Pick<WorkerRegistry, 'workers'>;
  readonly workerId: string;
  /** Asks this worker. */
  here(question: Question): LocalAnswer;
  /** Asks another worker, with a time limit. Returns null when it is unavailable or does not answer. */
  there(worker: WorkerRow, question: Question): Promise<LocalAnswer | null>;
  /** Passes an operator's action to the local actor, if there is one. */
  tell(sessionId: string, action: OperatorAction): void;
  /**
   * Notifies another worker that one of its sessions was taken over and now has this epoch, or is to be closed. Best
   * effort.
   */
  hint(worker: WorkerRow, notice: { sessionId: string; epoch: number; news: 'claimed' | 'close' }): void;
}
