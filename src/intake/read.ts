import { z } from 'zod';
import { type BridgeCode, BridgeError } from '../errors.ts';
import {
  type Excess,
  excessOf,
  isFields,
  type Member,
  MOST_LEVELS,
  membersOf,
  parseExact,
  rawNumber,
  textOf,
  withSpans,
} from '../json.ts';
import { bareItem, HASH_CHARS } from '../transcript/items.ts';
import { type PassBody, passBodies } from '../transcript/pass-bodies.ts';
import { readPassed, readRequest } from '../transcript/read.ts';
import type { Item, ItemHash, ReadItem, ReadItems, ReadRequest } from '../transcript/types.ts';

/**
 * Limits on one body. All are far above what clients send: a long session of Codex has thousands of items with about
 * ten values each. Limits documented by the provider are lower (128 tools, 16 keys of metadata) and are left for the
 * provider to enforce.
 */
export const bounds = {
  levels: MOST_LEVELS,
  /** Number of values and member names, over all levels. */
  values: 1_000_000,
  /** Number of members of the body itself. */
  members: 256,
  items: 65_536,
  tools: 4_096,
  included: 64,
  /** Number of members of `metadata` and of `client_metadata`. */
  metadata: 256,
  /**
   * Length of names that are stored, compared or shown: models, cache keys, turn ids, entries of `include`. In
   * characters.
   */
  name: 1_024,
  /**
   * Length of an id, in characters. Gateways pack a deployment and an encrypted original id into one; 1,500 have been
   * observed.
   */
  id: 65_536,
} as const;

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  isFields(value) && rawNumber(value) === null;

const object = z.custom<Readonly<Record<string, unknown>>>(isObject, 'Invalid input: expected object');
const id = z.string().min(1).max(bounds.id);
const name = z.string().max(bounds.name);
const item = object.refine(
  (value) => typeof value.id !== 'string' || value.id.length <= bounds.id,
  `Too big: expected an id of <=${bounds.id} characters`,
);
const pairs = object.refine(
  (value) => Object.keys(value).length <= bounds.metadata,
  `Too big: expected object to have <=${bounds.metadata} keys`,
);
const clientMetadata = pairs.refine(
  ({ turn_id: turn }) => typeof turn !== 'string' || turn.length <= bounds.name,
  `Too big: expected turn_id to have <=${bounds.name} characters`,
);

/** Fields that Holdfast itself reads, or whose type affects how a request is placed. All other fields pass unchanged. */
const request = z.looseObject({
  model: name.min(1).nullish(),
  input: z.union([z.string(), z.array(item).max(bounds.items)]).nullish(),
  instructions: z.string().nullish(),
  previous_response_id: id.nullish(),
  conversation: z.union([id, object]).nullish(),
  stream: z.boolean().nullish(),
  store: z.boolean().nullish(),
  background: z.boolean().nullish(),
  generate: z.boolean().nullish(),
  tools: z.array(object).max(bounds.tools).nullish(),
  include: z.array(name).max(bounds.included).nullish(),
  reasoning: object.nullish(),
  text: object.nullish(),
  metadata: pairs.nullish(),
  client_metadata: clientMetadata.nullish(),
  prompt_cache_key: name.nullish(),
});

/**
 * Checks the fields of a `POST /responses` body whose types matter here. No resource has been opened for the request
 * yet.
 *
 * @throws BridgeError `bridge_invalid_request` with the name of the field
 */
function validateRequest(body: Readonly<Record<string, unknown>>): void {
  const names = Object.keys(body);
  if (names.length > bounds.members) throw invalid(`The body has more than ${bounds.members} members.`);
  if (names.some(({ length }) => length > bounds.name)) {
    throw invalid(`A member of the body has a name of more than ${bounds.name} characters.`);
  }
  const lists = [
    ['input', bounds.items],
    ['tools', bounds.tools],
    ['include', bounds.included],
  ] as const;
  // Check the lengths first: a list that is too long is not validated, and a union would not report why it failed.
  for (const [name, most] of lists) {
    const list = body[name];
    if (Array.isArray(list) && list.length > most) {
      throw invalid(`${name}: Too big: expected array to have <=${most} items.`, name);
    }
  }
  const parsed = request.safeParse(body);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const param = issue!.path.join('.') || undefined;
    throw invalid(`${param ?? 'body'}: ${issue!.message}.`, param);
  }
  if (body.previous_response_id != null && body.conversation != null) {
    throw invalid('previous_response_id and conversation cannot be used together.', 'previous_response_id');
  }
}

