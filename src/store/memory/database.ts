import type { SessionRow, TurnFacts, TurnRow, WorkerState } from '../port.ts';

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
    items: new Map(),
    keys: new Map(),
    responses: new Map(),
    stories: new Map(),
    pepper,
  };
}

/** An unambiguous map key for values that belong to one scope. */
export const scoped = (scope: string, ...parts: readonly string[]): string => JSON.stringify([scope, ...parts]);

/** What a database would give back: written down as JSON and read again. */
export const asStored = (value: unknown): unknown =>
  value === undefined || value === null ? null : JSON.parse(JSON.stringify(value));
