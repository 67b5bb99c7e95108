/**
 * The store port: what Holdfast asks of durable storage, and the verdicts it answers with.
 *
 * Two implementations keep this contract (PostgreSQL and in-memory) and one suite holds both to it.
 * The five fence calls are idempotent: a caller that got no answer repeats the same call with the same ids
 * until it is answered. Time is always the store's own `now()`.
 */

import type { StoreAdmin } from './admin-port.ts';

export type SessionStateName = 'connecting' | 'live' | 'reconnecting' | 'stale' | 'closed';
export type TurnEnd = 'completed' | 'incomplete' | 'failed' | 'cancelled' | 'lost';
export type TurnState = 'active' | TurnEnd;
/** `fresh`: no history; `full`: whole history, no anchor; `delta`: anchor and new items. */
export type Shape = 'fresh' | 'full' | 'delta';
/** Whether a turn's context can be rebuilt from its items: exactly, only through its upstream id, or not at all. */
export type ReplayClass = 'exact' | 'anchor_only' | 'never';
export type WorkerState = 'serving' | 'draining' | 'dead';

/** A hard continuity key; `hash` is hex SHA-256 of the value, never the value itself. */
export interface KeyRef {
  kind: 'thread' | 'session';
  hash: string;
}

export interface WorkerRow {
  id: string;
  internalUrl: string | null;
  /** Unix socket (or named pipe) whose refusal proves this worker dead; only with the embedded database. */
  livenessPath: string | null;
  state: WorkerState;
  version: string;
  /** Milliseconds until its heartbeat expires, by the store's clock when the row was read; may be negative. */
  leaseLeftMs: number;
}

export interface SessionRow {
  id: string;
  scope: string;
  state: SessionStateName;
  snapshot: unknown;
  machineVersion: number;
  /** Raised by every write to the row. */
  revision: number;
  ownerWorkerId: string | null;
  ownerNonce: string | null;
  /** Fencing token: raised by every claim, never lowered. */
  epoch: number;
  activeTurnId: string | null;
  headTurnId: string | null;
  upstreamId: string;
  model: string | null;
  /** The head's upstream id can no longer be used and its items are not known (see settle's second form). */
  anchorLost: boolean;
}

export interface TurnRow {
  id: string;
  sessionId: string;
  scope: string;
  parentTurnId: string | null;
  epoch: number;
  authorWorkerId: string;
  shape: Shape;
  state: TurnState;
  responseId: string | null;
  requestFp: string;
  contextFp: string;
  /**
   * Fingerprint of the place in a transcript at which this turn ends, its output as streamed. It only chooses candidates
   * (see `transcript/line.ts`); whether a request continues the turn is decided by the forms of its line. Null until
   * settled, and when the transcript is not known.
   */
  transcriptFp: string | null;
  /** Chain fingerprint over the items that clients made, up to here: what `transcriptFp` of later turns is made from. */
  clientFp: string | null;
  /** Number of items up to and including this turn's outputs; null until settled. */
  itemCount: number | null;
  replay: ReplayClass;
  /** The provider keeps this response (`store: true`), so its id may be used as an anchor on any socket. */
  storedUpstream: boolean;
  /** Fingerprint of the credential the provider knows this response under (see `Scope.credentialFp`). */
  credentialFp: string;
  /** The client's own id of its user turn (Codex `turn_id`), if it sent one. */
  clientTurnId: string | null;
}

/** A turn together with what it added to its lineage. */
export interface TurnItems {
  turn: TurnRow;
  /** JSON text of an array: the new input items. Null when the items are not (or no longer) stored. */
  input: string | null;
  /** JSON text of an array: the output items. */
  output: string | null;
}

/** One turn of a line, as far as recognising its items needs it. */
export interface LineTurn {
  id: string;
  parentTurnId: string | null;
  /** What the turn added, as `encodeForms` of `transcript/line.ts` wrote it; null when that is not known. */
  forms: string | null;
}

/** A turn of the scope whose output holds an item of that id at the provider. */
export interface ReferencedItem {
  itemId: string;
  turnId: string;
  storedUpstream: boolean;
  credentialFp: string;
}

/** What is known when a turn starts. Ids come from the worker so that a repeated call names the same rows. */
export interface TurnStart {
  id: string;
  parentTurnId: string | null;
  shape: Shape;
  requestFp: string;
  contextFp: string;
  storedUpstream: boolean;
  credentialFp: string;
  clientTurnId: string | null;
}

/**
 * What the bridge did with a turn: for people, nothing decides by it. Times are milliseconds since the request was read.
 * No content and no credential.
 */
