import type { Written } from '../json.ts';

/** An input or output item of the Responses API, as parsed JSON. Unknown fields and types are kept. */
export type Item = Readonly<Record<string, unknown>>;

/** A request body, validated: an object whose known fields have the right types. */
export type RequestBody = Readonly<Record<string, unknown>>;

/** Hex SHA-256. */
export type Fingerprint = string;

/** What a known turn must have left for a delta on top of it. */
export interface KnownEnd {
  responseId: string | null;
  contextFp: Fingerprint;
}

/** Where a request continues and what it adds: fixed when it is admitted, before any socket is looked at. */
export type Continuation =
  /** The body carries no history we know: its whole input is a new root. */
  | { kind: 'root'; items: readonly Written<Item>[] }
  /** A full resend whose first items are exactly the line's: `items` are those left over. */
  | { kind: 'extends'; items: readonly Written<Item>[]; deltaAllowed: boolean; reason: string | null }
  /** Anchored: `items` follow the anchor's turn. */
  | { kind: 'anchored'; items: readonly Written<Item>[] };

/** What a request sends as its `input`. */
export interface WireInput {
  /** The value's JSON text; null when the request has no such field. */
  readonly input: string | null;
  /** How many items that are. */
  readonly items: number;
}

/** The form in which the next `response.create` leaves, decided at send time for one socket. */
export type WireForm =
  /** Anchor and new items. */
  | ({ form: 'delta'; previousResponseId: string } & WireInput)
  /** Whole input, no anchor. */
  | ({ form: 'full' } & WireInput)
  /** Cannot be continued exactly: fail closed. */
  | { form: 'impossible'; reason: string };
