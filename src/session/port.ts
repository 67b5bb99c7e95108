import type { BridgeError } from '../errors.ts';
import type { Outcome } from '../resolve/types.ts';
import type { ReadRequest } from '../transcript/types.ts';
import type { UpstreamCredential } from '../upstream/headers.ts';
import type { UpstreamAnswer } from '../upstream/port.ts';

/** Who is asking, decided by authentication before anything else happens. */
export interface Caller {
  /** The tenant's name, `local`, or a keyed hash of a passed-through credential. Nothing crosses scopes. */
  scope: string;
  /** Keyed hash of the credential the upstream will see. */
  credentialFp: string;
  /** Value of the `authorization` header the upstream will see; null sends none. Never logged. */
  upstreamAuthorization: string | null;
  /** False when a shared upstream key replaces the client's credential. */
  credentialIsClients: boolean;
  /** `api-key` and `x-api-key` of a client whose own credential is passed on. Never logged. */
  upstreamKeys?: Readonly<Record<string, string>> | undefined;
}

/** What the upstream sees of a caller. */
export const credentialOf = (caller: Caller): UpstreamCredential => ({
  authorization: caller.upstreamAuthorization,
  keys: caller.upstreamKeys ?? {},
  isClients: caller.credentialIsClients,
});

/** One `POST .../responses`, read and validated, before anything was opened for it. */
export interface TurnRequest extends ReadRequest {
  requestId: string;
  caller: Caller;
  /** The request's own headers, lower-cased. */
  headers: Readonly<Record<string, string>>;
  /** Monotonic milliseconds at which the request's headers were read. */
  receivedAt: number;
}

/** Known before the first byte: these become response headers. */
export interface AnswerHead {
  outcome: Outcome;
  sessionId: string | null;
  /** Turn-state token; only ever set once the row it names is durable. */
  token: string | null;
  /** The provider's own headers that concern the client, names in lower case. */
  headers?: Readonly<Record<string, string>> | undefined;
}

/**
 * The client's end of one request. The session writes to it; it knows nothing of sessions.
 * Exactly one of `end`, `fail` or `relay` ends it; later calls are ignored.
 */
export interface ClientSink {
  /** Sets what the answer's headers will say. May be called again until the status has left. */
  head(head: AnswerHead): void;
  /**
   * One event of the stream: `type` and the JSON text to show. Telemetry does not release the held-back status.
   * False: the client reads slower than we write; `onDrain` tells when to go on.
   */
  event(type: string, json: string, telemetry: boolean): boolean;
  /** Releases the held-back status (2 s after the frame was sent); a non-streaming client ignores it. */
  open(): void;
  /** The terminal event: written, then the answer is closed. */
  end(type: 'response.completed' | 'response.incomplete' | 'response.failed', json: string): void;
  /** The request failed in the bridge: an error envelope while the status is held back, else one `response.failed`. */
  fail(error: BridgeError): void;
  /** The provider's own refusal, status and body unchanged; after the status has left it becomes `response.failed`. */
  relay(answer: UpstreamAnswer): void;
  /** Ends the connection without a word: another one of the same client has taken the answer over. */
  cut(): void;
  /** False once the connection is gone. */
  readonly attached: boolean;
  /** An event other than a comment has been written to the client. */
  readonly shown: boolean;
  /** The status, or the whole answer, has left: from now on a failure can only be an event. */
  readonly committed: boolean;
  /** Called once when the client goes away before its answer was delivered. */
  onGone(listener: () => void): void;
  onDrain(listener: () => void): void;
  /** Called once when the answer was delivered: the terminal was accepted and `finish` came before `close`. */
  onDelivered(listener: () => void): void;
}
