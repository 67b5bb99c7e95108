import { elementTexts, memberText, type Written } from '../json.ts';
import type { Item, RequestBody, WireInput } from './types.ts';

/** A request's `input` as items: a bare string is one user message. */
export function normaliseInput(input: unknown): readonly Item[] {
  if (typeof input === 'string') {
    return [{ type: 'message', role: 'user', content: [{ type: 'input_text', text: input }] }];
  }
  return Array.isArray(input) ? (input as Item[]) : [];
}

/** Items already cut out, for as long as their request lives: they are asked about more than once. */
const cut = new WeakMap<RequestBody, readonly Written<Item>[]>();

/**
 * A request's input items with the texts they were written in. The item that a bare string stands for is ours to write.
 *
 * @param text the body's JSON text, of which `body` is the value
 */
export function writtenInput(body: RequestBody, text: string): readonly Written<Item>[] {
  const known = cut.get(body);
  if (known) return known;
  const values = normaliseInput(body.input);
  const texts = Array.isArray(body.input) ? elementTexts(memberText(text, 'input') ?? '') : [];
  const items = values.map((value, index) => ({ value, json: texts[index] ?? JSON.stringify(value) }));
  cut.set(body, items);
  return items;
}

/**
 * A request's own input as it was sent.
 *
 * @param text the body's JSON text, of which `body` is the value
 */
export function inputAsSent(body: RequestBody, text: string): WireInput {
  return { input: memberText(text, 'input'), items: normaliseInput(body.input).length };
}

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
