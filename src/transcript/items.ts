import { elementTexts, type Written } from '../json.ts';
import type { Item } from './types.ts';

/** Returns a request's `input` as items. A bare string is one user message. */
export function normaliseInput(input: unknown): readonly Item[] {
  if (typeof input === 'string') {
    return [{ type: 'message', role: 'user', content: [{ type: 'input_text', text: input }] }];
  }
  return Array.isArray(input) ? (input as Item[]) : [];
}

/**
 * Returns a request's input items with the texts they were written in. The text of the item for a bare string is made here.
 *
 * @param text text of the input; null when there is none
 */
export function writtenInput(input: unknown, text: string | null): readonly Written<Item>[] {
  if (typeof input === 'string' && text !== null) return [{ value: normaliseInput(input)[0]!, json: bareItem(text) }];
  const texts = Array.isArray(input) ? elementTexts(text ?? '') : [];
  return normaliseInput(input).map((value, index) => ({ value, json: texts[index] ?? JSON.stringify(value) }));
}

/**
 * Returns the text of the item for a bare string.
 *
 * @param string the string as JSON text
 */
export const bareItem = (string: string): string =>
  `{"type":"message","role":"user","content":[{"type":"input_text","text":${string}}]}`;

const isId = (value: unknown) => typeof value === 'string' && value !== '';
const isMissing = (value: unknown) => !value || (Array.isArray(value) && value.length === 0);

/**
 * Returns whether an item is only a name: a reference, or an item whose content the provider looks up by its id. It means
 * nothing where that content is not stored, and where several tenants share a credential its owner must be known.
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

/** Returns the item's type. Without one, an item with a role is a message, and one with only an id is a reference. */
export function typeOf(item: Item): string {
  if (typeof item.type === 'string') return item.type;
  if (typeof item.role === 'string') return 'message';
  return isId(item.id) ? 'item_reference' : 'unknown';
}
