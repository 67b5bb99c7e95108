import type {
  detailColumns,
  endColumns,
  KeyKind,
  OptionalEndColumn,
  responseColumns,
  SessionRow,
  SessionStateName,
  startColumns,
  TurnColumns,
  TurnMetrics,
  TurnRow,
  TurnState,
  WorkerRow,
} from './entities.ts';

/**
 * Store port: the operations that Holdfast needs from durable storage, and their verdicts.
 *
 * Two implementations (PostgreSQL and in-memory) satisfy this contract, and one test suite checks both. The five fence
 * calls are idempotent: a caller without an answer repeats the same call with the same ids until it gets one. Time is
 * always the store's own `now()`.
 */

export type {
  ReplayClass,
  SessionRow,
  SessionStateName,
  Shape,
  TurnMetrics,
  TurnRow,
  TurnState,
  WorkerRow,
  WorkerState,
} from './entities.ts';

/** Terminal state of a turn. `lost`: its end is unknown. */
export type TurnEnd = Exclude<TurnState, 'active'>;

/** Hard continuity key. `hash` is the hex SHA-256 of the value; the value itself is never stored. */
export interface KeyRef {
  kind: KeyKind;
  hash: string;
}

/** Version in the row of a worker that other workers inserted, because they met its id and found no row for it. */
export const UNKNOWN_VERSION = 'unknown';

/** A turn together with the items that it added to its lineage. */
export interface TurnItems {
  turn: TurnRow;
  /** JSON text of an array with the new input items. Null when the items are not, or no longer, stored. */
  input: string | null;
  /** JSON text of an array with the output items. */
  output: string | null;
}

/** One turn of a line, reduced to what matching its items requires. */
export interface LineTurn {
  id: string;
  parentTurnId: string | null;
  /** Forms of the items that the turn added, as written by `encodeForms` of `transcript/items.ts`; null when not known. */
  forms: string | null;
}

/** Turn of the scope whose output holds an item with that provider id. */
export interface ReferencedItem {
  itemId: string;
  turnId: string;
  storedUpstream: boolean;
  credentialFp: string;
}

/** Values known when a turn starts. The worker makes the ids, so that a repeated call names the same rows. */
export interface TurnStart extends Pick<TurnRow, (typeof startColumns)[number]> {}

/** End of a turn. With `items` null no content is stored, and `replay` must be `never`. */
export interface TurnResult
  extends Pick<TurnColumns, Exclude<(typeof endColumns)[number], OptionalEndColumn>>,
    Partial<Pick<TurnColumns, OptionalEndColumn>> {
  state: TurnEnd;
  /** JSON texts of the items. */
  items: { input: readonly string[]; output: readonly string[] } | null;
  /** Provider ids of output items that later requests of the scope may reference. */
  itemIds: readonly string[];
  /** Stored on the session with this end: its head can no longer be continued. */
  anchorLost?: boolean;
}

/** Columns of a turn's end that are read from the response of its terminal event. */
export type KeptResponse = Pick<TurnColumns, (typeof responseColumns)[number]>;

/** Identity of the writer: this boot of this worker, and the nonce of its claim. */
export interface Writer {
  me: string;
  nonce: string;
}

/** Session on which a call acts. One of another scope is as good as unknown. */
export interface SessionRef {
  scope: string;
  sessionId: string;
}

/** Columns that every fence call writes for people and for the next worker. */
export interface SavedState extends Pick<SessionRow, 'state' | 'snapshot' | 'machineVersion'> {}

/** Creates a session together with its first turn. */
export interface CreateCall extends Writer, SessionRef {
  keys: readonly KeyRef[];
  upstreamId: string;
  model: string | null;
  /** Turn at which the new session's head starts (a fork), or null. */
  headTurnId: string | null;
  turn: TurnStart;
  saved: SavedState;
}

