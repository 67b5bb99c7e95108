import { TURN_METADATA_HEADER, TURN_STATE_HEADER } from '../headers.ts';
import { isFields, scanMembers, spansByName, textOf, type Written } from '../json.ts';
import type { Shape } from '../store/port.ts';
import {
  acceptedOf,
  chainOver,
  contextFingerprint,
  fieldTexts,
  isFromClient,
  isNameOnly,
  itemHash,
  plausiblePlaces,
  requestFingerprint,
  typeOf,
  writtenInput,
} from './items.ts';
import { isExactItem } from './planner.ts';
import { namesWritten, type Rule } from './provider-ids.ts';
import type { Item, ItemHash, LookedAt, Names, ReadItem, ReadItems, ReadRequest, RequestBody } from './types.ts';

/** No names: they were not collected, or there are none. */
export const noNames: Names = Object.freeze({ owned: new Map(), foreign: null });

/** Types that only a model or a tool round produces: an input that contains one carries history. */
const producedTypes = /(_call|_call_output|_output|reasoning|compaction|_approval_request|_approval_response)$/;

/** Returns the shape of a request with these items: anchored, with its whole history, or the start of one. */
export function shapeOf(body: RequestBody, items: readonly Item[]): Shape {
  if (typeof body.previous_response_id === 'string' && body.previous_response_id !== '') return 'delta';
  const past = items.some((item) => item.role === 'assistant' || producedTypes.test(typeOf(item)));
  return past ? 'full' : 'fresh';
}

/** Returns the ids of items that a request's input names instead of containing them. */
export function referencesIn(body: RequestBody): string[] {
  const items = (Array.isArray(body.input) ? body.input : []).filter(
    (item): item is Item => isFields(item) && isNameOnly(item),
  );
  return [...new Set(items.map(({ id }) => String(id)))];
}

/** Returns the id of the response with which the provider is to compare its cache; null when the request names none. */
export function comparisonOf(body: RequestBody): string | null {
  const options = body.prompt_cache_options;
  const id = isFields(options) ? options.comparison_response_id : null;
  return typeof id === 'string' && id !== '' ? id : null;
}

/** Path of the field read by `comparisonOf`. */
export const COMPARISON_PATH = 'prompt_cache_options.comparison_response_id';

/** Tools whose use has no effect outside the conversation. Any other may have acted before the socket was lost. */
const harmless = new Set([
  'function',
  'custom',
  'namespace',
  'tool_search',
  'web_search',
  'web_search_preview',
  'file_search',
]);

/** Returns whether a request lets the provider use a tool that may act outside the conversation. */
export function hasHostedTools({ tools }: RequestBody): boolean {
  return Array.isArray(tools) && !tools.every((tool) => isFields(tool) && harmless.has(tool.type as string));
}

/** Item whose properties are computed on first use. */
class LazyItem implements ReadItem {
  readonly value: Item;
  readonly json: string;
  #hash: ItemHash | null = null;
  #accepted: readonly ItemHash[] | null = null;

  constructor({ value, json }: Written<Item>) {
    this.value = value;
    this.json = json;
  }

  get hash() {
    return (this.#hash ??= this.#accepted?.[0] ?? itemHash(this.value));
  }

  get accepted() {
    return (this.#accepted ??= acceptedOf(this.value));
  }

  get fromClient() {
    return isFromClient(this.value);
  }

  get exact() {
    return isExactItem(this.value);
  }

  get named() {
    return isNameOnly(this.value) ? String(this.value.id) : null;
  }
}

/** Wraps one item, whose properties are computed on first use. */
export const readItem = (item: Written<Item>): ReadItem => new LazyItem(item);

/** Wraps the items of a request, which must not change afterwards. */
export function readItems(items: readonly Written<Item>[]): ReadItems {
  const list = items.map(readItem);
  let hashes: ReadItems['hashes'] | null = null;
  let chain: ReadItems['chain'] | null = null;
  let places: ReadItems['places'] | null = null;
  return {
    list,
    get hashes() {
      return (hashes ??= list.map(({ hash }) => hash));
    },
    get chain() {
      return (chain ??= chainOver(list));
    },
    get places() {
      return (places ??= plausiblePlaces(list, this.chain));
    },
  };
}

/**
 * Members of `client_metadata` that are kept, up to `LONGEST_METADATA` characters; the others are only for the provider.
 */
const METADATA = [
  'turn_id',
  'thread_id',
  'session_id',
  TURN_METADATA_HEADER,
  TURN_STATE_HEADER,
  'ws_request_header_traceparent',
  'ws_request_header_tracestate',
];
export const LONGEST_METADATA = 32_768;
/** Members kept unchanged: validation bounds their size. */
const KEPT: readonly (keyof LookedAt)[] = [
  'model',
  'stream',
  'store',
  'background',
  'include',
  'previous_response_id',
  'prompt_cache_key',
  'client_metadata',
];
/** Members of which only the presence is kept. */
const NOTED: readonly (keyof LookedAt)[] = ['conversation', 'reasoning'];

/** Returns the members of a body that the bridge itself uses. None of them is large. */
export function lookedAt(body: RequestBody): LookedAt {
  const kept: Record<string, unknown> = {};
  for (const name of KEPT) if (Object.hasOwn(body, name)) kept[name] = body[name];
  for (const name of NOTED) if (Object.hasOwn(body, name)) kept[name] = body[name] == null ? null : {};
  if (isFields(kept.client_metadata)) kept.client_metadata = keptMetadata(kept.client_metadata);
  return kept;
}

function keptMetadata(metadata: RequestBody): RequestBody {
  const kept: Record<string, unknown> = {};
  for (const name of METADATA) {
    if (!Object.hasOwn(metadata, name)) continue;
    const value = metadata[name];
    kept[name] = typeof value === 'string' && value.length <= LONGEST_METADATA ? value : null;
  }
  return kept;
}

/**
 * Reads a body once, so that no later code needs the whole of it.
 *
 * @param body validated value of `text`
 * @param bytes size as received
 * @param options.whole compute all hashes of every item now, because they will be needed
 * @param options.named false: do not collect the names of objects at the provider, which matter where several tenants share a credential
 */
export function readRequest(
  body: RequestBody,
  text: string,
  bytes: number,
  options: { whole?: boolean; named?: boolean } = {},
): ReadRequest {
  const members = scanMembers(text);
  const fields = fieldTexts(body);
  const items = readItems(writtenInput(body.input, textOf(text, spansByName(members).get('input'))));
  if (options.whole) for (const item of items.list) void item.accepted;
  return {
    text,
    bytes,
    body: lookedAt(body),
    members,
    items,
    shape: shapeOf(
      body,
      items.list.map(({ value }) => value),
    ),
    hostedTools: hasHostedTools(body),
    requestFp: requestFingerprint(fields, items.hashes),
    contextFp: contextFingerprint(fields),
    references: referencesIn(body),
    comparison: comparisonOf(body),
    names: options.named === false ? noNames : namesWritten(body, text),
  };
}

/**
 * Reads the body of a call that starts no turn. It has no items and no fingerprints, only the objects that it names.
 *
 * @param rule allowed content of the body
 */
export function readPassed(body: RequestBody, text: string, rule: Rule): ReadRequest {
  return {
    text,
    bytes: Buffer.byteLength(text),
    body: { stream: body.stream, store: body.store },
    members: [],
    items: readItems([]),
    shape: 'fresh',
    hostedTools: false,
    requestFp: '',
    contextFp: '',
    references: [],
    comparison: null,
    names: namesWritten(body, text, rule),
  };
}
