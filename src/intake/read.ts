import { BridgeError } from '../errors.ts';
import { excessOf, type Member, membersOf, parseExact, textOf, withSpans } from '../json.ts';
import { bareItem } from '../transcript/items.ts';
import { HASH_CHARS } from '../transcript/line.ts';
import { readRequest } from '../transcript/read.ts';
import type { Item, ItemHash, ReadItem, ReadItems, ReadRequest } from '../transcript/types.ts';
import { bounds, excessive, isBody, notAnObject, validateRequest } from './validate.ts';

/** Kind of a body: a request, or a parcel of a peer, which wraps a request. */
export type Kind = 'body' | 'parcel';

/** Result of reading a body. */
export interface Read {
  request: ReadRequest;
  /** The text of a parcel with `null` in place of its request; empty for a plain body. */
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
    if (kind === 'parcel') [envelope, text] = opened(text);
    const excess = excessOf(text, bounds);
    if (excess) throw excessive(excess);
    body = parseExact(text);
  } catch (error) {
    throw error instanceof BridgeError ? error : new BridgeError('bridge_invalid_json', { cause: error });
  }
  if (!isBody(body)) throw notAnObject();
  validateRequest(body);
  const bytes = typeof source === 'string' ? Buffer.byteLength(source) : source.length;
  return { request: readRequest(body, text, bytes, whole), envelope };
}

/** Splits a parcel into the text around its request and the text of the request. */
function opened(parcel: string): [string, string] {
  const place = membersOf(parcel).get('body');
  return place ? [withSpans(parcel, [{ ...place, json: 'null' }]), textOf(parcel, place)!] : [parcel, 'null'];
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