/** Starts a turn on a session that the writer owns. */
export interface StartCall extends Writer, SessionRef {
  epoch: number;
  expectedHead: string | null;
  turn: TurnStart;
  saved: SavedState;
}

/** Stores the end of a turn. */
export interface SettleCall extends Writer, SessionRef {
  epoch: number;
  turnId: string;
  result: TurnResult;
  saved: SavedState;
}

/** Takes over a session that was read at a given epoch and revision. */
export interface ClaimCall extends Writer, SessionRef {
  epochRead: number;
  revisionRead: number;
}

/** Gives up the ownership of an idle session. */
export interface ReleaseCall extends Writer, SessionRef {
  epoch: number;
  saved: SavedState;
}

/** Closes an idle session. */
export interface CloseCall extends Writer, SessionRef {
  epoch: number;
  saved: SavedState;
}

/**
 * `unknown`: no answer (timeout, lost connection). The call may or may not have been applied; repeat it unchanged.
 * `rejected`: the store reported an error of its own, so the call cannot be carried out.
 */
export type NoVerdict = { verdict: 'unknown'; reason: string } | { verdict: 'rejected'; reason: string };
/** A verdict of the store, or the reason why there is none. */
export type Answer<V> = V | NoVerdict;

/** `leaseLeftMs`: remaining milliseconds of the writer's own heartbeat lease, by the store's clock. */
/** `already` only while that first turn still runs under this nonce. A later copy of the call is `fenced`. */
export type CreateVerdict =
  | { verdict: 'ok' | 'already'; leaseLeftMs: number; epoch: number; revision: number }
  | { verdict: 'key_taken' }
  | { verdict: 'fenced' };
/** Verdicts of `start`. */
export type StartVerdict =
  | { verdict: 'ok' | 'already'; leaseLeftMs: number; revision: number }
  | { verdict: 'ended' | 'busy' | 'head_moved' | 'fenced' };
/**
 * `ok`: the fence held. `already`: an end was recorded under the fence before, and stays. `branch`: the caller no longer
 * owns the session (the turn row is still completed), or did not start the turn. A repeated call gets `branch` again.
 */
export type SettleVerdict = { verdict: 'ok'; revision: number } | { verdict: 'already' } | { verdict: 'branch' };
/** Verdicts of `claim`. */
export type ClaimVerdict =
  | { verdict: 'row'; row: SessionRow; lostTurnId: string | null }
  | { verdict: 'busy' }
  | { verdict: 'lost_race' }
  | { verdict: 'fenced' };
/** Verdicts of `release`. */
export type ReleaseVerdict = { verdict: 'ok' | 'already' | 'busy' | 'fenced' };
/** Close deletes the session's keys in the same statement. A session with an active turn gets `busy`. */
export type CloseVerdict = { verdict: 'ok' | 'already' | 'busy' | 'fenced' };
/**
 * `dead`: this worker was declared dead, or its row is missing and could not be restored; it must register under a new id.
 * `restored`: the row was missing, or had been inserted by other workers that had no data about this one.
 */
export type HeartbeatVerdict = { verdict: 'ok'; restored?: true } | { verdict: 'dead' };

/** Columns of a worker's row that the worker itself provides, beside state and lease. */
export type Registration = Pick<WorkerRow, 'internalUrl' | 'livenessPath' | 'version'>;

/** Evidence of a request for the look-up. Null or absent parts are not looked up. */
export interface Lookup {
  scope: string;
  /** `previous_response_id`. */
  anchor: string | null;
  /** Session named by a verified turn-state token. */
  tokenSessionId: string | null;
  hardKey: KeyRef | null;
  /**
   * Places in the request's items where a known turn may end, deepest first. They are the weakest evidence and are
   * considered last. Each one is compared with `transcriptFp`, `secondFp` and `thirdFp`.
   */
  places?: readonly string[];
  /** Ids of turns to exclude from the candidates: those that an earlier look-up for the same request returned. */
  besides?: readonly string[];
}

