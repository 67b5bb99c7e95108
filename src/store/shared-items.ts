import { createHash } from 'node:crypto';

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
  /** The items' JSON text with `null` where a shared item was. */
  json: string;
  places: Places;
  /** Texts of the shared items by hash. */
  shared: ReadonlyMap<string, string>;
}

/** Takes the large items out of an array's JSON text. Null when there are none, or when the text could not be restored. */
export function splitItems(json: string): SplitItems | null {
  if (json.length <= SHARED_ABOVE) return null;
  let items: unknown;
  try {
    items = JSON.parse(json);
  } catch {
    return null;
  }
  if (!Array.isArray(items)) return null;
  const texts = items.map((item) => JSON.stringify(item));
  // What is restored must be what was given, to the letter; text that was spaced or escaped otherwise stays whole.
  if (`[${texts.join(',')}]` !== json) return null;
  const places: Record<number, string> = {};
  const shared = new Map<string, string>();
  texts.forEach((text, index) => {
    if (text.length <= SHARED_ABOVE) return;
    const hash = createHash('sha256').update(text).digest('hex');
    shared.set(hash, text);
    places[index] = hash;
    texts[index] = 'null';
  });
  return shared.size === 0 ? null : { json: `[${texts.join(',')}]`, places, shared };
}

/** Puts shared items back. Null when one of them is missing: what is not whole is not used. */
export function joinItems(json: string, places: Places, shared: ReadonlyMap<string, string>): string | null {
  const items = JSON.parse(json) as unknown[];
  const texts = items.map((item) => JSON.stringify(item));
  for (const [index, hash] of Object.entries(places)) {
    const text = shared.get(hash);
    if (text === undefined) return null;
    texts[Number(index)] = text;
  }
  return `[${texts.join(',')}]`;
}
