import { type SessionRow, type TurnFacts, type TurnRow, UNKNOWN_VERSION, type WorkerState } from '../port.ts';

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
  /** Turn that the latest claim marked lost: a repeated claim gives the same answer. */
  lostTurnId: string | null;
  /** Milliseconds of the store's clock. */
  createdAt: number;
  updatedAt: number;
}

export interface TurnRecord extends TurnRow {
  /** Rises with every turn that is started: the order of those that started in one moment. */
  ordinal: number;
  secondFp: string | null;
  thirdFp: string | null;
  forms: string | null;
  itemIds: readonly string[];
  /** The recorded end did not happen under the fence, so it never moved a head. */
  branched: boolean;
  usage: unknown;
  error: unknown;
  facts: TurnFacts | null;
  /** Milliseconds of the store's clock. */
  startedAt: number;
  endedAt: number | null;
}

/**
 * What a database would hold. Several stores may share one, as several workers share a server; records are replaced or
 * changed in place only by the store, which hands out copies.
 */
export interface MemoryDatabase {
  workers: Map<string, WorkerRecord>;
  sessions: Map<string, SessionRecord>;
  turns: Map<string, TurnRecord>;
  /** How many turns were ever started. */
  started: number;
  /** Ids of the turns that end at a place, by its fingerprint; kept by `indexTurn`. */
  places: Map<string, Set<string>>;
  /** Ids of the turns whose output holds an item, by the item's id; kept by `indexTurn`. */
  itemTurns: Map<string, Set<string>>;
  /** Items by turn id. */
  items: Map<string, { input: string; output: string }>;
  /** Session id by key. */
  keys: Map<string, string>;
  /** Turn id by response id. */
  responses: Map<string, string>;
  /** Stories of bad ends by turn id, oldest first. */
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

/** A missing owner's row is made with a lease of this length, milliseconds. */
const MISSING_OWNER_LEASE_MS = 10_000;

/** The row of a worker of which nothing is known but its id: from now on it can be judged. */
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

/** An unambiguous map key for values that belong to one scope. */
export const scoped = (scope: string, ...parts: readonly string[]): string => JSON.stringify([scope, ...parts]);

/** What a database would give back: written down as JSON and read again. */
export const asStored = (value: unknown): unknown =>
  value === undefined || value === null ? null : JSON.parse(JSON.stringify(value));

/** What a turn is found by beside its ids. */
function* foundBy(db: MemoryDatabase, turn: TurnRecord): Generator<[index: Map<string, Set<string>>, key: string]> {
  for (const fp of [turn.transcriptFp, turn.secondFp, turn.thirdFp]) {
    if (fp !== null) yield [db.places, scoped(turn.scope, fp)];
  }
  for (const itemId of turn.itemIds) yield [db.itemTurns, scoped(turn.scope, itemId)];
}

/** Makes a turn known by its places and item ids. To be undone by `forgetIndex` before any of them changes. */
export function indexTurn(db: MemoryDatabase, turn: TurnRecord): void {
  for (const [index, key] of foundBy(db, turn)) {
    const ids = index.get(key);
    if (ids) ids.add(turn.id);
    else index.set(key, new Set([turn.id]));
  }
}

export function forgetIndex(db: MemoryDatabase, turn: TurnRecord): void {
  for (const [index, key] of foundBy(db, turn)) {
    const ids = index.get(key);
    if (ids?.delete(turn.id) && ids.size === 0) index.delete(key);
  }
}
