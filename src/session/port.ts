import type { BridgeError } from '../errors.ts';
import type { HeadFields } from '../headers.ts';
import type { Outcome } from '../resolve/types.ts';
import type { ReadRequest } from '../transcript/types.ts';
import type { UpstreamCredential } from '../upstream/headers.ts';
import type { UpstreamAnswer, UpstreamTarget } from '../upstream/port.ts';

/** Identity of the requester, established by authentication before anything else happens. */
export interface Caller {
  /** The tenant's name, `local`, or a keyed hash of a passed-through credential. No data crosses scopes. */
  scope: string;
  /** Keyed hash of the credential that is sent upstream. */
  credentialFp: string;
  /** Value of the `authorization` header that is sent upstream; null sends none. Never logged. */
  upstreamAuthorization: string | null;
  /** False when a shared upstream key replaces the client's credential. */
  credentialIsClients: boolean;
  /** `api-key` and `x-api-key` of a client whose own credential is passed on. Never logged. */
  upstreamKeys?: Readonly<Record<string, string>> | undefined;
  /** Upstream that the embedding application has chosen; absent: the configured one. The scope differs with it. */
  target?: UpstreamTarget | undefined;
}

/** Returns the tenant's name in a scope; null where a scope is a credential, or everything. */
export const tenantOf = (scope: string): string | null => /^tenant(?:@\w+)?:(.*)$/s.exec(scope)?.[1] ?? null;

/** Returns whether the client does not know the credential that is sent upstream for it. */
export const isHidden = ({ credentialIsClients, upstreamAuthorization }: Caller): boolean =>
  !credentialIsClients && upstreamAuthorization !== null;

/** Returns the credential that is sent upstream for a caller. */
export const credentialOf = (caller: Caller): UpstreamCredential => ({
  authorization: caller.upstreamAuthorization,
  keys: caller.upstreamKeys ?? {},
  isClients: caller.credentialIsClients,
});

/** One `POST .../responses`, or one `response.create` of a client's WebSocket, read and validated, before any resource is opened for it. */
export interface TurnRequest extends ReadRequest {
  requestId: string;
  caller: Caller;
  /** The request's own headers, lower-cased. */
  headers: Readonly<Record<string, string>>;
  /** Time at which the request's headers were read, in monotonic milliseconds. */
  receivedAt: number;
  /** How the client is connected. Default: HTTP. */
  clientTransport?: 'websocket' | undefined;
}

/** Data that is known before the first byte of the answer and becomes response headers. */
export interface AnswerHead extends HeadFields {
  outcome: Outcome;
}

/**
 * The client's end of one request. The session writes to it; it does not depend on sessions. Exactly one of `end`,
 * `fail`, `relay` or `cut` ends it; later calls are ignored.
 */
export interface ClientSink {
  /** Sets the data for the answer's headers. May be called again until the status has been sent. */
  head(head: AnswerHead): void;
  /**
   * Writes one event of the stream. Telemetry does not release the held-back status.
   *
   * @param json the event's JSON text
   * @returns false if the client reads more slowly than the bridge writes; `onDrain` reports when it has caught up
   */
  event(type: string, json: string, telemetry: boolean): boolean;
  /** Sends the held-back status (2 s after the frame was sent). A non-streaming client's answer is not affected. */
  open(): void;
  /** Writes the terminal event and closes the answer. */
  end(type: 'response.completed' | 'response.incomplete' | 'response.failed', json: string): void;
  /**
   * Ends the request with an error of the bridge: an error envelope while the status is held back, afterwards one
   * `response.failed` event.
   */
  fail(error: BridgeError): void;
  /**
   * Relays the provider's own refusal with unchanged status and body. After the status was sent it becomes
   * `response.failed`.
   */
  relay(answer: UpstreamAnswer): void;
  /** Closes the connection without an answer, because another connection of the same client reads it now. */
  cut(): void;
  /** False once the connection is closed. */
  readonly attached: boolean;
  /** True once an event (not just a comment) has been written to the client. */
  readonly shown: boolean;
  /** True once the status, or the whole answer, has been sent: from then on a failure can only be reported as an event. */
  readonly committed: boolean;
  /** Registers a listener that is called once if the client disconnects before its answer was delivered. */
  onGone(listener: () => void): void;
  onDrain(listener: () => void): void;
  /**
   * Registers a listener that is called once when the answer was delivered: the terminal event was accepted, and
   * `finish` came before `close`.
   */
  onDelivered(listener: () => void): void;
}

/** How far the shutdown of a worker has come. A flag that is set stays set. */
export interface Shutdown {
  /** The worker is about to leave, but still serves. */
  leaving: boolean;
  /** The lame-duck time is over: a request is accepted only if another worker can take it. */
  emptying: boolean;
  /** Nothing new is admitted. */
  refusing: boolean;
}
