import type { ClientSink, TurnRequest } from './port.ts';

/** What became of a request that was handed to another worker. */
export type ForwardResult =
  /** The client has its answer. */
  | { kind: 'served' }
  /** The client left first; the hop was ended. */
  | { kind: 'client_gone' }
  /** The peer does not own the session and started nothing. */
  | { kind: 'not_owner' }
  /**
   * Not accepted: no connection, none in time, a refusal, or no word in time. `sent` false: it is certain that the peer
   * serves nothing; true: the request may have reached it and may yet be running there.
   */
  | { kind: 'unreachable'; sent: boolean }
  /** Accepted, then the hop ended or fell silent without an answer: the turn may have run. */
  | { kind: 'broken' };

/** Where a request goes. `run`: the named epoch only. `resolve`: place it as your own; never forward it on. */
export interface HopTarget {
  workerId: string;
  url: string;
  mode: 'run' | 'resolve';
  sessionId: string | null;
  epoch: number | null;
  turnId: string;
}

/** The other workers, as far as a session has to do with them. */
export interface Peers {
  /** @param onAccepted called once, when the worker says that it took the request */
  forward(target: HopTarget, request: TurnRequest, sink: ClientSink, onAccepted: () => void): Promise<ForwardResult>;
  /** Another worker that serves and can be reached, for a worker that leaves. Throws `StoreUnavailable`. */
  serving(): Promise<{ workerId: string; url: string } | null>;
  /** Address of a worker; null when it has none. Throws `StoreUnavailable`. */
  address(workerId: string): Promise<string | null>;
  /** Tells a former owner, best effort, that its session was claimed. */
  tellClaimed(workerId: string, sessionId: string, epoch: number): void;
  /** Tries to make a silent worker's death a stored fact: by certain proof, or by its lease. Throws `StoreUnavailable`. */
  judge(workerId: string): Promise<'dead' | 'alive' | 'missing'>;
}

/** The receiving end of a hop: what this worker may do for it, and the word for "not mine". */
export interface IncomingHop {
  mode: 'run' | 'resolve';
  turnId: string;
  sessionId: string | null;
  epoch: number | null;
  notOwner(): void;
}