/** Rows found for a `Lookup`. Sessions are null when unknown or closed. */
export interface LookupResult {
  anchor: { turn: TurnRow; session: SessionRow | null } | null;
  token: SessionRow | null;
  keyed: SessionRow | null;
  /**
   * Completed and incomplete turns of the scope that end at one of `places`: deepest place first, newest first within a
   * place, at most `MOST_CANDIDATES`, without those of `besides`.
   */
  candidates: readonly { turn: TurnRow; session: SessionRow | null }[];
  /** Ids of those of the sessions above that have a hard key. */
  named: ReadonlySet<string>;
  /** Head turns of the sessions above, by turn id. */
  heads: ReadonlyMap<string, TurnRow>;
  /** Rows of the workers that own the sessions above, by worker id. */
  owners: ReadonlyMap<string, WorkerRow>;
}

/**
 * Turn that a request may repeat, with the row of its author: only that worker still holds events that the client did not
 * receive.
 */
export interface Repeated {
  turn: TurnRow;
  author: WorkerRow;
}

/** Most turns with the same request fingerprint that are examined; the newest ones. */
export const MOST_REPEATED = 8;

/** Most candidates that a look-up by place returns. */
export const MOST_CANDIDATES = 8;

/** The five fence calls plus close. Each is one round trip, answers within the statement deadline and never rejects. */
export interface Fence {
  /** Inserts a session with its keys and first turn, or nothing. */
  create(call: CreateCall): Promise<Answer<CreateVerdict>>;
  /** Makes a turn active: from "no turn active, expected head, epoch" to "turn active", or nothing. */
  start(call: StartCall): Promise<Answer<StartVerdict>>;
  /** Records the end of a turn. The head moves only while the caller still owns the session. */
  settle(call: SettleCall): Promise<Answer<SettleVerdict>>;
  /**
   * Takes a session over under the next epoch and a new nonce. A session with an active turn can be claimed only after its
   * owner is stored as dead.
   */
  claim(call: ClaimCall): Promise<Answer<ClaimVerdict>>;
  /** Gives an idle session up. */
  release(call: ReleaseCall): Promise<Answer<ReleaseVerdict>>;
  /** Closes an idle session and frees its keys. */
  close(call: CloseCall): Promise<Answer<CloseVerdict>>;
}

/** Liveness of workers: heartbeats, and stored deaths. `dead` is a terminal state. */
export interface WorkerRegistry {
  /**
   * Inserts this worker as `serving` with a full lease of `leaseMs` milliseconds. The id must never have been used before.
   */
  register(worker: {
    id: string;
    internalUrl: string | null;
    livenessPath: string | null;
    version: string;
    leaseMs: number;
  }): Promise<Answer<{ verdict: 'ok' }>>;
  /**
   * Extends the lease to `leaseMs` milliseconds from now, unless the row is `dead`. Uses a connection of its own.
   *
   * @param registration restores a row that a database failover has lost
   */
  heartbeat(
    id: string,
    state: 'serving' | 'draining',
    leaseMs: number,
    registration?: Registration,
  ): Promise<Answer<HeartbeatVerdict>>;
  /**
   * Stores the death of a worker, but only if its heartbeat lease has expired. For a worker without a row it inserts one
   * with version `unknown` and a full lease, which applies from then on.
   */
  declareExpired(id: string): Promise<Answer<{ verdict: 'dead' | 'alive' }>>;
  /** Stores a death that is certain (own exit, reaped child process, refused liveness socket). */
  declareDead(id: string): Promise<Answer<{ verdict: 'dead' }>>;
  workers(): Promise<readonly WorkerRow[]>;
}

/**
 * Reads. They reject with `StoreUnavailable` when the store does not answer in time. All are bounded by the statement
 * deadline, and none takes a lock.
 */
