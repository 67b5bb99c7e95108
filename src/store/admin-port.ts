import type { KeyRef, SessionRow, SessionStateName, TurnFacts, TurnRow, TurnState } from './port.ts';

/** A session as a list shows it. Times are ISO 8601. */
export interface SessionSummary extends SessionRow {
  createdAt: string;
  updatedAt: string;
  /** `MOST_COUNTED` stands for that many or more. */
  turnCount: number;
  /** The newest turn of the session; null when all are purged. */
  lastTurn: { state: TurnState; outcome: string | null; form: TurnFacts['form'] } | null;
}

/** A turn of another session that continues a turn of this one. */
export interface ForkedTurn {
  turnId: string;
  sessionId: string;
  parentTurnId: string;
  state: TurnState;
}

/** A turn with everything an operator may see of it; never its content. */
export interface TurnDetail extends TurnRow {
  usage: unknown;
  error: unknown;
  /** Null for a running turn, and for one that its author did not end. */
  facts: TurnFacts | null;
  startedAt: string;
  endedAt: string | null;
  /** Its end did not happen under the fence. */
  branched: boolean;
  /** Bytes its stored items take; null when none are stored. */
  inputBytes: number | null;
  outputBytes: number | null;
}

export interface OwnedSessions {
  workerId: string;
  sessions: number;
  busy: number;
}

export interface SessionQuery {
  limit: number;
  /** Where the page before this one ended. */
  before?: { updatedAt: string; id: string } | undefined;
  state?: SessionStateName | undefined;
  /** A session, response or turn id exactly; or a thread or session key, as it is or as its hex SHA-256. */
  search?: string | undefined;
  ownerWorkerId?: string | undefined;
  /** Only those with a turn active, or only those without. */
  busy?: boolean | undefined;
}

/** Counting goes no further: what an operator looks at must not read a table of millions. */
export const MOST_COUNTED = 10_000;

export interface SessionPage {
  /** The most recently changed first. */
  rows: readonly SessionSummary[];
  more: boolean;
  /** Sessions that match, over all pages; `MOST_COUNTED` stands for that many or more. */
  total: number;
}

/** The kinds of row that the janitor takes, each in passes of its own. */
export const purgeKinds = ['sessions', 'turns', 'workers', 'shared'] as const;
export type PurgeKind = (typeof purgeKinds)[number];

/** One step of a pass over one kind of row. */
export interface PurgeStep {
  kind: PurgeKind;
  olderThanHours: number;
  /** Rows that the step looks at, at most; of sessions, and of their turns. */
  limit: number;
  /** Where the step before this one ended; null begins a pass. */
  after: readonly string[] | null;
}

/** What one step took away. */
export interface Purged {
  /** Rows by kind; those that go with another row are not counted, but for the turns of sessions. */
  removed: Readonly<Partial<Record<PurgeKind, number>>>;
  /** Where the next step goes on; it means something to the store only. */
  after: readonly string[];
  /** False at the end of the pass. */
  more: boolean;
}

/** `busy`: a turn is active, and only its owner can end it. */
export type OperatorVerdict = 'ok' | 'busy' | 'missing';

/** What operators and the janitor ask of a store. Reads throw `StoreUnavailable`, and so do the writes. */
export interface StoreAdmin {
  listSessions(query: SessionQuery): Promise<SessionPage>;
  /** Newest first. */
  turnDetails(sessionId: string, limit: number): Promise<readonly TurnDetail[]>;
  keysOf(sessionId: string): Promise<readonly KeyRef[]>;
  /** How many sessions each worker owns, and with how many of them a turn is active. Workers without any are absent. */
  ownedSessions(): Promise<readonly OwnedSessions[]>;
  /** Where other sessions begin in this one; newest first. */
  forksOf(sessionId: string, limit: number): Promise<readonly ForkedTurn[]>;
  /** Takes an idle session from its owner: the epoch rises, so that its actor is fenced. */
  operatorRelease(sessionId: string): Promise<OperatorVerdict>;
  /** Closes an idle session and frees its keys. */
  operatorClose(sessionId: string): Promise<OperatorVerdict>;
  /** The head's upstream id is not used any more, by socket or by store: the context is rebuilt, or honestly refused. */
  dropAnchor(sessionId: string): Promise<OperatorVerdict>;
  /**
   * Removes what is unused, one kind of row after the other, a bounded step at a time. Rows that are locked are skipped.
   *
   * - `sessions`: untouched for that long; one with an active turn only when its owner is dead, or as long silent. They are
   *   closed, and go with their turns, except for turns that other sessions continue and their ancestors: with these the
   *   closed session stays.
   * - `turns`: ended for that long, that nothing continues and that are the head of no session.
   * - `workers`: silent for that long, that no session names.
   * - `shared`: large items that no turn needs any more.
   */
  purge(step: PurgeStep): Promise<Purged>;
  /** Keeps the story of a turn that ended badly; the first one stays. A session without a row keeps none. */
  keepStory(sessionId: string, turnId: string, record: unknown): Promise<void>;
  /** The newest story kept of a session; null for none. */
  story(sessionId: string): Promise<unknown>;
  /** Erases what a response said and was asked; its ids stay, and nothing can be rebuilt from it. False: unknown. */
  eraseResponse(scope: string, responseId: string): Promise<boolean>;
}
