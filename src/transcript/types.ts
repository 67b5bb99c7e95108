import type { Member, Text, Written } from '../json.ts';
import type { Shape } from '../store/port.ts';

/** Input or output item of the Responses API, as parsed JSON. Unknown fields and types are kept. */
export type Item = Readonly<Record<string, unknown>>;

/** Validated request body: an object whose known fields have the right types. */
export type RequestBody = Readonly<Record<string, unknown>>;

/** Hash of one item's identity. */
export type ItemHash = string;

/** One item of a request with its derived properties, computed on first use or beforehand by another thread. */
export interface ReadItem extends Written<Item> {
  readonly hash: ItemHash;
  /** Every hash under which a client may repeat it; its own is first. */
  readonly accepted: readonly ItemHash[];
  /** Only clients make such an item. */
  readonly fromClient: boolean;
  /** The item is complete in itself: sent again, it produces the same context. */
  readonly exact: boolean;
  /** Id of an item that is only a name; null when the item contains its content. */
  readonly named: string | null;
}

/** Items of a request's input, prepared for the comparison with known lines. */
export interface ReadItems {
  readonly list: readonly ReadItem[];
  readonly hashes: readonly ItemHash[];
  /** Chain over the client-made items; entry n covers the first n items. */
  readonly chain: readonly Fingerprint[];
  /** Places where a known turn may have ended, deepest first. */
  readonly places: readonly Fingerprint[];
}

/** Objects that a body names at the provider, for a credential shared by several tenants. Paths are for error messages. */
export interface Names {
  /** Ids accepted only when the scope's own turns made them, each with the path of the first field that names it. */
  readonly owned: ReadonlyMap<string, string>;
  /** Path of the first field that names, or may name, an object that no turn makes; null when there is none. */
  readonly foreign: string | null;
}

/** Members of a body that the bridge uses after reading it. None is large, and no other is available. */
export type LookedAt = {
  readonly [Name in
    | 'model'
    | 'stream'
    | 'store'
    | 'background'
    | 'include'
    | 'previous_response_id'
    | 'prompt_cache_key'
    | 'client_metadata'
    | 'conversation'
    | 'reasoning']?: unknown;
};

/** Request body, read once: the members that decide about it, and its text. */
export interface ReadRequest {
  /** The body's JSON text as received. What is relayed and stored is cut out of it, so that nothing in it changes. */
  readonly text: Text;
  /** Size of the body as received, in bytes. */
  readonly bytes: number;
  readonly body: LookedAt;
  /** Positions of the body's members in the text. */
  readonly members: readonly Member[];
  readonly items: ReadItems;
  readonly shape: Shape;
  /** The provider may use a tool that acts outside the conversation. */
  readonly hostedTools: boolean;
  /** Covers everything that makes two requests the same request, including `previous_response_id`. */
  readonly requestFp: Fingerprint;
  readonly contextFp: Fingerprint;
  /** Ids of items that the request only names. */
  readonly references: readonly string[];
  /** Response with which the provider is to compare its cache; null when there is none. */
  readonly comparison: string | null;
  /** Objects named at the provider; relevant where several tenants share a credential. */
  readonly names: Names;
}

/** Hex SHA-256. */
export type Fingerprint = string;

/** Data of a known turn that a delta on top of it requires. */
export interface KnownEnd {
  responseId: string | null;
  contextFp: Fingerprint;
}

/** Place at which a request continues, and the items it adds: fixed at admission, before any socket is chosen. */
export type Continuation =
  /** The body carries no known history: its whole input is a new root. */
  | { kind: 'root'; items: readonly ReadItem[] }
  /** A full resend whose first items are exactly the line's; `items` are the remaining ones. */
  | { kind: 'extends'; items: readonly ReadItem[]; deltaAllowed: boolean; reason: string | null }
  /** Anchored: `items` follow the anchor's turn. */
  | { kind: 'anchored'; items: readonly ReadItem[] };

/** The `input` that a request sends. */
export interface WireInput {
  /** JSON text of the value; null when the request has no such field. */
  readonly input: string | null;
  /** Number of items. */
  readonly items: number;
}

/** Form of the next `response.create`, decided at send time for one socket. */
export type WireForm =
  /** Anchor and new items. */
  | ({ form: 'delta'; previousResponseId: string } & WireInput)
  /** Whole input, no anchor. */
  | ({ form: 'full' } & WireInput)
  /** The turn cannot be continued exactly: fail closed. */
  | { form: 'impossible'; reason: string };