export interface SessionReads {
  /** Returns everything that the resolver needs, in one round trip. Closed sessions are not found by key or token. */
  lookup(query: Lookup): Promise<LookupResult>;
  session(scope: string, id: string): Promise<SessionRow | null>;
  turn(scope: string, id: string): Promise<TurnRow | null>;
  /**
   * Returns the turn and its ancestors, root first, with their items. Empty when the turn is unknown in the scope. When
   * ancestors were purged, the first turn of the result still names a `parentTurnId`.
   */
  lineage(scope: string, turnId: string): Promise<readonly TurnItems[]>;
  /**
   * Returns the forms of the turn and its ancestors, root first. Empty when the turn is unknown in the scope. When
   * ancestors were purged, the first entry still names a `parentTurnId`.
   */
  line(scope: string, turnId: string): Promise<readonly LineTurn[]>;
  /** Returns the turns of the scope whose output holds an item with one of these ids, newest first. */
  references(scope: string, itemIds: readonly string[]): Promise<readonly ReferencedItem[]>;
  /**
   * Returns the newest turns of the scope with the same request fingerprint, in any session: running ones, and those that
   * ended as completed or incomplete.
   *
   * @param withinMs greatest age of such an end, in milliseconds
   */
  repeated(scope: string, requestFp: string, withinMs: number): Promise<readonly Repeated[]>;
  /** Returns the random pepper made by the first migration. It keys the credential hash that separates scopes. */
  pepper(): Promise<string>;
}

/** Page of the objects of one kind that a scope made. */
export interface ObjectQuery {
  scope: string;
  kind: string;
  limit: number;
  order: 'asc' | 'desc';
  /** Cursor: id of the last object of the previous page; null for the first page. */
  after: string | null;
}

/** Kind of a response that runs in the background: recorded when it is announced, because its turn may never end here. */
export const RESPONSE_KIND = 'responses';

/**
 * Objects that scopes made at the provider by calls other than turns. They are recorded only where several tenants share a
 * credential. Calls reject with `StoreUnavailable` when the store does not answer.
 */
export interface ProviderObjects {
  /** Records objects as made by the scope. An object that is recorded already stays as it is. */
  keepObjects(scope: string, kind: string, ids: readonly string[]): Promise<void>;
  /** Returns those of the ids that the scope made. */
  ownObjects(scope: string, ids: readonly string[]): Promise<readonly string[]>;
  /**
   * Returns ids of one kind in the order in which they were recorded.
   *
   * @returns null when the scope made no object with the id of the cursor
   */
  listObjects(query: ObjectQuery): Promise<{ ids: readonly string[]; more: boolean } | null>;
  /** Removes the record of an object that was deleted at the provider. */
  dropObject(scope: string, id: string): Promise<void>;
}

/** The whole store: everything durable that workers share. */
export interface SessionStore extends Fence, WorkerRegistry, SessionReads, StoreAdmin, ProviderObjects {
  /** Closes connections. Calls in flight answer `unknown`. */
  shutdown(): Promise<void>;
}

/** A read got no answer from the store. Over HTTP it becomes `bridge_store_unavailable`. */
export class StoreUnavailable extends Error {
  override readonly name = 'StoreUnavailable';
}

/** Session as shown in a list. Times are ISO 8601. */
export interface SessionSummary extends SessionRow {
  createdAt: string;
  updatedAt: string;
  /** Capped: `MOST_COUNTED` means that many or more. */
  turnCount: number;
  /** Newest turn of the session; null when all its turns are purged. */
  lastTurn: { state: TurnState; outcome: string | null; form: TurnMetrics['form'] } | null;
}

/** Id of a session, a turn or a response. */
export interface FoundId {
  id: string;
  sessionId: string;
}

/** Turn of another session that continues a turn of this one. */
export interface ForkedTurn {
  turnId: string;
  sessionId: string;
  parentTurnId: string;
  state: TurnState;
}