/** Returns the error of a body that exceeds a limit which its text alone shows. */
const excessive = (excess: Excess): BridgeError =>
  excess === 'levels'
    ? invalid(`The body is nested deeper than ${bounds.levels} levels.`)
    : new BridgeError('bridge_body_too_large', { detail: `The body holds more than ${bounds.values} values.` });

const invalid = (detail: string, param?: string) =>
  new BridgeError('bridge_invalid_request', { detail, ...(param === undefined ? {} : { param }) });

/**
 * Kind of a body: the request of a turn, an envelope of a peer, which wraps such a request, or the body of a call that starts
 * no turn, by the name of its allowed content.
 */
export type Kind = 'body' | 'envelope' | `pass:${PassBody}`;

/** Result of reading a body. */
export interface Read {
  request: ReadRequest;
  /** The text of a envelope with `null` in place of its request; empty for a plain body. */
  envelope: string;
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

/**
 * Reads a body: checks bounds, syntax and fields, and computes everything that is needed of it later.
 *
 * @param source UTF-8 bytes, or a text that was decoded already
 * @param whole true if the result will be flattened
 * @throws BridgeError if the body is refused
 */
export function readSource(source: Uint8Array | string, kind: Kind, whole = false): Read {
  let text = '';
  let envelope = '';
  let body: unknown;
  try {
    text = typeof source === 'string' ? source : utf8.decode(source);
    if (kind === 'envelope') [envelope, text] = opened(text);
    const excess = excessOf(text, bounds);
    if (excess) throw excessive(excess);
    body = parseExact(text);
  } catch (error) {
    throw error instanceof BridgeError ? error : new BridgeError('bridge_invalid_json', { cause: error });
  }
  if (!isObject(body)) throw invalid('The body must be a JSON object.');
  if (kind.startsWith('pass:')) {
    const request = readPassed(body, text, passBodies[kind.slice('pass:'.length) as PassBody]);
    return { request, envelope };
  }
  validateRequest(body);
  const bytes = typeof source === 'string' ? Buffer.byteLength(source) : source.length;
  return { request: readRequest(body, text, bytes, whole), envelope };
}

/** Splits a envelope into the text around its request and the text of the request. */
function opened(envelope: string): [string, string] {
  const place = membersOf(envelope).get('body');
  return place ? [withSpans(envelope, [{ ...place, json: 'null' }]), textOf(envelope, place)!] : [envelope, 'null'];
}

/**
 * A read request in a form that is cheap to transfer to another thread: few strings and arrays of numbers, independent
 * of the number of items. Receiving an object graph with a million values would block a thread for longer than reading
 * the body.
 */
export interface Flat extends Omit<ReadRequest, 'items' | 'members'> {
  envelope: string;
  memberNames: readonly string[];
  /** Three numbers per member: the start of its name, the start of its value, and the end. */
  memberPlaces: Uint32Array;
  /** Two numbers per item: start and end in the text. For a bare string, the place of its own text. */
  spans: Uint32Array;
  bare: boolean;
  /** Concatenated hashes of equal length. */
  hashes: string;
  chain: string;
  places: string;
  /** Hashes under which items are accepted in addition to their own. */
  others: string;
  /** For each item the number of entries of `others` before its own; at the end their total. */
  othersBefore: Uint32Array;
  /** Flags of each item, as bits. */
  marks: Uint8Array;
}

/** A body to read in a thread: its bytes in parts, or its text. */
export interface Job {
  parts: readonly Uint8Array[] | string;
  kind: Kind;
}

/** Answer of a reading thread for one body. `failed`: text of an internal error. */
export type Answer =
  | { flat: Flat }
  | { refused: { code: BridgeCode; param: string | null; detail: string | null } }
  | { failed: string };

const FROM_CLIENT = 1;
const EXACT = 2;
const NAMED = 4;

/**
 * Converts a read request for the transfer to another thread.
 *
 * @param read a request whose items occur in its text in order
 */
export function flatten({ request, envelope }: Read): Flat {
  const { items, members, ...plain } = request;
  const { list } = items;
  const input = members.findLast(({ name }) => name === 'input');
  const bare = input !== undefined && request.text[input.start] === '"';
  const spans = new Uint32Array(list.length * 2);
  const othersBefore = new Uint32Array(list.length + 1);
  const marks = new Uint8Array(list.length);
  const others: ItemHash[] = [];
  let from = input?.start ?? 0;
  list.forEach((item, index) => {
    const start = bare ? input.start : request.text.indexOf(item.json, from);
    const end = bare ? input.end : start + item.json.length;
    spans.set([start, end], index * 2);
    from = end;
    othersBefore[index] = others.length;
    others.push(...item.accepted.slice(1));
    marks[index] = (item.fromClient ? FROM_CLIENT : 0) | (item.exact ? EXACT : 0) | (item.named === null ? 0 : NAMED);
  });
  othersBefore[list.length] = others.length;
  return {
    ...plain,
    envelope,
    memberNames: members.map(({ name }) => name),
    memberPlaces: Uint32Array.from(members.flatMap((member) => [member.from, member.start, member.end])),
    spans,
    bare,
    hashes: items.hashes.join(''),
    chain: items.chain.join(''),
    places: items.places.join(''),
    others: others.join(''),
    othersBefore,
    marks,
  };
}

/** Returns the hashes from index `from` to `to` of a concatenated text. */
function cut(joined: string, from = 0, to = joined.length / HASH_CHARS): ItemHash[] {
  const hashes: ItemHash[] = [];
  for (let at = from; at < to; at += 1) hashes.push(joined.slice(at * HASH_CHARS, (at + 1) * HASH_CHARS));
  return hashes;
}

/** An item that was read in another thread: only its value is parsed, on demand. */
class FlatItem implements ReadItem {
  readonly #flat: Flat;
  readonly #at: number;

