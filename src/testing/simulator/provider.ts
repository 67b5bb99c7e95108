import type { Item } from '../../transcript/types.ts';
import { createSealer, type Sealer } from './sealed.ts';
import { derive } from './seeded.ts';

/** A response the provider can continue from. Records form trees; a chain's items are those of all its records. */
export interface ResponseRecord {
  id: string;
  credential: string;
  connection: number | null;
  /** Null at a root, and at a compaction, which stands for all before it. */
  parent: ResponseRecord | null;
  /** Items this record adds to the effective context: input, then output. */
  items: readonly Item[];
  /** Running hash and number of all effective items up to and including this record's. */
  line: string;
  count: number;
  /** Calls in the effective context that have no output yet: id to item type. */
  openCalls: ReadonlyMap<string, string>;
  /** Estimated tokens of the effective items. */
  tokens: number;
  /** The request's own input, as `input_items` lists it. */
  input: readonly Item[];
  /** The response object as `GET` answers it. */
  response: Record<string, unknown>;
  /** Ids that its output items had in other events, with the items. */
  aliases: readonly (readonly [id: string, item: Item])[];
  /** Times a queued background response was looked at; it completes on the second. */
  polled: number;
}

/** What one WebSocket can continue from besides stored responses: the latest response of each lane. */
export interface ConnectionCache {
  get(id: string): ResponseRecord | undefined;
  put(lane: string, record: ResponseRecord): void;
  evict(id: string): void;
  clear(): void;
  ids(): string[];
}

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
  /** A fresh id with the given prefix; the sequence depends only on the seed. */
  id(prefix: string): string;
  /** Count of creates so far, and one more. */
  nextTurn(): number;
  store(record: ResponseRecord): void;
  /** Keeps the mark of a context that the model has read, stored or not: prompts are cached by what they begin with. */
  read(record: ResponseRecord): void;
  /** Whether a context of this credential had come to this line. */
  hasRead(credential: string, line: string): boolean;
  /** A stored response of this credential. Another credential's is as unknown as none. */
  stored(credential: string, id: string): ResponseRecord | undefined;
  remove(credential: string, id: string): boolean;
  forget(id?: string): void;
  /** The id last given to this credential. */
  lastId(credential: string): string | null;
  remember(credential: string, id: string): void;
  /** Head of a `conversation`. */
  conversation(credential: string, id: string): ResponseRecord | undefined;
  advance(credential: string, id: string, record: ResponseRecord): void;
  /** A stored item, for `item_reference`. */
  item(credential: string, id: string): Item | undefined;
}

/** The provider behind every connection: ids, stored responses, conversations. */
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

/** The items of a chain from the newest backwards, as far as the caller reads. */
export function* itemsBackwards(record: ResponseRecord | null): Generator<Item> {
  for (let at = record; at; at = at.parent) for (let i = at.items.length - 1; i >= 0; i--) yield at.items[i]!;
}
