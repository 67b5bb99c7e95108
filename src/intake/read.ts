import { z } from 'zod';
import { type BridgeCode, BridgeError } from '../errors.ts';
import {
  countValues,
  type Excess,
  encodedSlices,
  isFields,
  type Member,
  MOST_LEVELS,
  membersOf,
  PartedText,
  parseExact,
  rawNumber,
  type Text,
  textOf,
  withMembers,
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
/**
 * A text of limited length. zod's own checks of lengths read a member `length` of any object, which is a value of the client.
 */
const text = (least: number, most: number) =>
  z
    .string()
    .refine(({ length }) => length >= least, `Too small: expected string to have >=${least} characters`)
    .refine(({ length }) => length <= most, `Too big: expected string to have <=${most} characters`);
const id = text(1, bounds.id);
const name = text(0, bounds.name);
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
  model: text(1, bounds.name).nullish(),
  input: z.union([z.string(), z.array(item)]).nullish(),
  instructions: z.string().nullish(),
  previous_response_id: id.nullish(),
  conversation: z.union([id, object]).nullish(),
  stream: z.boolean().nullish(),
  store: z.boolean().nullish(),
  background: z.boolean().nullish(),
  generate: z.boolean().nullish(),
  tools: z.array(object).nullish(),
  include: z.array(name).nullish(),
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
export function validateRequest(body: Readonly<Record<string, unknown>>): void {
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
  // A list that is too long is not validated.
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
 * Kind of a body: the request of a turn, an envelope of a peer, which wraps such a request, a message on a client's WebSocket, or
 * the body of a call that starts no turn, by the name of its allowed content.
 */
export type Kind = 'body' | 'envelope' | 'message' | `pass:${PassBody}`;

/** Result of reading a body. */
export interface Read {
  request: ReadRequest;
  /**
   * The text of an envelope with `null` in place of its request, or of a message's {@link MessageHead}; empty for a plain
   * body.
   */
  envelope: string;
  /** Number of values and member names in the body's text. */
  values: number;
}

/** What a message on a client's WebSocket says beside its request. */
export interface MessageHead {
  /** Type of the event; null when it is missing or no short text. */
  type: string | null;
  /** Lane of the event: its `stream_id`, null without one, and `false` for one that cannot be a lane. */
  lane: string | null | false;
  /** Why the request of a `response.create` is refused; null when it is not. */
  refused: { code: BridgeCode; param: string | null; detail: string | null } | null;
  /** Text of a short event other than `response.create`; null for any other. */
  text: string | null;
}

const MESSAGE_CREATE = 'response.create';
/** Longest event other than `response.create` that is kept, and longest type of an event, in characters. */
const LONGEST_EVENT = 1_048_576;
const LONGEST_TYPE = 128;
/** A lane's name, as the API documents it. */
const LANE = /^[A-Za-z0-9_.-]{1,256}$/;

interface ReadSourceOptions {
  /** The result will be flattened. */
  whole?: boolean;
  /** Collect the names of objects at the provider. Default: true. */
  named?: boolean;
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

/**
 * Reads a body: checks bounds, syntax and fields, and computes everything that is needed of it later.
 *
 * @param source UTF-8 bytes, or a text that was decoded already
 * @throws BridgeError if the body is refused
 */
export function readSource(source: Uint8Array | string, kind: Kind, options: ReadSourceOptions = {}): Read {
  let text = '';
  let envelope = '';
  let body: unknown;
  let values = 0;
  try {
    text = typeof source === 'string' ? source : utf8.decode(source);
    if (kind === 'envelope') [envelope, text] = opened(text);
    const counted = countValues(text, bounds);
    if (typeof counted === 'string') throw excessive(counted);
    values = counted;
    body = parseExact(text);
  } catch (error) {
    throw error instanceof BridgeError ? error : new BridgeError('bridge_invalid_json', { cause: error });
  }
  if (!isObject(body)) throw invalid('The body must be a JSON object.');
  if (kind.startsWith('pass:')) {
    const request = readPassed(body, text, passBodies[kind.slice('pass:'.length) as PassBody]);
    return { request, envelope, values };
  }
  const bytes = typeof source === 'string' ? Buffer.byteLength(source) : source.length;
  if (kind === 'message') return { ...readMessage(body, text, bytes, options), values };
  // A lane of the upstream's socket would be opened by it.
  if (kind === 'body' && body.stream_id != null) {
    throw new BridgeError('bridge_stream_id', { detail: 'Over HTTP there are none.', param: 'stream_id' });
  }
  validateRequest(body);
  return { request: readRequest(body, text, bytes, options), envelope, values };
}

/**
 * Reads a message on a client's WebSocket. The request of a `response.create` is the message without `type` and
 * `stream_id`, as a request over HTTP whose answer is streamed. A refused request is part of the result, because its error
 * belongs to the lane that the message names.
 */
function readMessage(
  message: Readonly<Record<string, unknown>>,
  text: string,
  bytes: number,
  options: ReadSourceOptions,
): Omit<Read, 'values'> {
  const { type, stream_id: lane, ...fields } = message;
  const head: MessageHead = {
    type: typeof type === 'string' && type.length <= LONGEST_TYPE ? type : null,
    lane: lane == null ? null : typeof lane === 'string' && LANE.test(lane) && lane,
    refused: null,
    text: null,
  };
  const result = (body: typeof fields, bodyText: string) => ({
    request: readRequest(body, bodyText, bytes, options),
    envelope: JSON.stringify(head),
  });
  if (head.type !== MESSAGE_CREATE) {
    if (text.length <= LONGEST_EVENT) head.text = text;
    return result({}, '{}');
  }
  const body = { ...fields, stream: true };
  try {
    validateRequest(body);
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    const { code, param, detail } = error;
    head.refused = { code, param, detail };
    return result({}, '{}');
  }
  const changes = new Map([...['type', 'stream_id'].map((name) => [name, null] as const), ['stream', 'true'] as const]);
  return result(body, withMembers(text, changes));
}

/** Returns what a message says beside its request. */
export const messageHead = ({ envelope }: Read): MessageHead => JSON.parse(envelope) as MessageHead;

/** Splits a envelope into the text around its request and the text of the request. */
export function opened(envelope: string): [string, string] {
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
  values: number;
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
  /** Collect the names of objects at the provider. */
  named: boolean;
}

/** Answer of a reading thread for one body. `failed`: text of an internal error. */
export type Answer =
  | { flat: Flat }
  | { refused: { code: BridgeCode; param: string | null; detail: string | null } }
  | { failed: string };

const FROM_CLIENT = 1;
const EXACT = 2;
const NAMED = 4;

/** Returns the flags of an item. */
export const marksOf = (item: ReadItem): number =>
  (item.fromClient ? FROM_CLIENT : 0) | (item.exact ? EXACT : 0) | (item.named === null ? 0 : NAMED);

/** Returns the positions of members as numbers, three for each. */
export const placesOf = (members: readonly Member[]): Uint32Array =>
  Uint32Array.from(members.flatMap(({ from, start, end }) => [from, start, end]));

/**
 * Converts a read request for the transfer to another thread.
 *
 * @param read a request whose items occur in its text in order
 */
export function flatten({ request, envelope, values }: Read): Flat {
  const { items, members, ...plain } = request;
  const { list } = items;
  const text = String(request.text);
  const input = members.findLast(({ name }) => name === 'input');
  const bare = input !== undefined && text[input.start] === '"';
  const spans = new Uint32Array(list.length * 2);
  const othersBefore = new Uint32Array(list.length + 1);
  const marks = new Uint8Array(list.length);
  const others: ItemHash[] = [];
  let from = input?.start ?? 0;
  list.forEach((item, index) => {
    const start = bare ? input.start : text.indexOf(item.json, from);
    const end = bare ? input.end : start + item.json.length;
    spans.set([start, end], index * 2);
    from = end;
    othersBefore[index] = others.length;
    others.push(...item.accepted.slice(1));
    marks[index] = marksOf(item);
  });
  othersBefore[list.length] = others.length;
  return {
    ...plain,
    envelope,
    values,
    memberNames: members.map(({ name }) => name),
    memberPlaces: placesOf(members),
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
export function cut(joined: string, from = 0, to = joined.length / HASH_CHARS): ItemHash[] {
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

/** Returns the items of a request that was flattened, each read when it is needed. */
export function itemsOf(flat: Flat): ReadItems {
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

/** Returns the members of a body that was flattened. */
export function membersIn({ memberNames, memberPlaces }: Flat): Member[] {
  const place = (at: number) => memberPlaces[at]!;
  return memberNames.map(
    (name, at): Member => ({ name, from: place(at * 3), start: place(at * 3 + 1), end: place(at * 3 + 2) }),
  );
}

/** Restores a request that was flattened. */
export function unflatten(flat: Flat): Read {
  const { text, bytes, body, shape, hostedTools, requestFp, contextFp, references, comparison, names } = flat;
  const plain = { text, bytes, body, shape, hostedTools, requestFp, contextFp, references, comparison, names };
  const request = { ...plain, members: membersIn(flat), items: itemsOf(flat) };
  return { request, envelope: flat.envelope, values: flat.values };
}

/** Text with which a body is expected to begin: the first `length` characters of `text`, which hold no U+FFFD. */
export interface Beginning {
  readonly text: Text;
  readonly length: number;
}

/**
 * Size of the blocks in which a body is collected, in bytes. Each block has its own memory, so it can be transferred to
 * a worker thread.
 */
const BLOCK = 1_048_576;

/** Collects chunks into a few blocks. At no time is the whole body copied at once. */
function createBlocks() {
  const blocks: Buffer[] = [];
  let room = Buffer.alloc(0);
  let used = 0;
  return {
    push(chunk: Buffer) {
      for (let at = 0; at < chunk.length; ) {
        if (used === room.length) {
          if (used > 0) blocks.push(room);
          room = Buffer.allocUnsafeSlow(blocks.length === 0 ? Math.min(BLOCK, Math.max(4_096, chunk.length)) : BLOCK);
          used = 0;
        }
        const copied = chunk.copy(room, used, at);
        at += copied;
        used += copied;
      }
    },
    /** Returns all blocks, the last one trimmed. */
    end: (): Buffer[] => (used === 0 ? blocks : [...blocks, used === room.length ? room : room.subarray(0, used)]),
  };
}

/** Returns the number of bytes before a character of UTF-8 that is cut at the end. */
function wholeCharacters(bytes: Buffer): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    const byte = bytes[bytes.length - back]!;
    if ((byte & 0xc0) === 0x80) continue;
    const size = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return size > back ? bytes.length - back : bytes.length;
  }
  return bytes.length;
}

/**
 * A body that arrives in chunks. While it repeats the expected beginning, its bytes are compared and nothing of them is
 * kept; what follows is kept as text. A body that differs, or that may not be UTF-8, is kept as bytes.
 */
export class Arrival<B extends Beginning = Beginning> {
  /** What the body is compared with; null: nothing. */
  readonly beginning: B | null;
  /** Number of bytes received. */
  bytes = 0;
  /** Number of characters that repeat the beginning. */
  #same = 0;
  readonly #added: string[] = [];
  /** Bytes of a character of which the rest has not arrived. */
  #cut: Buffer = Buffer.alloc(0);
  /** What follows `#same` and `#added`, once the body is kept as bytes. */
  readonly #blocks = createBlocks();
  #asBytes: boolean;

  constructor(beginning: B | null = null) {
    this.beginning = beginning;
    this.#asBytes = beginning === null;
  }

  /** Takes the next bytes. They may be changed afterwards. */
  push(chunk: Buffer): void {
    this.bytes += chunk.length;
    if (this.#asBytes) return this.#blocks.push(chunk);
    const bytes = this.#cut.length === 0 ? chunk : Buffer.concat([this.#cut, chunk]);
    const end = wholeCharacters(bytes);
    if (this.#takes(bytes.toString('utf8', 0, end))) this.#cut = Buffer.from(bytes.subarray(end));
    else this.#keepBytes(bytes);
  }

  /** Returns what follows the beginning; null when the whole body has to be read. To be called after the last chunk. */
  get rest(): string | null {
    const repeats = !this.#asBytes && this.#same === this.beginning!.length && this.#cut.length === 0;
    return repeats ? this.#added.join('') : null;
  }

  /** Returns the whole body in parts, each with memory of its own. To be called after the last chunk. */
  async whole(): Promise<Buffer[]> {
    if (!this.#asBytes) this.#keepBytes(this.#cut);
    const parts: Buffer[] = [];
    const text = this.beginning === null ? [] : PartedText.of(this.beginning.text, this.#same);
    for (const each of [...text, ...this.#added]) for await (const part of encodedSlices(each)) parts.push(part);
    return [...parts, ...this.#blocks.end()];
  }

  /** Takes text that has arrived. Returns false, and takes nothing, when the body is to be kept as bytes. */
  #takes(text: string): boolean {
    const { text: expected, length } = this.beginning!;
    const same = Math.min(text.length, length - this.#same);
    if (expected.slice(this.#same, this.#same + same) !== text.slice(0, same)) return false;
    const added = text.slice(same);
    if (added.includes('\ufffd')) return false;
    this.#same += same;
    if (added !== '') this.#added.push(added);
    return true;
  }

  #keepBytes(bytes: Buffer): void {
    this.#asBytes = true;
    this.#cut = Buffer.alloc(0);
    this.#blocks.push(bytes);
  }
}
