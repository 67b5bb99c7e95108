import { digestOf, expectedDigest } from '../../src/testing/index.ts';

type Item = Record<string, unknown>;
type Response = { id?: string; output?: Item[] };

/** Knows the context that each request of a client means, from the requests and answers that it has seen. */
export interface Meanings {
  /** Returns the items of the context that a request means to its model. */
  of(body: Record<string, unknown>): Item[];
  /**
   * Records an answer.
   *
   * @param output the items as they were streamed, or as they are listed
   * @returns true if the digest that the model reports is that of the context the client meant; null without a digest
   */
  answered(body: Record<string, unknown>, items: Item[], response: Response, output: Item[]): boolean | null;
}

/** Creates the record of one client's conversations. */
export function createMeanings(): Meanings {
  const contexts = new Map<string, Item[]>();
  const known = new Map<string, Item>();
  return {
    of({ input, previous_response_id: anchor }) {
      const list: Item[] =
        typeof input === 'string' ? [{ type: 'message', role: 'user', content: input }] : ((input as Item[]) ?? []);
      const before = typeof anchor === 'string' ? (contexts.get(anchor) ?? [{ unknown: anchor }]) : [];
      const own = list.map((item) => (item.type === 'item_reference' ? (known.get(String(item.id)) ?? item) : item));
      return [...before, ...own];
    },
    answered({ instructions, tools, reasoning }, items, response, output) {
      for (const item of output) if (typeof item.id === 'string') known.set(item.id, item);
      if (response.id !== undefined) contexts.set(response.id, [...items, ...output]);
      const reported = digestOf({ output });
      return reported === null
        ? null
        : reported === expectedDigest({ items: items as never, instructions, tools, reasoning });
    },
  };
}
