import { elementTexts, parseExact, type Written } from '../json.ts';
import type { ReferencedItem, SessionReads, TurnItems } from '../store/port.ts';
import { isNameOnly } from '../transcript/items.ts';
import { itemHash } from '../transcript/line.ts';
import { MOST_NAMES } from '../transcript/provider-ids.ts';
import { buildReplay, withoutServerIds } from '../transcript/replay.ts';
import type { Item } from '../transcript/types.ts';
import type { Turn } from './turn.ts';

const isItem = (value: unknown): value is Item => typeof value === 'object' && value !== null && !Array.isArray(value);

/** Stored items with their values; null where another release, or damage, left something else. */
function writtenItems(stored: string): Written<Item>[] | null {
  let values: unknown;
  try {
    values = JSON.parse(stored);
  } catch {
    return null;
  }
  if (!Array.isArray(values) || !values.every(isItem)) return null;
  return elementTexts(stored).map((json, index) => ({ json, value: values[index]! }));
}

/**
 * The texts of a lineage's items, root first, ready to be sent in front of new ones. Null when any of them is missing or
 * cannot be said again exactly: then there is no approximation.
 */
export function itemsOf(turns: readonly TurnItems[]): readonly string[] | null {
  // A line that begins below its root has lost ancestors: what is left would pass for the whole.
  if (turns[0]?.turn.parentTurnId !== null) return null;
  const parts = [];
  for (const { turn, input, output } of turns) {
    const said = output === null ? null : writtenItems(output);
    if (input === null || said === null) return null;
    parts.push({ input: elementTexts(input), output: said, replay: turn.replay });
  }
  const replay = buildReplay(parts);
  return replay.kind === 'exact' ? replay.items : null;
}

function readable(json: string): Item | null {
  try {
    const value = parseExact(json);
    return isItem(value) ? value : null;
  } catch {
    return null;
  }
}

/**
 * The texts of items of these turns' lines, by item id, as they can be sent in full. An id that stands for several items
 * stands for none. Throws `StoreUnavailable`.
 *
 * @param itemIds what is looked for
 */
export async function loadContents(
  store: SessionReads,
  scope: string,
  turnIds: Iterable<string>,
  itemIds: readonly string[],
): Promise<Map<string, string>> {
  const found = new Map(itemIds.map((id) => [id, new Map<string, string>()]));
  for (const turnId of turnIds) {
    for (const { input, output } of await store.lineage(scope, turnId)) {
      for (const json of [input, output].flatMap((text) => (text === null ? [] : elementTexts(text)))) {
        const item = readable(json);
        if (item && !isNameOnly(item)) found.get(item.id as string)?.set(itemHash(item), withoutServerIds({ json }));
      }
    }
  }
  const contents = new Map<string, string>();
  for (const [id, texts] of found) if (texts.size === 1) contents.set(id, [...texts.values()][0]!);
  return contents;
}

/** Most ids that one question to the store is about. */
const PER_QUESTION = 1_000;

/**
 * The turns of a scope whose output holds or mentions what these ids name, in as many questions as it takes. Throws
 * `StoreUnavailable`.
 */
export async function referencesTo(
  store: Pick<SessionReads, 'references'>,
  scope: string,
  ids: readonly string[],
): Promise<readonly ReferencedItem[]> {
  const rows: ReferencedItem[] = [];
  for (let at = 0; at < Math.min(ids.length, MOST_NAMES); at += PER_QUESTION)
    rows.push(...(await store.references(scope, ids.slice(at, at + PER_QUESTION))));
  return rows;
}

/** Loads the lineage of the turn's parent. Throws `StoreUnavailable`. */
export async function loadHistory(store: SessionReads, turn: Turn): Promise<readonly string[] | null> {
  return turn.parent === null ? null : itemsOf(await store.lineage(turn.evidence.scope, turn.parent.id));
}
