import { promisify } from 'node:util';
import { crc32, deflate, deflateSync, inflate, inflateSync } from 'node:zlib';
import { arrayText, decodeText, elementsOf, encodeArray, encodeText, hashText, type Span, withSpans } from '../json.ts';

/** Most item ids recorded for one turn, and most looked up in one query. */
const MOST_ITEM_IDS = 1_000;
/** Longest recorded item id, in bytes of UTF-8: index entries are limited in size. */
const ITEM_ID_BYTES = 2_048;
/** Most turns returned for one item id. */
export const TURNS_PER_ITEM = 4;

/**
 * Returns the item ids to store or to look up: each once, in their order. A provider id that is too long is left out,
 * because it must not fail the end of a turn; a reference to it is then not found.
 */
export function usableItemIds(ids: readonly string[]): string[] {
  const usable = new Set<string>();
  for (const id of ids) {
    if (usable.size === MOST_ITEM_IDS) break;
    if (id !== '' && Buffer.byteLength(id) <= ITEM_ID_BYTES) usable.add(id);
  }
  return [...usable];
}

const deflateAsync = promisify(deflate);
const inflateAsync = promisify(inflate);

/** Largest size in bytes that is coded inline: up to it the thread pool costs more than it saves the event loop. */
const INLINE_BYTES = 16 * 1024;

/** The fastest level: the next ones take up to three times as long, for a tenth less. */
const DEFLATED = { level: 1 };

/** Largest size in bytes that is stored plain: deflating it would cost more than writing what that saves. */
const PLAIN_BYTES = 1_024;
/** First byte of plain data. The first byte of zlib's format names its method, 8, in its lower half. */
const PLAIN = 0;
/** Position of the data behind that byte and the CRC-32 of the data. */
const PLAIN_FROM = 5;

/**
 * Encodes items for storage: an array of their exact JSON texts in UTF-8, plain or in zlib format. Each has a checksum, which
 * detects damaged rows.
 *
 * @returns the bytes at once for a short array
 */
export function packItems(items: readonly string[]): Buffer | Promise<Buffer> {
  const length = items.reduce((sum, item) => sum + item.length + 1, 1);
  return length <= INLINE_BYTES ? pack(Buffer.from(arrayText(items), 'utf8')) : encodeArray(items).then(pack);
}

/** Encodes one item that is stored by itself. */
export const packItem = async (item: string): Promise<Buffer> => pack(await encodeText(item));

function pack(bytes: Buffer): Buffer | Promise<Buffer> {
  if (bytes.length > PLAIN_BYTES) {
    return bytes.length <= INLINE_BYTES ? deflateSync(bytes, DEFLATED) : deflateAsync(bytes, DEFLATED);
  }
  const packed = Buffer.allocUnsafe(PLAIN_FROM + bytes.length);
  packed[0] = PLAIN;
  packed.writeUInt32BE(crc32(bytes), 1);
  bytes.copy(packed, PLAIN_FROM);
  return packed;
}

/**
 * Decodes packed text.
 *
 * @returns null when the bytes are damaged, which is treated as if nothing had been stored
 */
export async function unpackItems(packed: Buffer): Promise<string | null> {
  let bytes: Buffer;
  try {
    if (packed[0] === PLAIN) {
      bytes = packed.subarray(PLAIN_FROM);
      if (packed.readUInt32BE(1) !== crc32(bytes)) return null;
    } else bytes = packed.length <= INLINE_BYTES / 4 ? inflateSync(packed) : await inflateAsync(packed);
  } catch {
    return null;
  }
  return decodeText(bytes);
}

/** Length in characters above which an item is stored once per scope, for any number of conversations. */
export const SHARED_ABOVE = 64 * 1024;

/** Returns whether some of the items are extracted by `splitItems`. */
export const holdsShared = (items: readonly string[]): boolean => items.some(({ length }) => length > SHARED_ABOVE);

/** Hash of each extracted shared item, by its index in the array of items. */
export type Places = Readonly<Record<number, string>>;

/** Extracted items of a turn, as stored beside its items. */
export interface SharedPlaces {
  input: Places;
  output: Places;
}

interface SplitItems {
  /** JSON texts of the items, with `null` in place of each shared item. */
  items: readonly string[];
  places: Places;
  /** Texts of the shared items, by hash. */
  shared: ReadonlyMap<string, string>;
}

/**
 * Extracts the large items from a list of items' JSON texts.
 *
 * @returns null when there are none
 */
export async function splitItems(all: readonly string[]): Promise<SplitItems | null> {
  const places: Record<number, string> = {};
  const shared = new Map<string, string>();
  const items = [...all];
  for (const [index, text] of all.entries()) {
    if (text.length <= SHARED_ABOVE) continue;
    const hash = await hashText(text);
    shared.set(hash, text);
    places[index] = hash;
    items[index] = 'null';
  }
  return shared.size === 0 ? null : { items, places, shared };
}

/**
 * Puts shared items back into the text of their array, byte for byte.
 *
 * @returns null when a shared item is missing: an incomplete array must not be used
 */
export function joinItems(json: string, places: Places, shared: ReadonlyMap<string, string>): string | null {
  const spans = elementsOf(json);
  const edits: (Span & { json: string })[] = [];
  // Object.entries returns integer-like names in ascending order, as `withSpans` needs them.
  for (const [index, hash] of Object.entries(places)) {
    const text = shared.get(hash);
    const span = spans[Number(index)];
    if (text === undefined || !span) return null;
    edits.push({ ...span, json: text });
  }
  return withSpans(json, edits);
}
