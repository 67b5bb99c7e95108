import type { Item } from '../../transcript/types.ts';
import { createSealer, type Sealer } from './sealed.ts';
import { derive } from './seeded.ts';

/**
 * Response that the provider can continue from. Records form trees; the items of a chain are those of all its records.
 */
export interface ResponseRecord {
  id: string;
  credential: string;
  connection: number | null;
  /** Null for a root, and for a compaction, which replaces everything before it. */
  parent: ResponseRecord | null;
  /** Items that this record adds to the effective context: input, then output. */
  items: readonly Item[];
  /** Running hash and number of all effective items up to and including this record's. */
  line: string;
  count: number;
  /** Calls in the effective context without an output, from call id to item type. */
  openCalls: ReadonlyMap<string, string>;
  /** Estimated tokens of the effective items. */
  tokens: number;
  /** The request's own input, as `input_items` lists it. */
  input: readonly Item[];
  /** The response object that `GET` returns. */
  response: Record<string, unknown>;
  /** Ids of its output items in other events, with the items. */
  aliases: readonly (readonly [id: string, item: Item])[];
  /** Number of polls of a queued background response, which completes on the second. */
  polled: number;
}

/** Responses that one WebSocket can continue from in addition to stored ones: the latest response of each lane. */
export interface ConnectionCache {
  get(id: string): ResponseRecord | undefined;
  put(lane: string, record: ResponseRecord): void;
  evict(id: string): void;
  clear(): void;
  ids(): string[];
}

/** Creates the empty cache of one connection. */
export function createConnectionCache(): ConnectionCache {
  const latest = new Map<string, ResponseRecord>();
  const find = (id: string) => [...latest].find(([, record]) => record.id === id);
  return {
    get: (id) => find(id)?.[1],
    put: (lane, record) => void latest.set(lane, record),
    evict(id) {
      const found = find(id);
      if (found) latest.delete(found[0]);
    },
    clear: () => latest.clear(),
    ids: () => [...latest.values()].map(({ id }) => id),
  };
}

export interface Provider {
  readonly seed: number;
  readonly sealer: Sealer;
  /** Returns a new id with the given prefix. The sequence depends only on the seed. */
  id(prefix: string): string;
  /** Returns the number of the next turn. */
  nextTurn(): number;
  store(record: ResponseRecord): void;
  /** Records that the model has read a context, whether stored or not, because prompts are cached by their prefix. */
  read(record: ResponseRecord): void;
  /** Returns whether a context with this hash was read under the credential. */
  hasRead(credential: string, line: string): boolean;
  /** Returns a stored response of this credential. Responses of other credentials are treated as unknown. */
  stored(credential: string, id: string): ResponseRecord | undefined;
  remove(credential: string, id: string): boolean;
  forget(id?: string): void;
  /** Returns the last id assigned under this credential. */
  lastId(credential: string): string | null;
  remember(credential: string, id: string): void;
  /** Returns the head of a `conversation`. */
  conversation(credential: string, id: string): ResponseRecord | undefined;
  advance(credential: string, id: string, record: ResponseRecord): void;
  /** Returns a stored item, for `item_reference`. */
  item(credential: string, id: string): Item | undefined;
}

/** Creates the provider behind every connection, with its ids, stored responses and conversations. */
export function createProvider(seed: number): Provider {
  const responses = new Map<string, ResponseRecord>();
  const conversations = new Map<string, ResponseRecord>();
  const items = new Map<string, Item>();
  const last = new Map<string, string>();
  const lines = new Set<string>();
  let made = 0;
  let turns = 0;
  const key = (credential: string, id: string) => `${credential}\u0000${id}`;

  return {
    seed,
    sealer: createSealer(seed),
    id: (prefix) => `${prefix}_${derive(seed, 'id', ++made).slice(0, 40)}`,
    nextTurn: () => ++turns,
    store(record) {
      responses.set(key(record.credential, record.id), record);
      for (const item of record.items)
        if (typeof item.id === 'string') items.set(key(record.credential, item.id), item);
      for (const [id, item] of record.aliases) items.set(key(record.credential, id), item);
    },
    read: ({ credential, line }) => void lines.add(key(credential, line)),
    hasRead: (credential, line) => lines.has(key(credential, line)),
    stored: (credential, id) => responses.get(key(credential, id)),
    remove: (credential, id) => responses.delete(key(credential, id)),
    forget(id) {
      if (id === undefined) {
        responses.clear();
        items.clear();
      }
      for (const [stored, record] of responses) if (record.id === id) responses.delete(stored);
    },
    lastId: (credential) => last.get(credential) ?? null,
    remember: (credential, id) => void last.set(credential, id),
    conversation: (credential, id) => conversations.get(key(credential, id)),
    advance: (credential, id, record) => void conversations.set(key(credential, id), record),
    item: (credential, id) => items.get(key(credential, id)),
  };
}

/** Iterates over the items of a chain from the newest backwards. */
export function* itemsBackwards(record: ResponseRecord | null): Generator<Item> {
  for (let at = record; at; at = at.parent) for (let i = at.items.length - 1; i >= 0; i--) yield at.items[i]!;
}
