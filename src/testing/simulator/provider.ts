import type { Item } from '../../transcript/types.ts';
import { BYTES_PER_TOKEN, countItems, fold, inputItems, sealLine } from './digest.ts';
import {
  invalidEncryptedContent,
  invalidRequest,
  isWarmUp,
  notFound,
  previousResponseNotFound,
  Refusal,
} from './events.ts';
import { createSealer, derive, SEALED_MEMBERS, type Sealer } from './seeded.ts';

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
  /**
   * Returns a response that this lane can continue. That of another lane is out of reach while that lane runs a turn: it
   * advances.
   */
  get(id: string, lane: string): ResponseRecord | undefined;
  put(lane: string, record: ResponseRecord): void;
  /** Notes that a lane runs a turn. */
  begin(lane: string): void;
  end(lane: string): void;
  /** Evicts a response from the lane whose continuation of it has failed. Another lane keeps it. */
  evict(id: string, lane: string): void;
  clear(): void;
  ids(): string[];
}

/** Creates the empty cache of one connection. */
export function createConnectionCache(): ConnectionCache {
  const latest = new Map<string, ResponseRecord>();
  const running = new Set<string>();
  return {
    get: (id, lane) =>
      [...latest].find(([owner, record]) => record.id === id && (owner === lane || !running.has(owner)))?.[1],
    put: (lane, record) => void latest.set(lane, record),
    begin: (lane) => void running.add(lane),
    end: (lane) => void running.delete(lane),
    evict(id, lane) {
      if (latest.get(lane)?.id === id) latest.delete(lane);
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

/** A request resolved against the provider's data: exactly the input of its model. */
export interface TurnContext {
  previous: ResponseRecord | null;
  /** Items that this request adds. */
  input: readonly Item[];
  /** Ids of reasoning items replayed under another context than they were made under. They are not in `input`. */
  removed: readonly unknown[];
  line: string;
  count: number;
  openCalls: ReadonlyMap<string, string>;
  /**
   * Estimated tokens. `itemTokens`: of all items. `tokens`: also of the request's instructions and tools.
   * `cachedTokens`: of the prefix that the model has read before.
   */
  itemTokens: number;
  tokens: number;
  cachedTokens: number;
  /** Sixteen hex digits over the effective context. */
  digest: string;
  /** Conversation that the request belongs to. */
  conversation: string | null;
}

const CALL_OF_OUTPUT: Record<string, string> = {
  function_call_output: 'function_call',
  custom_tool_call_output: 'custom_tool_call',
};
const CALLS = new Set(Object.values(CALL_OF_OUTPUT));

/** Estimates tokens from the length of a value's JSON. */
export const estimateTokens = (value: unknown): number =>
  Math.ceil((JSON.stringify(value) ?? '').length / BYTES_PER_TOKEN);

/**
 * Returns the open calls after `items`, given those of `before`.
 *
 * @throws {Refusal} for an output whose call is not in the context
 */
export function pairCalls(
  before: ReadonlyMap<string, string>,
  items: readonly Item[],
  known: (callId: string, type: string) => boolean,
): Map<string, string> {
  const open = new Map(before);
  const seen = new Set<string>();
  for (const item of items) {
    const type = String(item.type);
    const callId = String(item.call_id);
    if (CALLS.has(type)) {
      open.set(callId, type);
      seen.add(callId);
    }
    const expected = CALL_OF_OUTPUT[type];
    if (!expected) continue;
    if (open.get(callId) !== expected && !seen.has(callId) && !known(callId, expected)) {
      const what = expected === 'function_call' ? 'tool call found for function call output' : 'custom tool call found';
      throw new Refusal(invalidRequest(`No ${what} with call_id ${callId}.`, 'input'));
    }
    open.delete(callId);
  }
  return open;
}

function findPrevious(
  provider: Provider,
  credential: string,
  cache: { get(id: string): ResponseRecord | undefined } | null,
  body: Readonly<Record<string, unknown>>,
): ResponseRecord | null {
  const { previous_response_id: anchor, conversation } = body;
  if (conversation != null) {
    if (anchor != null)
      throw new Refusal(invalidRequest('Mutually exclusive parameters: previous_response_id, conversation.'));
    return provider.conversation(credential, conversationId(conversation)!) ?? null;
  }
  if (anchor == null) return null;
  if (typeof anchor !== 'string')
    throw new Refusal(invalidRequest('previous_response_id must be a string.', 'previous_response_id'));
  const cached = cache?.get(anchor);
  const record = cached?.credential === credential ? cached : provider.stored(credential, anchor);
  if (!record) throw new Refusal(previousResponseNotFound(anchor));
  return record;
}

function conversationId(conversation: unknown): string | null {
  if (conversation == null) return null;
  return String(typeof conversation === 'object' ? (conversation as { id?: unknown }).id : conversation);
}

/**
 * Computes the effective context of a request: the items of the chain it continues, then its own input. Instructions
 * and tools are those of the request only; they are not inherited.
 *
 * @throws {Refusal} as the provider would refuse: unknown anchor, foreign encrypted content, unanswered tool calls
 */
export function resolveContext(options: {
  provider: Provider;
  credential: string;
  /** Responses that the request's connection and lane can continue; null over HTTP. */
  cache: { get(id: string): ResponseRecord | undefined } | null;
  body: Readonly<Record<string, unknown>>;
  checkToolPairs: boolean;
}): TurnContext {
  const { provider, credential, body } = options;
  if (typeof body.model !== 'string')
    throw new Refusal(invalidRequest("Missing required parameter: 'model'.", 'model'));
  if (body.input != null && typeof body.input !== 'string' && !Array.isArray(body.input))
    throw new Refusal(invalidRequest("Invalid type for 'input': expected a string or an array.", 'input'));
  const previous = findPrevious(provider, credential, options.cache, body);

  const given = inputItems(body.input).map((item) => {
    if (item.type !== 'item_reference') return item;
    const found = provider.item(credential, String(item.id));
    if (!found) throw new Refusal(notFound(`Item with id '${String(item.id)}' not found.`));
    return found;
  });
  for (const item of given)
    for (const member of SEALED_MEMBERS)
      if (typeof item[member] === 'string' && !provider.sealer.opens(credential, item[member]))
        throw new Refusal(invalidEncryptedContent);
  const before = previous?.tokens ?? 0;
  let cachedTokens = before;
  const {
    line,
    kept: input,
    removed,
    tokens: added,
  } = fold(previous?.line ?? '', given, (at, tokens) => {
    if (provider.hasRead(credential, at)) cachedTokens = before + tokens;
  });

  let openCalls: ReadonlyMap<string, string> = new Map();
  if (options.checkToolPairs) {
    const known = (callId: string, type: string) =>
      [...itemsBackwards(previous)].some((item) => item.type === type && item.call_id === callId);
    openCalls = pairCalls(previous?.openCalls ?? new Map(), input, known);
    const [unanswered] = openCalls.keys();
    if (unanswered !== undefined && !isWarmUp(body))
      throw new Refusal(invalidRequest(`No tool output found for function call ${unanswered}.`, 'input'));
  }

  return {
    previous,
    input,
    removed: removed.map(({ id }) => id ?? null),
    line,
    count: (previous?.count ?? 0) + countItems(input),
    openCalls,
    itemTokens: before + added,
    tokens: before + added + estimateTokens([body.instructions, body.tools]),
    cachedTokens,
    digest: sealLine(line, body).slice(0, 16),
    conversation: conversationId(body.conversation),
  };
}

/** Returns the record of a finished response. Items replaced by a compaction item are no longer part of the context. */
export function recordOf(options: {
  context: TurnContext;
  credential: string;
  connection: number | null;
  response: Record<string, unknown>;
  /** Additional ids under which output items were sent, and the items they refer to. */
  aliases: ResponseRecord['aliases'];
}): ResponseRecord {
  const { context, response } = options;
  const output = response.output as readonly Item[];
  const compaction = output.findLastIndex((item) => item.type === 'compaction');
  const cut = compaction >= 0;
  const kept = cut ? output.slice(compaction) : output;
  const folded = fold(cut ? '' : context.line, kept);
  return {
    id: String(response.id),
    credential: options.credential,
    connection: options.connection,
    parent: cut ? null : context.previous,
    items: cut ? kept : [...context.input, ...output],
    line: folded.line,
    count: cut ? countItems(kept) : context.count + countItems(output),
    openCalls: pairCalls(cut ? new Map() : context.openCalls, kept, () => true),
    tokens: (cut ? 0 : context.itemTokens) + folded.tokens,
    input: context.input,
    response,
    aliases: options.aliases,
    polled: 0,
  };
}
