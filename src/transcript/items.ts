import { elementTexts, type Written } from '../json.ts';
import type { Item } from './types.ts';

/** A request's `input` as items: a bare string is one user message. */
export function normaliseInput(input: unknown): readonly Item[] {
  if (typeof input === 'string') {
    return [{ type: 'message', role: 'user', content: [{ type: 'input_text', text: input }] }];
  }
  return Array.isArray(input) ? (input as Item[]) : [];
}

/**
 * A request's input items with the texts they were written in. The item that a bare string stands for is ours to write.
 *
 * @param text the text of the input; null without one
 */
export function writtenInput(input: unknown, text: string | null): readonly Written<Item>[] {
  if (typeof input === 'string' && text !== null) return [{ value: normaliseInput(input)[0]!, json: bareItem(text) }];
  const texts = Array.isArray(input) ? elementTexts(text ?? '') : [];
  return normaliseInput(input).map((value, index) => ({ value, json: texts[index] ?? JSON.stringify(value) }));
}

/** The text of the item that a bare string stands for. */
export const bareItem = (string: string): string =>
  `{"type":"message","role":"user","content":[{"type":"input_text","text":${string}}]}`;

const isId = (value: unknown) => typeof value === 'string' && value !== '';
const isMissing = (value: unknown) => !value || (Array.isArray(value) && value.length === 0);

/**
 * Whether an item only names what it is: references, and items whose substance the provider looks up by their id. It
 * means nothing where that is not stored, and whose it is has to be known where several share a credential.
 */
export function isNameOnly(item: Item): boolean {
  if (!isId(item.id)) return false;
  switch (typeOf(item)) {
    case 'item_reference':
      return true;
    case 'reasoning':
      return isMissing(item.encrypted_content) && isMissing(item.content);
    case 'image_generation_call':
      return isMissing(item.result);
    default:
      return false;
  }
}

/** The item's type. Without one, an item with a role is a message, and one with no more than an id is a reference. */
export function typeOf(item: Item): string {
  if (typeof item.type === 'string') return item.type;
  if (typeof item.role === 'string') return 'message';
  return isId(item.id) ? 'item_reference' : 'unknown';
}