/** Turn with everything that an operator may see. Never holds content. */
export interface TurnDetail extends TurnRow, Pick<TurnColumns, (typeof detailColumns)[number]> {
  /** Null for a running turn, and for a turn that its author did not end. */
  facts: TurnMetrics | null;
  startedAt: string;
  endedAt: string | null;
  /** Bytes of the stored items; null when none are stored. */
  inputBytes: number | null;
  outputBytes: number | null;
}

/** Filters of {@link StoreAdmin.turnsEnded}. Ages are in milliseconds, by the store's clock. */
export interface EndedQuery {
  /** Greatest age of the end. */
  withinMs: number;
  /** The end must be older than this. Default: no bound. */
  olderMs?: number | undefined;
  /** Cursor: the last row of the previous page. */
  before?: { endedAt: string; id: string } | undefined;
  limit: number;
  /** Only turns of these workers. Default: of all. */
  authors?: readonly string[] | undefined;
  /** True: only turns that failed or were lost, among the newest `MOST_EXAMINED` of the page's interval. */
  failed?: boolean | undefined;
}

/** Most turns that a search for failed ones examines. */
export const MOST_EXAMINED = 5_000;

/** Ended turn in a list over all sessions. */
export interface EndedTurn
  extends Pick<
    TurnColumns,
    'id' | 'sessionId' | 'scope' | 'authorWorkerId' | 'shape' | 'state' | 'responseId' | 'usage' | 'error' | 'facts'
  > {
  /** Model of its session. */
  model: string | null;
  /** Times in ISO 8601. */
  startedAt: string;
  endedAt: string;
  /** Milliseconds since the end, by the store's clock when the row was read. */
  ageMs: number;
}

/** Number of sessions that one worker owns; `busy` counts those with an active turn. */
export interface OwnedSessions {
  workerId: string;
  sessions: number;
  busy: number;
}

/** Filters and position of one page of sessions. Absent filters match everything. */
export interface SessionQuery {
  limit: number;
  /** Cursor: the last row of the previous page. */
  before?: { updatedAt: string; id: string } | undefined;
  state?: SessionStateName | undefined;
  /**
   * Session, response or turn id; or a thread or session key, as plain text or as its hex SHA-256. Ids and hashes are also
   * found by a prefix of at least `SHORTEST_PREFIX` characters, responses only by their whole id.
   */
  search?: string | undefined;
  ownerWorkerId?: string | undefined;
  /** True: only sessions with an active turn. False: only sessions without one. */
  busy?: boolean | undefined;
}

/** Shortest prefix of an id or a hash that is searched for. The explorer shows eight characters. */
export const SHORTEST_PREFIX = 6;
/** Most sessions that a prefix finds. */
export const MOST_PREFIXED = 100;

/** Upper bound of every count: a page of the console must not scan a table of millions of rows. */
export const MOST_COUNTED = 10_000;

/** One page of the session list. */
export interface SessionPage {
  /** Most recently changed first. */
  rows: readonly SessionSummary[];
  more: boolean;
  /** Number of matching sessions over all pages, capped: `MOST_COUNTED` means that many or more. */
  total: number;
}

/** Kinds of row that the janitor purges, each in passes of its own. */
export const purgeKinds = ['sessions', 'turns', 'workers', 'shared', 'objects'] as const;
/** One of {@link purgeKinds}. */
export type PurgeKind = (typeof purgeKinds)[number];

/** One step of a purge pass over one kind of row. */
export interface PurgeStep {
  kind: PurgeKind;
  olderThanHours: number;
  /** Most rows that the step examines. For `sessions` the limit applies to the sessions and, separately, to their turns. */
  limit: number;
  /** Cursor: where the previous step ended. Null starts a pass. */
  after: readonly string[] | null;
}

