import type { StoreAdmin } from '../store/admin-port.ts';
import type { SessionReads, WorkerRegistry } from '../store/port.ts';

/** One thing that happened to a session here. */
export interface TimelineEntry {
  /** Wall clock, milliseconds since the epoch. */
  t: number;
  event: string;
  /** State afterwards. */
  state: string;
}

/** What only the worker that runs a session knows of it. */
export interface LocalView {
  state: string;
  epoch: number;
  socketOpen: boolean;
  socketAgeMs: number | null;
  queueLength: number;
  busy: boolean;
  timeline: readonly TimelineEntry[];
}

export type OperatorAction = 'release' | 'close' | 'drop-anchor';

/** What the admin API stands on. */
export interface AdminPort {
  store: Pick<
    StoreAdmin,
    'listSessions' | 'turnDetails' | 'keysOf' | 'operatorRelease' | 'operatorClose' | 'dropAnchor'
  > &
    Pick<SessionReads, 'session' | 'turn'> &
    Pick<WorkerRegistry, 'workers'>;
  readonly workerId: string;
  local(sessionId: string): LocalView | null;
  /** Tells the actor here, if there is one, what the operator wants. */
  tell(sessionId: string, action: OperatorAction): void;
}
