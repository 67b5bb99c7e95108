import type { FailedRequest } from '../observe/failures.ts';
import type { FlightRecord } from '../observe/flight.ts';
import type { StoreAdmin } from '../store/admin-port.ts';
import type { SessionReads, WorkerRegistry, WorkerRow } from '../store/port.ts';

/** What only the worker that runs a session knows of it. */
export interface LocalView {
  /** Dotted; a parallel state ends it. */
  state: string;
  epoch: number;
  socketOpen: boolean;
  socketAgeMs: number | null;
  queueLength: number;
  busy: boolean;
}

/** What a worker is asked about sessions it owns. */
export interface Question {
  sessionIds: readonly string[];
  /** One session of which all that is remembered is wanted too. */
  recordOf: string | null;
  /** Requests that failed there are wanted: those of one request, turn or session id, or the newest of all. */
  failures?: { of: string | null; limit: number } | undefined;
}

/** What it answers: nothing about sessions that have no actor there. */
export interface LocalAnswer {
  views: Readonly<Record<string, LocalView>>;
  record: FlightRecord | null;
  /** Absent where they were not asked for, and from a worker of an earlier release. */
  failures?: readonly FailedRequest[];
}

export type OperatorAction = 'release' | 'close' | 'drop-anchor';

/** What the admin API stands on. */
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
  /** Asks another one. Bounded; null when it cannot be asked or does not answer. */
  there(worker: WorkerRow, question: Question): Promise<LocalAnswer | null>;
  /** Tells the actor here, if there is one, what the operator wants. */
  tell(sessionId: string, action: OperatorAction): void;
  /** Tells another worker that a session of it was taken away and has this epoch now, or shall be closed. Best effort. */
  hint(worker: WorkerRow, notice: { sessionId: string; epoch: number; news: 'claimed' | 'close' }): void;
}
