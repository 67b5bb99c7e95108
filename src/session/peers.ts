import type { TurnEnd } from '../store/port.ts';
import type { ClientSink, TurnRequest } from './port.ts';

/** What became of a request that was handed to another worker. */
export type ForwardResult =
  /** The client has its answer. `terminal`: how its turn ended. */
  | { kind: 'served'; terminal: TurnEnd }
  /** The client left first; the hop was ended. */
  | { kind: 'client_gone' }
  /** The peer does not own the session and started nothing. */
  | { kind: 'not_owner' }
  /**
   * Not accepted. `sent` false: it is certain that the peer serves nothing; true: the request may have reached it and may
   * yet be running there. `again`: the hop failed, which says nothing of the peer; false: the peer is dead, or cannot be
   * reached, or has refused.
   */
  | { kind: 'unreachable'; sent: boolean; again: boolean }
  /** Accepted, then the hop ended without an answer: the turn may have run. `again` as above. */
  | { kind: 'broken'; again: boolean };

/** How to tell a slow peer from one that cannot be reached, while it is waited for. */
export interface Patience {
  /**
   * What is known of a peer that has not answered.
   *
   * @returns `slow`: it may answer yet. `dead`: its death is a stored fact. `unreachable`: it has renewed its lease so
   *   often since it was asked or last heard that it would have answered what had reached it, or several connections in
   *   a row were closed before it answered on them.
   */
  ask(): Promise<'slow' | 'dead' | 'unreachable'>;
  /** A connection to the peer was closed before a byte of an answer came over it. */
  dropped(): void;
  /** The peer was heard: its silence before that says nothing of what comes. */
  heard(): void;
}

/** How a hop is waited for. */
export interface Waiting {
  patience: Patience;
  /** Ends the hop when its answer is not wanted any more. */
  signal?: AbortSignal | undefined;
  /** Called once, when the peer says that it took the request. */
  onAccepted?(): void;
}

/** Where a request goes. `run`: the named epoch only. `resolve`: place it as your own; never forward it on. */
export interface HopTarget {
  workerId: string;
  url: string;
  mode: 'run' | 'resolve';
  sessionId: string | null;
  epoch: number | null;
  turnId: string;
  /** Counts the hops of this turn to this worker: a later one takes up what an earlier one has begun. */
  attempt: number;
}

/** The other workers, as far as a session has to do with them. */
export interface Peers {
  forward(target: HopTarget, request: TurnRequest, sink: ClientSink, waiting: Waiting): Promise<ForwardResult>;
  /** Patience with a worker that is about to be asked. */
  patience(workerId: string): Patience;
  /** Another worker that serves and can be reached, for a worker that leaves. Throws `StoreUnavailable`. */
  serving(): Promise<{ workerId: string; url: string } | null>;
  /** Address of a worker; null when it has none. Throws `StoreUnavailable`. */
  address(workerId: string): Promise<string | null>;
  /** Tells a former owner, best effort, that its session was claimed. */
  tellClaimed(workerId: string, sessionId: string, epoch: number): void;
  /** Tries to make a silent worker's death a stored fact: by certain proof, or by its lease. Throws `StoreUnavailable`. */
  judge(workerId: string): Promise<'dead' | 'alive'>;
}

/** The receiving end of a hop: what this worker may do for it, and the word for "not mine". */
export interface IncomingHop {
  mode: 'run' | 'resolve';
  turnId: string;
  sessionId: string | null;
  epoch: number | null;
  attempt: number;
  notOwner(): void;
}
