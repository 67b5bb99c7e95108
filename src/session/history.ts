import { elementTexts, parseExact, type Written } from '../json.ts';
import type { ReferencedItem, SessionReads, TurnItems } from '../store/port.ts';
import { isNameOnly } from '../transcript/items.ts';
import { itemHash } from '../transcript/line.ts';
import { MOST_NAMES } from '../transcript/provider-ids.ts';
import { buildReplay, withoutServerIds } from '../transcript/replay.ts';
import type { Item } from '../transcript/types.ts';
import type { Turn } from './turn.ts';

const written = (json: string): Written<Item> => ({ json, value: JSON.parse(json) as Item });

/**
 * The texts of a lineage's items, root first, ready to be sent in front of new ones. Null when any of them is missing or
 * cannot be said again exactly: then there is no approximation.
 */
export function itemsOf(turns: readonly TurnItems[]): readonly string[] | null {
  // A line that begins below its root has lost ancestors: what is left would pass for the whole.
  if (turns[0]?.turn.parentTurnId !== null) return null;
  const parts = [];
  for (const { turn, input, output } of turns) {
    if (input === null || output === null) return null;
    parts.push({ input: elementTexts(input), output: elementTexts(output).map(written), replay: turn.replay });
  }
  const replay = buildReplay(parts);
  return replay.kind === 'exact' ? replay.items : null;
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
        const item = parseExact(json) as Item;
        if (!isNameOnly(item)) found.get(item.id as string)?.set(itemHash(item), withoutServerIds({ json }));
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
