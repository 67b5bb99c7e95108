import type { BridgeCode } from '../errors.ts';
import type { KeyRef, LookupResult, Repeated, SessionRow, Shape, TurnRow } from '../store/port.ts';

/** What the resolver decided: always in a header, the log and a metric. These names are API. */
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

/** What verification made of an `x-codex-turn-state` header. Only `invalid` is refused; `ignored` is logged and counted. */
export type TokenEvidence =
  | { kind: 'none' }
  | { kind: 'ours'; sessionId: string; epoch: number }
  | { kind: 'ignored'; reason: string }
  | { kind: 'invalid'; reason: string };

/** A request, decided once into typed evidence. Nothing downstream reads raw headers. */
export interface Evidence {
  scope: string;
  credentialFp: string;
  /** The upstream sees the client's own credential, so provider-side ids may pass unverified. */
  credentialIsClients: boolean;
  token: TokenEvidence;
  /** `previous_response_id`. */
  anchor: string | null;
  /** The one hard key a request uses: thread id, else session header. */
  hardKey: KeyRef | null;
  idempotencyKey: string | null;
  /** The client counts its attempts, and this is not the first one. */
  repeats: boolean;
  clientTurnId: string | null;
  shape: Shape;
  requestFp: string;
  contextFp: string;
  /** Ids of the items that the request's input refers to instead of holding them. */
  references: readonly string[];
  /** A response that the request is only compared with (`prompt_cache_options.comparison_response_id`). */
  comparison: string | null;
  /**
   * Under a shared credential: ids that pass only when this scope's turns made them, with the paths of their fields.
   * Empty with the client's own.
   */
  owned: ReadonlyMap<string, string>;
  /** Under a shared credential: path of the first field that names, or may name, what no turn makes. */
  foreign: string | null;
  /** The upstream keeps this response (`store` is not false). */
  store: boolean;
  /** Why this request must go over plain HTTP, or null. */
  passThrough: 'background' | 'conversation' | 'oversize' | 'no_websocket' | null;
}

/** What this worker's registry knows of a session that has an actor here. */
export interface LocalSession {
  sessionId: string;
  /**
   * The session's scope. Without it the session is only recognised through a row of the look-up: ids of unsettled
   * responses must never be matched across scopes.
   */
  scope?: string;
  epoch: number;
  /** Dotted state of the session machine, e.g. `live.idle`. */
  state: string;
  /** Any state but idle or stale, or a turn is waiting. */
  busy: boolean;
  /** The id this very socket can continue from. */
  socketAnchor: string | null;
  /** Client attached to the running turn. */
  clientAttached: boolean;
  /** The turn can be shown to another reader from event 0: that is kept, and the turn runs or has ended well. */
  bufferComplete: boolean;
  activeRequestFp: string | null;
  activeParentTurnId: string | null;
  activeClientTurnId: string | null;
  activeIdempotencyKey: string | null;
  /** Response ids of ended turns whose settle is unanswered. */
  unsettledResponseIds: readonly string[];
  queueLength: number;
  queueFull: boolean;
}

/** A fact learned by a failed attempt to carry out an earlier resolution of the same request. */
export type AttemptFact =
  | { kind: 'unreachable'; workerId: string }
  /** The owner answered that it runs no actor of that session. `workerId`: who said so, if the row has moved since. */
  | { kind: 'not_owner'; sessionId: string; workerId?: string }
  | { kind: 'busy'; sessionId: string }
  | { kind: 'lost_race'; sessionId: string }
  | { kind: 'head_moved'; sessionId: string }
  | { kind: 'key_taken' };

/** A known turn that the request's items seem to continue. */
export interface Likeness {
  turn: TurnRow;
  /** Null when the session is closed or purged. */
  session: SessionRow | null;
  /**
   * Every item of the turn's line is the request's, in one of its forms: the turn may be the parent. Otherwise only what
   * clients said and the last item agree, which may choose a socket and never a parent.
   */
  exact: boolean;
}

export interface Facts {
  me: string;
  rows: LookupResult;
  /** Actors of this worker by session id; an actor of another epoch than the row's is no live owner. */
  local: ReadonlyMap<string, LocalSession>;
  /** Whether the anchor's whole lineage can be rebuilt from stored items; null when there is no anchor row. */
  anchorExact: boolean | null;
  attempts: readonly AttemptFact[];
  instancePolicy: 'forward' | 'reject';
  /** The known turn whose transcript is most like the start of the request's input: the weakest evidence. */
  like?: Likeness | null;
  /**
   * The request came under a session header, but is of another conversation than that header's session, if it has one:
   * the header is a hint about place, and what the request holds says otherwise.
   */
  apart?: boolean;
  /** Under a shared credential: path of a field that names an item or an object that the scope did not make. */
  foreignReference?: string | null;
  /**
   * The actor of this scope whose turn asks the same, running or ended undelivered, and has lost its client; or a session
   * that has ended since with such a turn, read or not.
   */
  repeated?: LocalSession | null;
  /** Turns that asked the same, with the workers that ran them. */
  elsewhere?: readonly Repeated[];
  /** The actor of this scope whose running (or undelivered) turn came with this request's Idempotency-Key. */
  idempotent?: LocalSession | null;
}

/** Parent and expected head are fixed when a request is admitted and are part of the fenced start. */
export interface Placement {
  /** Turn the request continues, or null for a new root. */
  parent: TurnRow | null;
  expectedHead: string | null;
}

export type Decision =
  | {
      do: 'refuse';
      outcome: Outcome;
      code: BridgeCode;
      retryAfterSeconds?: number;
      /** Path of the field that is refused. */
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
      /** What `bridge_wrong_instance` says when the wait ends without a verdict: the rest of the owner's lease. */
      retryAfterSeconds?: number;
    }
  | { do: 'reattach'; outcome: 'reattached'; sessionId: string; epoch: number }
  | { do: 'supersede'; outcome: 'superseded'; sessionId: string; epoch: number };
