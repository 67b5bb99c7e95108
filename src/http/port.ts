import type { ClientSink, TurnRequest } from '../session/port.ts';
import type { Lease } from '../session/quota.ts';

/** Whether this worker may be sent requests, and why not. */
export interface Readiness {
  ready: boolean;
  reasons: readonly string[];
}

/** What the HTTP face asks of the bridge behind it. */
export interface TurnService {
  /** Takes a validated request and its lease; everything else reaches the client through its sink. */
  turn(request: TurnRequest, sink: ClientSink, lease: Lease): void;
  /** Whether a response id is known in this scope. Throws `StoreUnavailable`. */
  knowsResponse(scope: string, responseId: string): Promise<boolean>;
  /** The first of these ids that no turn of this scope made; null without one. Throws `StoreUnavailable`. */
  notMade(scope: string, ids: readonly string[]): Promise<string | null>;
  /** Erases what is kept of a response that the provider has deleted. Throws `StoreUnavailable`. */
  forgetResponse(scope: string, responseId: string): Promise<void>;
  readiness(): Promise<Readiness>;
  /** While true, connections are asked to close: this worker is about to go, but still serves. */
  readonly leaving?: boolean;
  /** While true, new turns are refused and connections are asked to close. */
  readonly draining: boolean;
}
