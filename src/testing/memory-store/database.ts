import {
  BridgeSession,
  type Column,
  columnsOf,
  type SessionColumns,
  type SessionRow,
  Turn,
  type TurnColumns,
  type TurnRow,
  Worker,
  type WorkerColumns,
  type WorkerRow,
} from '../../store/entities.ts';
import { UNKNOWN_VERSION } from '../../store/port.ts';

/** Row as this store keeps it: times are milliseconds of the store's clock. */
type Stored<Columns> = {
  [K in keyof Columns]: [Columns[K]] extends [Date]
    ? number
    : [Columns[K]] extends [Date | null]
      ? number | null
      : Columns[K];
};

export interface WorkerRecord extends Omit<Stored<WorkerColumns>, 'createdAt'> {}
export interface SessionRecord extends Omit<Stored<SessionColumns>, 'changedHour'> {}
export interface TurnRecord extends Stored<TurnColumns> {
  /** Increases with every started turn: orders turns that started at the same time. */
  ordinal: number;
  itemIds: readonly string[];
}

const shown = (columns: readonly Column[]) => columns.flatMap(({ hidden, property }) => (hidden ? [] : [property]));
const shownOf = {
  session: shown(columnsOf(BridgeSession)),
  turn: shown(columnsOf(Turn)),
  worker: shown(columnsOf(Worker)),
};

/** Copies the columns of the port's row: callers must not see later changes. */
export function copied<Row>(record: object, columns: readonly string[]): Row {
  const row: Record<string, unknown> = {};
  for (const column of columns) row[column] = (record as Record<string, unknown>)[column];
  return row as Row;
}

export const sessionRow = (record: SessionRecord): SessionRow => ({
  ...copied<SessionRow>(record, shownOf.session),
  snapshot: asStored(record.snapshot),
});
export const turnRow = (record: TurnRecord): TurnRow => copied(record, shownOf.turn);
export const workerRow = (record: WorkerRecord, now: number): WorkerRow => ({
  ...copied<WorkerRow>(record, shownOf.worker),
  leaseLeftMs: Math.floor(record.heartbeatExpiresAt - now),
});

/** Columns of a turn that its start leaves empty. */
export const emptyTurn = Object.fromEntries(
  columnsOf(Turn).flatMap(({ nullable, property }) => (nullable ? [[property, null]] : [])),
) as { [K in keyof TurnColumns as null extends TurnColumns[K] ? K : never]: null };

/**
 * Contents of the database. Several stores may share one, as several workers share a server. Only the store modifies
 * records; callers get copies.
 */
export interface MemoryDatabase {
  workers: Map<string, WorkerRecord>;
  /** Sessions and turns by scope and id, as by a primary key; see `scoped`. */
  sessions: Map<string, SessionRecord>;
  turns: Map<string, TurnRecord>;
  /** Number of turns ever started. */
  started: number;
  /** Ids of the turns that end at a place, by its fingerprint. Maintained by `indexTurn`. */
  places: Map<string, Set<string>>;
  /** Ids of the turns whose output holds an item, by the item's id. Maintained by `indexTurn`. */
  itemTurns: Map<string, Set<string>>;
  /** Items by the turn's scope and id. */
  items: Map<string, { input: string; output: string }>;
  /** Key of the session in `sessions`, by hard key. */
  keys: Map<string, string>;
  /** Turn id by response id. */
  responses: Map<string, string>;
  /** Traces of bad ends by the turn's scope and id, oldest first. */
  stories: Map<string, { scope: string; sessionId: string; record: unknown }>;
  /** Objects of the provider by scope and id, oldest first. */
  objects: Map<string, { scope: string; id: string; kind: string; createdAt: number }>;
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
    objects: new Map(),
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

/** Returns the key of a session or turn. */
export const keyOf = ({ scope, id }: { scope: string; id: string }): string => scoped(scope, id);

/** Removes the hard keys of a session. */
export function freeKeys(db: MemoryDatabase, session: SessionRecord): void {
  const own = keyOf(session);
  for (const [key, owner] of db.keys) if (owner === own) db.keys.delete(key);
}

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
