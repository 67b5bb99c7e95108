import type { Item } from '../../src/transcript/types.ts';

/** Items of one answer, as its two kinds of events list them. */
export interface AnsweredItems {
  /** Items of `response.output_item.done` events, in order. Empty for an answer that was not streamed. */
  done: readonly Item[];
  /** Items listed by the terminal event or the JSON body. */
  completed: readonly Item[];
}

/**
 * List of items that a client keeps. Streaming clients such as Codex keep `done`; users of `response.output` keep
 * `completed`.
 */
export type ItemForm = keyof AnsweredItems;

/** Parts of the model's items that a client leaves out when it resends them. */
export type Dropped = 'id' | 'status' | 'reasoning' | 'annotations';

/**
 * Returns the items that a client keeps: its own form, or the other one where its own is empty.
 *
 * @param answer both forms of the items of one answer
 * @param form the form that the client prefers
 */
export function keptItems(answer: AnsweredItems, form: ItemForm): readonly Item[] {
  const own = answer[form];
  return own.length > 0 ? own : answer[form === 'done' ? 'completed' : 'done'];
}

/**
 * Returns the items as a client resends them, without the parts it drops.
 *
 * @param items items of earlier answers
 * @param drops parts that the client leaves out
 */
export function sentAgain(items: readonly Item[], drops: readonly Dropped[]): Item[] {
  return items
    .filter(({ type }) => !(type === 'reasoning' && drops.includes('reasoning')))
    .map((item) => {
      const kept: Record<string, unknown> = { ...item };
      if (drops.includes('id')) delete kept.id;
      if (drops.includes('status')) delete kept.status;
      if (drops.includes('annotations') && Array.isArray(kept.content)) {
        kept.content = (kept.content as Item[]).map(({ annotations: _, ...part }) => part);
      }
      return kept;
    });
}
