import type { TurnEnd } from '../store/port.ts';
import type { ClientSink, TurnRequest } from './port.ts';

/** Result of forwarding a request to another worker. */
export type ForwardResult =
  /** The client has its answer. `terminal`: the end of its turn. */
  | { kind: 'served'; terminal: TurnEnd }
  /** The client left first; the hop was aborted. */
  | { kind: 'client_gone' }
  /** The peer does not own the session and did not start the turn. */
  | { kind: 'not_owner' }
  /**
   * The peer did not accept the request. `sent`: false if the peer certainly does not run the turn; true if the request
   * may have reached it, so that the turn may still be running there. `again`: true if only the hop failed, which says
   * nothing about the peer; false if the peer is dead, unreachable, or refused the request.
   */
  | { kind: 'unreachable'; sent: boolean; again: boolean }
  /**
   * The peer accepted the request, then the hop ended without an answer: the turn may have run. `again`: see
   * `unreachable`.
   */
  | { kind: 'broken'; again: boolean };

/** Distinguishes a slow peer from an unreachable one while its answer is awaited. */
export interface Patience {
  /**
   * Returns what is known about a peer that has not answered.
   *
   * @returns `slow`: it may still answer. `dead`: its death is stored. `unreachable`: since it was asked or last heard
   *   it has renewed its lease so often that it would have answered a request that had reached it, or several
   *   connections in a row were closed before it answered on them
   */
  ask(): Promise<'slow' | 'dead' | 'unreachable'>;
  /** Records that a connection to the peer was closed before any byte of an answer arrived. */
  dropped(): void;
  /** Records that the peer was heard. Earlier silence and dropped connections do not count any more. */
  heard(): void;
}

/** Options for waiting for the answer to a hop. */
export interface Waiting {
  patience: Patience;
  /** Aborts the hop when its answer is not needed any more. */
  signal?: AbortSignal | undefined;
  /** Called once, when the peer has accepted the request. */
  onAccepted?(): void;
}

/**
 * Target of a forwarded request. `run`: serve it only at the given epoch. `resolve`: place it like a client's request,
 * but never forward it.
 */
export interface HopTarget {
  workerId: string;
  url: string;
  mode: 'run' | 'resolve';
  sessionId: string | null;
  epoch: number | null;
  turnId: string;
  /**
   * Number of earlier hops of this turn, to any worker. A hop above 0 resumes what an earlier one may have begun at the
   * target.
   */
  attempt: number;
}

/** Access to the other workers, as far as sessions need it. */
export interface Peers {
  forward(target: HopTarget, request: TurnRequest, sink: ClientSink, waiting: Waiting): Promise<ForwardResult>;
  /** Starts tracking the silence of a worker that is about to be asked. */
  patience(workerId: string): Patience;
  /**
   * Returns another worker that is serving and reachable, for a worker that is draining. Null if there is none.
   *
   * @throws StoreUnavailable if the store does not answer
   */
  serving(): Promise<{ workerId: string; url: string } | null>;
  /**
   * Returns the internal URL of a worker; null if it has none.
   *
   * @throws StoreUnavailable if the store does not answer
   */
  address(workerId: string): Promise<string | null>;
  /** Notifies a former owner that its session was claimed. Best effort: the notice may be lost. */
  tellClaimed(workerId: string, sessionId: string, epoch: number): void;
  /**
   * Checks whether a silent worker is dead, and stores its death if its liveness socket or its expired lease proves it.
   *
   * @throws StoreUnavailable if the store does not answer
   */
  judge(workerId: string): Promise<'dead' | 'alive'>;
}

/** A hop as received by this worker. */
export interface IncomingHop {
  mode: 'run' | 'resolve';
  turnId: string;
  sessionId: string | null;
  epoch: number | null;
  attempt: number;
  /** Answers that this worker does not own the session and has not started the turn. */
  notOwner(): void;
}
