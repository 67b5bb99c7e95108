import type {
  detailColumns,
  SessionRow,
  SessionStateName,
  TurnColumns,
  TurnMetrics,
  TurnRow,
  TurnState,
} from './entities.ts';
import type { KeyRef } from './port.ts';

/** Session as shown in a list. Times are ISO 8601. */
export interface SessionSummary extends SessionRow {
  createdAt: string;
  updatedAt: string;
  /** Capped: `MOST_COUNTED` means that many or more. */
  turnCount: number;
  /** Newest turn of the session; null when all its turns are purged. */
  lastTurn: { state: TurnState; outcome: string | null; form: TurnMetrics['form'] } | null;
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
  /** Session, response or turn id, matched exactly; or a thread or session key, as plain text or as its hex SHA-256. */
  search?: string | undefined;
  ownerWorkerId?: string | undefined;
  /** True: only sessions with an active turn. False: only sessions without one. */
  busy?: boolean | undefined;
}

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
export const purgeKinds = ['sessions', 'turns', 'workers', 'shared'] as const;
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
 * answer.
 */
export interface StoreAdmin {
  listSessions(query: SessionQuery): Promise<SessionPage>;
  /** Returns the turns of a session, newest first. */
  turnDetails(sessionId: string, limit: number): Promise<readonly TurnDetail[]>;
  keysOf(sessionId: string): Promise<readonly KeyRef[]>;
  /**
   * Returns how many sessions each worker owns, and how many of them have an active turn. Workers that own none are left
   * out.
   */
  ownedSessions(): Promise<readonly OwnedSessions[]>;
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
