import type { Item } from '../transcript/types.ts';

/** The items of one answer, as its two kinds of events show them. */
export interface AnsweredItems {
  /** Those of `response.output_item.done`, in order; none of an answer that was not streamed. */
  done: readonly Item[];
  /** Those the terminal event or the JSON body lists. */
  completed: readonly Item[];
}

/** Which of the two a client keeps. Streaming clients like Codex keep `done`, users of `response.output` the other. */
export type ItemForm = keyof AnsweredItems;

/** What a client leaves out of the model's items when it sends them again. */
export type Dropped = 'id' | 'status' | 'reasoning' | 'annotations';

/** The items as a client keeps them: the other form where its own has none. */
export function keptItems(answer: AnsweredItems, form: ItemForm): readonly Item[] {
  const own = answer[form];
  return own.length > 0 ? own : answer[form === 'done' ? 'completed' : 'done'];
}

/** The items as a client sends them again. */
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
