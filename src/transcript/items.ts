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

/** Reasoning that is only named: without a ciphertext nothing of it can be read where it is not stored. */
export function isBareReasoning(item: Item): boolean {
  return typeOf(item) === 'reasoning' && typeof item.id === 'string' && !item.encrypted_content;
}

/** The item's type; an item with a role and without a type is a message. */
export function typeOf(item: Item): string {
  if (typeof item.type === 'string') return item.type;
  return typeof item.role === 'string' ? 'message' : 'unknown';
}
