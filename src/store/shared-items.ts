import { elementsOf, hashText, type Span, withSpans } from '../json.ts';

/** Length in characters above which an item is stored once per scope, for any number of conversations. */
export const SHARED_ABOVE = 64 * 1024;

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