/** Result of one purge step. */
export interface Purged {
  /** Number of removed rows by kind. Rows removed by cascade are not counted, except the turns of sessions. */
  removed: Readonly<Partial<Record<PurgeKind, number>>>;
  /** Cursor for the next step; opaque outside the store. */
  after: readonly string[];
  /** False at the end of the pass. */
  more: boolean;
}

/** `busy`: a turn is active, and only its owner may end it. `missing`: the session is unknown or closed. */
export type OperatorVerdict = 'ok' | 'busy' | 'missing';

/**
 * Store operations of operators and the janitor. Reads and writes reject with `StoreUnavailable` when the store does not
 * answer. Operators name a session by its id alone, so these operations search all scopes.
 */
export interface StoreAdmin {
  /** Returns the session of that id, whichever its scope is. */
  sessionById(id: string): Promise<SessionRow | null>;
  /** Returns the newest sessions. */
  sessions(limit: number): Promise<readonly SessionRow[]>;
  /** Returns the turns of one session, newest first. */
  turnsOf(sessionId: string, limit: number): Promise<readonly TurnRow[]>;
  listSessions(query: SessionQuery): Promise<SessionPage>;
  /** Returns the turns of a session, newest first. */
  turnDetails(sessionId: string, limit: number): Promise<readonly TurnDetail[]>;
  keysOf(sessionId: string): Promise<readonly KeyRef[]>;
  /**
   * Returns how many sessions each worker owns, and how many of them have an active turn. Workers that own none are left
   * out.
   */
  ownedSessions(): Promise<readonly OwnedSessions[]>;
  /**
   * Returns ids of sessions, turns and responses that begin with these letters, digits and signs, each with its session.
   *
   * @param limit greatest number of ids of one kind
   */
  idsBeginning(beginning: string, limit: number): Promise<readonly FoundId[]>;
  /** Returns the turns of all sessions that ended within an interval, the last one first. */
  turnsEnded(query: EndedQuery): Promise<readonly EndedTurn[]>;
  /** Returns the turns of other sessions that continue a turn of this one, newest first. */
  forksOf(sessionId: string, limit: number): Promise<readonly ForkedTurn[]>;
  /** Removes the owner of an idle session. The epoch is raised, which fences the former owner. */
  operatorRelease(sessionId: string): Promise<OperatorVerdict>;
  /** Closes an idle session and frees its keys. */
  operatorClose(sessionId: string): Promise<OperatorVerdict>;
  /**
   * Stops the use of the head's upstream id as an anchor, by the socket and by the provider's storage. The next turn
   * rebuilds the context from stored items or gets an explicit error.
   */
  dropAnchor(sessionId: string): Promise<OperatorVerdict>;
  /**
   * Removes unused rows of one kind in bounded steps. Locked rows are skipped.
   *
   * - `sessions`: unchanged for `olderThanHours`. A session with an active turn qualifies only when its owner is dead or
   *   has been silent for as long. Sessions are closed and deleted with their turns, except for turns that other sessions
   *   continue and the ancestors of those turns; the closed session then stays with them.
   * - `turns`: ended at least that long ago, without a successor, and not the head of any session.
   * - `workers`: silent for at least that long, and not named by any session.
   * - `shared`: large items that no turn references.
   * - `objects`: responses in the background that were recorded at least that long ago. All other objects of the provider
   *   stay recorded until they are deleted.
   */
  purge(step: PurgeStep): Promise<Purged>;
  /**
   * Stores the trace of a turn that ended badly. The first trace of a turn stays. Nothing is stored for a session without a
   * row.
   */
  keepStory(sessionId: string, turnId: string, record: unknown): Promise<void>;
  /** Returns the newest stored trace of a session; null when there is none. */
  story(sessionId: string): Promise<unknown>;
  /**
   * Erases the input and output of a response. Its ids stay, and the context can no longer be rebuilt from it.
   *
   * @returns false when the response is unknown in the scope
   */
  eraseResponse(scope: string, responseId: string): Promise<boolean>;
}
