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