export interface TurnFacts {
  outcome: string;
  /** How the request was sent upstream; null when it never was. */
  form: 'full' | 'delta' | null;
  bytesFromClient: number;
  bytesSent: number;
  /** Frames that were sent for it: 2 after a resend. */
  creates: number;
  fault: string | null;
  upstreamStatus: number | null;
  heldMs: number | null;
  firstEventMs: number | null;
  totalMs: number;
}

/** How a turn ended. `items` null means the bare end (nothing of the content is stored; `replay` must be `never`). */
export interface TurnResult {
  state: TurnEnd;
  responseId: string | null;
  /** Their JSON texts. */
  items: { input: readonly string[]; output: readonly string[] } | null;
  transcriptFp: string | null;
  clientFp: string | null;
  /** Other places at which the same turn ends, as for output that was listed otherwise than streamed; null without. */
  secondFp: string | null;
  thirdFp: string | null;
  /** See `LineTurn.forms`. */
  forms: string | null;
  /** Provider ids of output items that later requests of the scope may refer to. */
  itemIds: readonly string[];
  itemCount: number | null;
  replay: ReplayClass;
  usage: unknown;
  error: unknown;
  facts?: TurnFacts | null;
  /** Set on the session together with this end: its head cannot be continued any more. */
  anchorLost?: boolean;
}

/** Who is writing: this boot of this worker, and the nonce of its claim. */
export interface Writer {
  me: string;
  nonce: string;
}

/** Added to every fence call: what the row shows to people and to the next worker. */
export interface RowFace {
  state: SessionStateName;
  snapshot: unknown;
  machineVersion: number;
}

export interface CreateCall extends Writer {
  sessionId: string;
  scope: string;
  keys: readonly KeyRef[];
  upstreamId: string;
  model: string | null;
  /** The turn the new session's head starts at (a fork), or null. */
  headTurnId: string | null;
  turn: TurnStart;
  face: RowFace;
}

export interface StartCall extends Writer {
  sessionId: string;
  epoch: number;
  expectedHead: string | null;
  turn: TurnStart;
  face: RowFace;
}

export interface SettleCall extends Writer {
  sessionId: string;
  epoch: number;
  turnId: string;
  result: TurnResult;
  face: RowFace;
}

export interface ClaimCall extends Writer {
  sessionId: string;
  epochRead: number;
  revisionRead: number;
}

export interface ReleaseCall extends Writer {
  sessionId: string;
  epoch: number;
  face: RowFace;
}

export interface CloseCall extends Writer {
  sessionId: string;
  epoch: number;
  face: RowFace;
}

/**
 * No answer (`unknown`: timeout, lost connection; it may or may not have been applied; repeat the same call)
 * or an answer that says the call cannot be carried out (`rejected`: the store reported an error of its own).
 */
export type NoVerdict = { verdict: 'unknown'; reason: string } | { verdict: 'rejected'; reason: string };
export type Answer<V> = V | NoVerdict;

/** `leaseLeftMs`: what is left of the writer's own heartbeat lease by the store's clock. */
/** `already` only while that first turn still runs under this nonce: a later copy of the call is `fenced`. */
export type CreateVerdict =
  | { verdict: 'ok' | 'already'; leaseLeftMs: number; epoch: number; revision: number }
  | { verdict: 'key_taken' }
  | { verdict: 'fenced' };
export type StartVerdict =
  | { verdict: 'ok' | 'already'; leaseLeftMs: number; revision: number }
  | { verdict: 'ended' | 'busy' | 'head_moved' | 'fenced' };
/**
 * `ok`: the fence held. `already`: an end was recorded under the fence before, and stays. `branch`: the session is not
 * the caller's any more (the turn row is completed all the same), or the turn is not its own; repeated, still `branch`.
 */
export type SettleVerdict = { verdict: 'ok'; revision: number } | { verdict: 'already' } | { verdict: 'branch' };
export type ClaimVerdict =
  | { verdict: 'row'; row: SessionRow; lostTurnId: string | null }
  | { verdict: 'busy' }
  | { verdict: 'lost_race' }
  | { verdict: 'fenced' };
export type ReleaseVerdict = { verdict: 'ok' | 'already' | 'busy' | 'fenced' };
/** Close deletes the session's keys in the same statement; a session with an active turn answers `busy`. */
export type CloseVerdict = { verdict: 'ok' | 'already' | 'busy' | 'fenced' };
/** `dead`: this worker has been declared dead (or its row is missing) and must take a new id. */
export type HeartbeatVerdict = { verdict: 'ok' } | { verdict: 'dead' };

