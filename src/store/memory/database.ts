import { type SessionRow, type TurnMetrics, type TurnRow, UNKNOWN_VERSION, type WorkerState } from '../port.ts';

export interface WorkerRecord {
  id: string;
  internalUrl: string | null;
  livenessPath: string | null;
  state: WorkerState;
  version: string;
  /** Monotonic milliseconds of the store's clock. */
  heartbeatExpiresAt: number;
}

export interface SessionRecord extends SessionRow {
  /** Turn that the latest claim marked lost; a repeated claim returns it again. */
  lostTurnId: string | null;
  /** Milliseconds of the store's clock. */
  createdAt: number;
  updatedAt: number;
}

export interface TurnRecord extends TurnRow {
  /** Increases with every started turn: orders turns that started at the same time. */
  ordinal: number;
  secondFp: string | null;
  thirdFp: string | null;
  forms: string | null;
  itemIds: readonly string[];
  /** The end was recorded outside the fence, so it never moved a head. */
  branched: boolean;
  usage: unknown;
  error: unknown;
  facts: TurnMetrics | null;
  /** Milliseconds of the store's clock. */
  startedAt: number;
  endedAt: number | null;
}

/**
 * Contents of the database. Several stores may share one, as several workers share a server. Only the store modifies
 * records; callers get copies.
 */
export interface MemoryDatabase {
  workers: Map<string, WorkerRecord>;
  sessions: Map<string, SessionRecord>;
  turns: Map<string, TurnRecord>;
  /** Number of turns ever started. */
  started: number;
  /** Ids of the turns that end at a place, by its fingerprint. Maintained by `indexTurn`. */
  places: Map<string, Set<string>>;
  /** Ids of the turns whose output holds an item, by the item's id. Maintained by `indexTurn`. */
  itemTurns: Map<string, Set<string>>;
  /** Items by turn id. */
  items: Map<string, { input: string; output: string }>;
  /** Session id by key. */
  keys: Map<string, string>;
  /** Turn id by response id. */
  responses: Map<string, string>;
  /** Traces of bad ends by turn id, oldest first. */
  stories: Map<string, { sessionId: string; record: unknown }>;
  pepper: string;
}

export function createMemoryDatabase(pepper: string): MemoryDatabase {
  return {
    workers: new Map(),
    sessions: new Map(),
    turns: new Map(),
    started: 0,
    places: new Map(),
    itemTurns: new Map(),
    items: new Map(),
    keys: new Map(),
    responses: new Map(),
    stories: new Map(),
    pepper,
  };
}

/** Lease of the row inserted for a missing owner, in milliseconds. */
const MISSING_OWNER_LEASE_MS = 10_000;

/**
 * Inserts the row of a worker of which only the id is known, so that its lease can expire.
 *
 * @param now milliseconds of the store's clock
 */
export function insertMissingOwner(db: MemoryDatabase, id: string, now: number): WorkerRecord {
  const worker: WorkerRecord = {
    id,
    internalUrl: null,
    livenessPath: null,
    state: 'serving',
    version: UNKNOWN_VERSION,
    heartbeatExpiresAt: now + MISSING_OWNER_LEASE_MS,
  };
  db.workers.set(id, worker);
  return worker;
}

/** Returns an unambiguous map key for values of one scope. */
export const scoped = (scope: string, ...parts: readonly string[]): string => JSON.stringify([scope, ...parts]);

/** Returns a value as a database would return it: serialised to JSON and parsed again. */
export const asStored = (value: unknown): unknown =>
  value === undefined || value === null ? null : JSON.parse(JSON.stringify(value));

/** Yields the index entries by which a turn is found, beside its ids. */
function* foundBy(db: MemoryDatabase, turn: TurnRecord): Generator<[index: Map<string, Set<string>>, key: string]> {
  for (const fp of [turn.transcriptFp, turn.secondFp, turn.thirdFp]) {
    if (fp !== null) yield [db.places, scoped(turn.scope, fp)];
  }
  for (const itemId of turn.itemIds) yield [db.itemTurns, scoped(turn.scope, itemId)];
}

/** Adds a turn to the indexes of places and item ids. Call `forgetIndex` before any of these values changes. */
export function indexTurn(db: MemoryDatabase, turn: TurnRecord): void {
  for (const [index, key] of foundBy(db, turn)) {
    const ids = index.get(key);
    if (ids) ids.add(turn.id);
    else index.set(key, new Set([turn.id]));
  }
}

/** Removes a turn from the indexes of places and item ids. */
export function forgetIndex(db: MemoryDatabase, turn: TurnRecord): void {
  for (const [index, key] of foundBy(db, turn)) {
    const ids = index.get(key);
    if (ids?.delete(turn.id) && ids.size === 0) index.delete(key);
  }
}
