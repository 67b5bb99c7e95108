/** Most item ids that one end records, and that one question asks for. */
const MOST_ITEM_IDS = 1_000;
/** Longest item id that is recorded, in bytes of UTF-8: an index takes no entry of any length. */
const ITEM_ID_BYTES = 2_048;
/** Most turns that are given for one item id. */
export const TURNS_PER_ITEM = 4;

/**
 * The item ids that are stored, or asked for: each once, in their order. A provider's id that is too long is left out,
 * since it must not make the end of a turn fail; a reference to it is then not found.
 */
export function usableItemIds(ids: readonly string[]): string[] {
  const usable = new Set<string>();
  for (const id of ids) {
    if (usable.size === MOST_ITEM_IDS) break;
    if (id !== '' && Buffer.byteLength(id) <= ITEM_ID_BYTES) usable.add(id);
  }
  return [...usable];
}