export interface Lookup {
  scope: string;
  /** `previous_response_id`. */
  anchor: string | null;
  /** Session named by a verified turn-state token. */
  tokenSessionId: string | null;
  hardKey: KeyRef | null;
  /**
   * Places in the request's items where a known turn might end, the deepest first: the weakest evidence, and the last to
   * be looked at. Each is matched against `transcriptFp`, `secondFp` and `thirdFp`.
   */
  places?: readonly string[];
  /** Turns that are no candidates, by id: those that an earlier look-up for the same request gave. */
  besides?: readonly string[];
}

export interface LookupResult {
  anchor: { turn: TurnRow; session: SessionRow | null } | null;
  token: SessionRow | null;
  keyed: SessionRow | null;
  /**
   * Completed and incomplete turns of the scope that end at one of the places asked for: the deepest place first, of
   * equals the newest, at most `MOST_CANDIDATES`; without those of `besides`.
   */
  candidates: readonly { turn: TurnRow; session: SessionRow | null }[];
  /** Ids of the sessions above that a hard key names. */
  named: ReadonlySet<string>;
  /** Head turns of the sessions above, by turn id. */
  heads: ReadonlyMap<string, TurnRow>;
  /** Rows of the workers that own the sessions above, by worker id. */
  owners: ReadonlyMap<string, WorkerRow>;
}

/** Most candidates a look-up by place gives. */
export const MOST_CANDIDATES = 8;

/** The five fence calls plus close. Each is one round trip and answers within the statement deadline. */
export interface Fence {
  create(call: CreateCall): Promise<Answer<CreateVerdict>>;
  start(call: StartCall): Promise<Answer<StartVerdict>>;
  settle(call: SettleCall): Promise<Answer<SettleVerdict>>;
  claim(call: ClaimCall): Promise<Answer<ClaimVerdict>>;
  release(call: ReleaseCall): Promise<Answer<ReleaseVerdict>>;
  close(call: CloseCall): Promise<Answer<CloseVerdict>>;
}

/** Liveness of workers: heartbeats, and death as a stored fact. */
export interface WorkerRegistry {
  /** Inserts this worker as `serving` with a full lease. Its id must never have been used before. */
  register(worker: {
    id: string;
    internalUrl: string | null;
    livenessPath: string | null;
    version: string;
    leaseMs: number;
  }): Promise<Answer<{ verdict: 'ok' }>>;
  /** Extends the lease unless the row is dead or missing. Uses a connection of its own. */
  heartbeat(id: string, state: 'serving' | 'draining', leaseMs: number): Promise<Answer<HeartbeatVerdict>>;
  /** Stores the death of a worker whose heartbeat has expired, and only then. */
  declareExpired(id: string): Promise<Answer<{ verdict: 'dead' | 'alive' | 'missing' }>>;
  /** Stores a death that is known for certain (own exit, reaped child, refused liveness socket). */
  declareDead(id: string): Promise<Answer<{ verdict: 'dead' }>>;
  workers(): Promise<readonly WorkerRow[]>;
}

/**
 * Reads. They throw `StoreUnavailable` when the store does not answer in time.
 * All are bounded by the statement deadline, and none takes a lock.
 */
export interface SessionReads {
  /** Everything the resolver needs to know, in one round trip. Closed sessions are not found by key or token. */
  lookup(query: Lookup): Promise<LookupResult>;
  session(id: string): Promise<SessionRow | null>;
  turn(id: string): Promise<TurnRow | null>;
  /**
   * The turn and its ancestors, root first, with their items. Empty when the turn is unknown in the scope. When
   * ancestors are gone the line begins late: the first turn then still names a `parentTurnId`.
   */
  lineage(scope: string, turnId: string): Promise<readonly TurnItems[]>;
  /**
   * What the turn and its ancestors added, root first, to recognise their items by. Empty when the turn is unknown in the
   * scope; when ancestors are gone the first one still names a `parentTurnId`.
   */
  line(scope: string, turnId: string): Promise<readonly LineTurn[]>;
  /** Turns of the scope whose output holds an item of one of these ids; the newest first. */
  references(scope: string, itemIds: readonly string[]): Promise<readonly ReferencedItem[]>;
  /** The turns of one session, newest first. */
  turnsOf(sessionId: string, limit: number): Promise<readonly TurnRow[]>;
  sessions(limit: number): Promise<readonly SessionRow[]>;
  /** The random pepper made by the first migration: keys the credential hash that separates scopes. */
  pepper(): Promise<string>;
}

export interface SessionStore extends Fence, WorkerRegistry, SessionReads, StoreAdmin {
  /** Closes connections; calls in flight answer `unknown`. */
  shutdown(): Promise<void>;
}

/** A read found no answering store. The HTTP face turns it into `bridge_store_unavailable`. */
export class StoreUnavailable extends Error {
  override readonly name = 'StoreUnavailable';
}
