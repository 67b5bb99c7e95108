import { elementsOf, hashText, type Span, withSpans } from '../json.ts';

/** An item of more characters than this is stored once per scope, however many conversations carry it. */
export const SHARED_ABOVE = 64 * 1024;

/** Where in an array of items a shared one was taken out, and the hash of its text. */
export type Places = Readonly<Record<number, string>>;

/** As stored beside a turn's items. */
export interface SharedPlaces {
  input: Places;
  output: Places;
}

interface SplitItems {
  /** The items' JSON texts with `null` where a shared item was. */
  items: readonly string[];
  places: Places;
  /** Texts of the shared items by hash. */
  shared: ReadonlyMap<string, string>;
}

/** Takes the large ones out of a list of items' JSON texts. Null when there are none. */
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

/** Puts shared items back into the text of their array, to the letter. Null when one of them is missing: what is not whole is not used. */
export function joinItems(json: string, places: Places, shared: ReadonlyMap<string, string>): string | null {
  const spans = elementsOf(json);
  const edits: (Span & { json: string })[] = [];
  // Integer-like names come in ascending order.
  for (const [index, hash] of Object.entries(places)) {
    const text = shared.get(hash);
    const span = spans[Number(index)];
    if (text === undefined || !span) return null;
    edits.push({ ...span, json: text });
  }
  return withSpans(json, edits);
}
