import { elementTexts, membersOf, type Written } from '../json.ts';
import type { Item, RequestBody } from './types.ts';

/** A request's `input` as items: a bare string is one user message. */
export function normaliseInput(input: unknown): readonly Item[] {
  if (typeof input === 'string') {
    return [{ type: 'message', role: 'user', content: [{ type: 'input_text', text: input }] }];
  }
  return Array.isArray(input) ? (input as Item[]) : [];
}

/** The item's type; an item with a role and without a type is a message. */
export function typeOf(item: Item): string {
  if (typeof item.type === 'string') return item.type;
  return typeof item.role === 'string' ? 'message' : 'unknown';
}

/**
 * A request's `input` as items with the text each was written as; a bare string is one user message.
 *
 * @param text the body's JSON text
 */
export function writtenInput(body: RequestBody, text: string): readonly Written<Item>[] {
  const values = normaliseInput(body.input);
  if (!Array.isArray(body.input)) return values.map((value) => ({ value, json: JSON.stringify(value) }));
  const texts = elementTexts(text, membersOf(text).get('input')?.start);
  return values.map((value, index) => ({ value, json: texts[index] ?? JSON.stringify(value) }));
}
