import type { Member, Written } from '../json.ts';
import type { Shape } from '../store/port.ts';

/** An input or output item of the Responses API, as parsed JSON. Unknown fields and types are kept. */
export type Item = Readonly<Record<string, unknown>>;

/** A request body, validated: an object whose known fields have the right types. */
export type RequestBody = Readonly<Record<string, unknown>>;

/** Hash of one item's identity. */
export type ItemHash = string;

/** One item of a request with all that is asked about it, found when it is asked for or beforehand by another thread. */
export interface ReadItem extends Written<Item> {
  readonly hash: ItemHash;
  /** Every hash under which a client may repeat it, the first its own. */
  readonly accepted: readonly ItemHash[];
  /** Only a client makes such an item. */
  readonly fromClient: boolean;
  /** It says everything it is: sent again, it is the same context. */
  readonly exact: boolean;
  /** The id by which it only names what it is; null when it holds it. */
  readonly named: string | null;
}

/** The items of a request's input, as they are compared with known lines. */
export interface ReadItems {
  readonly list: readonly ReadItem[];
  readonly hashes: readonly ItemHash[];
  /** Chain over the items that clients make; entry n covers the first n items. */
  readonly chain: readonly Fingerprint[];
  /** Where a known turn may have ended, the deepest first. */
  readonly places: readonly Fingerprint[];
}

/** What a body names at the provider, for a credential that several tenants share. Paths are for error messages. */
export interface Names {
  /** Ids that pass only when the scope's own turns made them, each with the path of the field that names it first. */
  readonly owned: ReadonlyMap<string, string>;
  /** Path of the first field that names, or may name, what no turn makes; null without one. */
  readonly foreign: string | null;
}

/** Members of a body that the bridge looks at after it was read. None is large, and no other can be asked for. */
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

/** A request body, read once: what decides about it, and the text of everything else. */
export interface ReadRequest {
  /** The body's JSON text as received: what is relayed and stored is cut out of it, so that nothing in it changes. */
  readonly text: string;
  /** Size of the body as received, bytes. */
  readonly bytes: number;
  readonly body: LookedAt;
  /** Where each member of the body lies in the text. */
  readonly members: readonly Member[];
  readonly items: ReadItems;
  readonly shape: Shape;
  /** The provider may use a tool that acts outside the conversation. */
  readonly hostedTools: boolean;
  /** Covers everything that makes two requests the same request, `previous_response_id` among it. */
  readonly requestFp: Fingerprint;
  readonly contextFp: Fingerprint;
  /** Ids of items that the request only names. */
  readonly references: readonly string[];
  /** The response that the request asks the provider to compare its cache with. */
  readonly comparison: string | null;
  /** What it names at the provider: that matters where several share a credential. */
  readonly names: Names;
}

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
  | { kind: 'root'; items: readonly ReadItem[] }
  /** A full resend whose first items are exactly the line's: `items` are those left over. */
  | { kind: 'extends'; items: readonly ReadItem[]; deltaAllowed: boolean; reason: string | null }
  /** Anchored: `items` follow the anchor's turn. */
  | { kind: 'anchored'; items: readonly ReadItem[] };

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
