import type { ClientSink, TurnRequest } from '../session/port.ts';
import type { Lease } from '../session/quota.ts';

/** Readiness of this worker to receive requests, with the reasons if it is not ready. */
export interface Readiness {
  ready: boolean;
  reasons: readonly string[];
}

/** Services of the bridge that the HTTP layer uses. */
export interface TurnService {
  /**
   * Starts a turn for a validated request and takes over its lease. Results and errors reach the client through the
   * sink.
   */
  turn(request: TurnRequest, sink: ClientSink, lease: Lease): void;
  /**
   * Returns whether a response id is known in this scope.
   *
   * @throws {StoreUnavailable}
   */
  knowsResponse(scope: string, responseId: string): Promise<boolean>;
  /**
   * Returns the first of these ids that no turn of this scope produced, or null when there is none.
   *
   * @throws {StoreUnavailable}
   */
  notMade(scope: string, ids: readonly string[]): Promise<string | null>;
  /**
   * Deletes the stored data of a response that the provider has deleted.
   *
   * @throws {StoreUnavailable}
   */
  forgetResponse(scope: string, responseId: string): Promise<void>;
  readiness(): Promise<Readiness>;
  /** True when this worker is about to stop but still serves. Answers ask clients to close their connections. */
  readonly leaving?: boolean;
  /** True when new turns are refused. Answers ask clients to close their connections. */
  readonly draining: boolean;
}
