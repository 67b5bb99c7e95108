import { rawNumber } from '../json.ts';
import { typeOf } from './items.ts';
import type { Item } from './types.ts';

/**
 * Types whose `id` is never identity: providers rotate these ids between events and clients drop them. For all other
 * types an id that a client sends must be one the item was shown with, since it may be all that the item refers by.
 */
const volatileIds = new Set([
  'message',
  'function_call',
  'function_call_output',
  'custom_tool_call',
  'custom_tool_call_output',
  'local_shell_call',
  'shell_call',
  'shell_call_output',
  'apply_patch_call',
  'apply_patch_call_output',
  'tool_search_call',
  'tool_search_output',
  'compaction',
  'web_search_call',
]);

/**
 * A stamp that Codex puts on every item it sends, the model's own included (seen in 0.169.0 with remote compaction).
 * Its own deltas over WebSocket take stamped and unstamped items for the same.
 */
const STAMP = 'internal_chat_message_metadata_passthrough';

/** Types whose status is what a client reports to the model, not how far the provider has got with the item. */
const reportedStatus = new Set(['apply_patch_call_output']);

/** Marks on a text that are about its display; clients drop them when they send the text back. */
const decorations = new Set(['annotations', 'logprobs']);

/** How many significant digits a number is written with. A pattern for zeros at the end would take quadratic time. */
function digitsOf(written: string): number {
  const digits = written.replace(/[eE].*$/, '').replace(/[-.]/g, '');
  let start = 0;
  let end = digits.length;
  while (start < end && digits[start] === '0') start += 1;
  while (end > start && digits[end - 1] === '0') end -= 1;
  return end - start;
}

/** A number kept as it was written, in the form a double with the same value has; all its digits where there is none. */
function canonicalNumber(written: string): string {
  const digits = digitsOf(written);
  const value = Number(written);
  if (digits <= 15 && Number.isFinite(value) && (value !== 0 || digits === 0)) return String(value === 0 ? 0 : value);
  return written.toLowerCase();
}

/**
 * JSON with sorted keys; absent, null and empty annotations are the same as nothing.
 *
 * @param omit members of the value itself that are left out
 * @param plain leave out annotations and logprobs at every depth, whatever they hold
 */
export function canonical(value: unknown, omit: readonly string[] = [], plain = false): string {
  if (Array.isArray(value)) return `[${value.map((each) => canonical(each, [], plain)).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value ?? null);
  const written = rawNumber(value);
  if (written !== null) return canonicalNumber(written);
  const fields: string[] = [];
  for (const key of Object.keys(value).sort()) {
    const field = (value as Record<string, unknown>)[key];
    if (omit.includes(key) || field === null || field === undefined) continue;
    if (decorations.has(key) && Array.isArray(field) && (plain || field.length === 0)) continue;
    fields.push(`${JSON.stringify(key)}:${canonical(field, [], plain)}`);
  }
  return `{${fields.join(',')}}`;
}

/** A message's content as parts: a string is one text part of the kind its role writes. */
function contentOf(item: Item): unknown {
  const { content, role } = item;
  if (typeof content !== 'string') return content;
  return [{ type: role === 'assistant' ? 'output_text' : 'input_text', text: content }];
}

const isSealed = (item: Item): boolean => typeof item.encrypted_content === 'string' && item.encrypted_content !== '';

function identityOf(item: Item, withId: boolean, plain: boolean): string {
  const type = typeOf(item);
  const omit = [STAMP];
  if (!withId || volatileIds.has(type)) omit.push('id');
  if (!reportedStatus.has(type)) omit.push('status');
  if (type === 'message') return canonical({ ...item, type, content: contentOf(item) }, omit, plain);
  // The ciphertext is the whole item: what it seals is what the model reads, and nothing else of it is identity.
  if (type === 'reasoning' && isSealed(item)) return canonical({ type, encrypted_content: item.encrypted_content });
  return canonical({ ...item, type }, omit, plain);
}

/**
 * What an item is, as a string: equal strings, same item. Status and ids that providers rotate are not identity, nor are
 * empty annotations; anything unknown compares whole.
 */
export function identity(item: Item): string {
  return identityOf(item, true, false);
}

/**
 * An identity without what clients drop or change at will: it may be equal where `identity` is not, so it chooses and
 * never decides.
 */
export function looseIdentity(item: Item): string {
  return identityOf(item, typeOf(item) === 'item_reference', true);
}

/** Every identity under which a client may repeat an item: whole, without its id, and without what decorates its text. */
export function identitiesOf(item: Item): string[] {
  const whole = identityOf(item, true, false);
  const forms = [whole];
  const hasOwnId = item.id != null && !volatileIds.has(typeOf(item));
  if (hasOwnId) forms.push(identityOf(item, false, false));
  // Long inputs are read on the way to an answer: what cannot differ is not written out again.
  if ([...decorations].some((name) => whole.includes(`"${name}":`))) {
    forms.push(identityOf(item, true, true));
    if (hasOwnId) forms.push(identityOf(item, false, true));
  }
  return [...new Set(forms)];
}

/**
 * Every identity under which a client may send back an item that it was shown: those above, and a reference by its id.
 * An id that only a client gave an item names nothing at the provider.
 */
export function identitiesShown(item: Item): string[] {
  const own = identitiesOf(item);
  const named = typeof item.id === 'string' && item.id !== '';
  return named ? [...own, identity({ type: 'item_reference', id: item.id })] : own;
}
