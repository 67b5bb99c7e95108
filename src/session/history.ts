import { elementTexts, parseExact, type Written } from '../json.ts';
import type { ReferencedItem, SessionReads, TurnItems } from '../store/port.ts';
import { isNameOnly } from '../transcript/items.ts';
import { itemHash } from '../transcript/line.ts';
import { MOST_NAMES } from '../transcript/provider-ids.ts';
import { buildReplay, withoutServerIds } from '../transcript/replay.ts';
import type { Item } from '../transcript/types.ts';
import type { Turn } from './turn.ts';

const isItem = (value: unknown): value is Item => typeof value === 'object' && value !== null && !Array.isArray(value);

/** Parses stored items. Returns null if another release, or damage, left something else in the column. */
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
 * Returns the texts of a lineage's items, root first, ready to be sent in front of new ones. Returns null if any of
 * them is missing or cannot be resent exactly: the history is never approximated.
 */
export function itemsOf(turns: readonly TurnItems[]): readonly string[] | null {
  // The lineage does not begin at a root, so ancestors are missing: a partial history must not be sent as the whole.
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
 * Loads the texts of items, by item id, in the form in which they can be sent in full. The items are searched in the
 * lines of the given turns. An id that several different items have is left out.
 *
 * @param itemIds ids to look for
 * @throws StoreUnavailable if the store does not answer
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

/** Maximum number of ids in one query. */
const PER_QUESTION = 1_000;

/**
 * Loads the turns of a scope whose output contains or mentions the objects with these ids, in as many queries as
 * needed. At most `MOST_NAMES` ids are looked up.
 *
 * @throws StoreUnavailable if the store does not answer
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

/**
 * Loads the history of the turn's parent. Returns null without a parent, or if the history is not exact.
 *
 * @throws StoreUnavailable if the store does not answer
 */
export async function loadHistory(store: SessionReads, turn: Turn): Promise<readonly string[] | null> {
  return turn.parent === null ? null : itemsOf(await store.lineage(turn.evidence.scope, turn.parent.id));
}
