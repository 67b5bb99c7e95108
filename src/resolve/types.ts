import type { BridgeCode } from '../errors.ts';
import type { KeyRef, LookupResult, Repeated, SessionRow, Shape, TurnRow } from '../store/port.ts';
import type { TokenEvidence } from '../token/token.ts';

/**
 * How a request was placed: the name of its last decision, or of what took its place later (for example HTTP after a
 * refused upgrade). Reported in a header, the log and a metric. These names are API.
 */
export type Outcome =
  | 'created'
  | 'live_reuse'
  | 'stale_recovery'
  | 'forwarded'
  | 'forked'
  | 'reattached'
  | 'superseded'
  | 'parallel_lane'
  | 'passed_through'
  | 'wrong_instance'
  | 'expired_continuity'
  | 'token_invalid'
  | 'refused';

/** Typed evidence of a request, computed once. Later steps do not read raw headers. */
export interface Evidence {
  scope: string;
  credentialFp: string;
  /** True if the client's own credential is sent upstream, so that provider-side ids may pass unverified. */
  credentialIsClients: boolean;
  token: TokenEvidence;
  /** `previous_response_id`. */
  anchor: string | null;
  /** The request's single hard key: thread id, otherwise session header. */
  hardKey: KeyRef | null;
  idempotencyKey: string | null;
  /** True if the client counts its attempts and this is not the first one. */
  repeats: boolean;
  clientTurnId: string | null;
  shape: Shape;
  requestFp: string;
  contextFp: string;
  /** Ids of items that the request's input references instead of containing them. */
  references: readonly string[];
  /** Id of a response with which the request is only compared (`prompt_cache_options.comparison_response_id`). */
  comparison: string | null;
  /**
   * Under a shared credential: ids that are allowed only if turns of this scope created them, with the paths of their
   * fields. Empty with the client's own credential.
   */
  owned: ReadonlyMap<string, string>;
  /** Under a shared credential: path of the first field that names, or may name, an object that no turn creates. */
  foreign: string | null;
  /** True if the upstream stores this response (`store` is not false). */
  store: boolean;
  /** Reason why this request must be sent over plain HTTP, or null. */
  passThrough: 'background' | 'conversation' | 'oversize' | 'no_websocket' | null;
}

/** View of a session that has an actor on this worker. */
export interface LocalSession {
  sessionId: string;
  scope: string;
  epoch: number;
  /** Dotted state of the session machine, e.g. `live.idle`. */
  state: string;
  /** True in any state but idle and stale, or if a turn is running or waiting. */
  busy: boolean;
  /** The response id from which the session's socket can continue. */
  socketAnchor: string | null;
  /** True if a client is attached to the running turn. */
  clientAttached: boolean;
  /**
   * True if the turn can be shown to another reader: its stream is kept from event 0, and it is running or has ended
   * well.
   */
  bufferComplete: boolean;
  activeRequestFp: string | null;
  activeParentTurnId: string | null;
  activeClientTurnId: string | null;
  activeIdempotencyKey: string | null;
  /** Response ids of ended turns whose settle has not been answered. */
  unsettledResponseIds: readonly string[];
  queueLength: number;
  queueFull: boolean;
}

/** A fact from a failed attempt to carry out an earlier decision for the same request. */
export type AttemptFact =
  | { kind: 'unreachable'; workerId: string }
  /**
   * A worker answered that it has no actor for that session. `workerId` and `epoch`: the worker that answered and the epoch
   * that it was asked for, in case the row has changed since. The answer says nothing about a later epoch.
   */
  | { kind: 'not_owner'; sessionId: string; workerId?: string; epoch?: number }
  | { kind: 'busy'; sessionId: string }
  | { kind: 'lost_race'; sessionId: string }
  | { kind: 'head_moved'; sessionId: string }
  | { kind: 'key_taken' };

/** A known turn that the request's items may continue. */
export interface Likeness {
  turn: TurnRow;
  /** Null if the session is closed or purged. */
  session: SessionRow | null;
  /**
   * True if every item of the turn's line occurs in the request in one of its forms: the turn may be the parent.
   * Otherwise only the client's items and the last item match: that may select a socket, but never a parent.
   */
  exact: boolean;
}

export interface Facts {
  me: string;
  rows: LookupResult;
  /** Actors of this worker by session id. An actor of another epoch than the row's does not count as the live owner. */
  local: ReadonlyMap<string, LocalSession>;
  /** True if the anchor's whole lineage can be rebuilt from stored items; null if there is no anchor row. */
  anchorExact: boolean | null;
  attempts: readonly AttemptFact[];
  instancePolicy: 'forward' | 'reject';
  /** The known turn whose transcript is most similar to the start of the request's input: the weakest evidence. */
  like?: Likeness | null;
  /**
   * True if the request has a session header but belongs to another conversation than that header's session, if there
   * is one. A header is only a hint about placement; the request's items take precedence.
   */
  apart?: boolean;
  /** Under a shared credential: path of a field that names an item or object which the scope did not create. */
  foreignReference?: string | null;
  /** Under a shared credential: the request names a conversation at the provider, and the scope made it. */
  ownsConversation?: boolean;
  /**
   * An actor of this scope whose turn has the same request, is running or ended undelivered, and has lost its client;
   * or a session that has ended since with such a turn, with or without a reader.
   */
  repeated?: LocalSession | null;
  /** Turns with the same request, with the workers that ran them. */
  remoteRepeats?: readonly Repeated[];
  /** The actor of this scope whose running or undelivered turn has this request's Idempotency-Key. */
  idempotent?: LocalSession | null;
}

export type Decision =
  | {
      do: 'refuse';
      outcome: Outcome;
      code: BridgeCode;
      retryAfterSeconds?: number;
      /** Path of the refused field. */
      param?: string;
    }
  | {
      do: 'create';
      outcome: 'created' | 'forked' | 'parallel_lane' | 'passed_through';
      keys: readonly KeyRef[];
      parent: TurnRow | null;
    }
  | { do: 'use'; outcome: 'live_reuse' | 'passed_through'; sessionId: string; epoch: number; anchor: TurnRow | null }
  | { do: 'queue'; outcome: 'live_reuse'; sessionId: string; epoch: number }
  | {
      do: 'claim';
      outcome: 'stale_recovery' | 'passed_through';
      session: SessionRow;
      anchor: TurnRow | null;
      ownOrphan: boolean;
    }
  | { do: 'forward'; outcome: 'forwarded'; session: Pick<SessionRow, 'id' | 'scope' | 'epoch'>; workerId: string }
  | {
      do: 'await_owner';
      outcome: 'stale_recovery';
      session: SessionRow;
      workerId: string;
      /**
       * Retry-After of `bridge_wrong_instance` if the wait ends without a verdict: the rest of the owner's lease, in
       * seconds.
       */
      retryAfterSeconds?: number;
    }
  | { do: 'reattach'; outcome: 'reattached'; sessionId: string; epoch: number }
  | { do: 'supersede'; outcome: 'superseded'; sessionId: string; epoch: number };