  constructor(flat: Flat, at: number) {
    this.#flat = flat;
    this.#at = at;
  }

  get json() {
    const { text, spans, bare } = this.#flat;
    const written = text.slice(spans[this.#at * 2], spans[this.#at * 2 + 1]);
    return bare ? bareItem(written) : written;
  }

  get value() {
    return parseExact(this.json) as Item;
  }

  get hash() {
    return cut(this.#flat.hashes, this.#at, this.#at + 1)[0]!;
  }

  get accepted() {
    const { others, othersBefore } = this.#flat;
    return [this.hash, ...cut(others, othersBefore[this.#at], othersBefore[this.#at + 1])];
  }

  get fromClient() {
    return this.#has(FROM_CLIENT);
  }

  get exact() {
    return this.#has(EXACT);
  }

  get named() {
    return this.#has(NAMED) ? String(this.value.id) : null;
  }

  #has(mark: number): boolean {
    return (this.#flat.marks[this.#at]! & mark) !== 0;
  }
}

function itemsOf(flat: Flat): ReadItems {
  let list: ReadItems['list'] | null = null;
  let hashes: ReadItems['hashes'] | null = null;
  let chain: ReadItems['chain'] | null = null;
  let places: ReadItems['places'] | null = null;
  return {
    get list() {
      return (list ??= Array.from(flat.marks, (_, at) => new FlatItem(flat, at)));
    },
    get hashes() {
      return (hashes ??= cut(flat.hashes));
    },
    get chain() {
      return (chain ??= cut(flat.chain));
    },
    get places() {
      return (places ??= cut(flat.places));
    },
  };
}

/** Restores a request that was flattened. */
export function unflatten(flat: Flat): Read {
  const { text, bytes, body, shape, hostedTools, requestFp, contextFp, references, comparison, names } = flat;
  const place = (at: number) => flat.memberPlaces[at]!;
  const members = flat.memberNames.map(
    (name, at): Member => ({ name, from: place(at * 3), start: place(at * 3 + 1), end: place(at * 3 + 2) }),
  );
  const plain = { text, bytes, body, shape, hostedTools, requestFp, contextFp, references, comparison, names };
  return { request: { ...plain, members, items: itemsOf(flat) }, envelope: flat.envelope };
}
