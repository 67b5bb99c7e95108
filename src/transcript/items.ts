import { hash } from 'node:crypto';
import { elementTexts, rawNumber, type Written } from '../json.ts';
import type { Fingerprint, Item, ItemHash, RequestBody } from './types.ts';

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

/**
 * Types whose `id` is never part of the identity: providers change these ids between events, and clients drop them. For all
 * other types an id sent by a client must be one that the item was shown with, since the item may refer by nothing else.
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
 * Stamp that Codex puts on every item it sends, including the model's own (seen in 0.169.0 with remote compaction). Its own
 * deltas over WebSocket treat stamped and unstamped items as equal.
 */
const STAMP = 'internal_chat_message_metadata_passthrough';

/** Types whose status is a client's report to the model, not the provider's progress with the item. */
const reportedStatus = new Set(['apply_patch_call_output']);

/** Display marks of a text. Clients drop them when they send the text back. */
const decorations = new Set(['annotations', 'logprobs']);

/** Returns the number of significant digits of a written number. A pattern for trailing zeros would take quadratic time. */
function digitsOf(written: string): number {
  const digits = written.replace(/[eE].*$/, '').replace(/[-.]/g, '');
  let start = 0;
  let end = digits.length;
  while (start < end && digits[start] === '0') start += 1;
  while (end > start && digits[end - 1] === '0') end -= 1;
  return end - start;
}

/** Returns a number kept as written in the form of the double with the same value; with all its digits if there is none. */
function canonicalNumber(written: string): string {
  const digits = digitsOf(written);
  const value = Number(written);
  if (digits <= 15 && Number.isFinite(value) && (value !== 0 || digits === 0)) return String(value === 0 ? 0 : value);
  return written.toLowerCase();
}

/**
 * Serialises to JSON with sorted keys. Absent members, null and empty annotations are equal.
 *
 * @param omit members of the value itself to omit
 * @param plain omit annotations and logprobs at every depth, whatever they hold
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

/** Returns a message's content as parts: a string becomes one text part of the kind that matches its role. */
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
  // The ciphertext determines the item: the model reads only what it seals.
  if (type === 'reasoning' && isSealed(item)) return canonical({ type, encrypted_content: item.encrypted_content });
  return canonical({ ...item, type }, omit, plain);
}

/**
 * Returns the identity of an item: items with equal strings are the same. Status, ids that providers change, and empty
 * annotations are not part of it; unknown members are compared whole.
 */
export function identity(item: Item): string {
  return identityOf(item, true, false);
}

/**
 * Returns an identity without the parts that clients drop or change freely. It may be equal where `identity` differs, so it
 * only selects candidates.
 */
export function looseIdentity(item: Item): string {
  return identityOf(item, typeOf(item) === 'item_reference', true);
}

/**
 * Returns every identity under which a client may repeat an item: whole, without its id, and without the annotations of its
 * text.
 */
export function identitiesOf(item: Item): string[] {
  const whole = identityOf(item, true, false);
  const forms = [whole];
  const hasOwnId = item.id != null && !volatileIds.has(typeOf(item));
  if (hasOwnId) forms.push(identityOf(item, false, false));
  // Long inputs are read before the request is answered, so forms that cannot differ are not serialised again.
  if ([...decorations].some((name) => whole.includes(`"${name}":`))) {
    forms.push(identityOf(item, true, true));
    if (hasOwnId) forms.push(identityOf(item, false, true));
  }
  return [...new Set(forms)];
}

/**
 * Returns every identity under which a client may send back an item that it was shown: those above, and a reference by its
 * id. An id that only a client gave to an item means nothing to the provider.
 */
export function identitiesShown(item: Item): string[] {
  const own = identitiesOf(item);
  const named = typeof item.id === 'string' && item.id !== '';
  return named ? [...own, identity({ type: 'item_reference', id: item.id })] : own;
}

/**
 * Returns the form of a text to hash. Hashing a long string takes several times as long as encoding it and hashing its
 * bytes.
 */
export const hashable = (text: string): string | Buffer => (text.length < 65_536 ? text : Buffer.from(text, 'utf8'));

const sha256 = (text: string): Fingerprint => hash('sha256', hashable(text), 'hex');

/** Fields that do not change the model's input, or that may change between the turns of one line. */
const ignored = new Set([
  'type',
  'input',
  'previous_response_id',
  'conversation',
  'background',
  'client_metadata',
  'metadata',
  'stream',
  'stream_options',
  'user',
  'safety_identifier',
  'prompt_cache_key',
  'prompt_cache_retention',
  'prompt_cache_options',
  'moderation',
  'access_programs',
  'service_tier',
  'max_output_tokens',
  'max_tool_calls',
  'temperature',
  'top_p',
  'top_logprobs',
  'generate',
]);

/** Values that the API assumes for absent fields. */
const defaults = new Map<string, string>([
  ['tool_choice', canonical('auto')],
  ['parallel_tool_calls', canonical(true)],
  ['truncation', canonical('disabled')],
  ['store', canonical(true)],
  ['tools', canonical([])],
  ['include', canonical([])],
  ['text', canonical({ format: { type: 'text' } })],
]);

function contextField(name: string, value: unknown): string {
  if (name === 'include' && Array.isArray(value)) return canonical([...new Set(value.map(String))].sort());
  return canonical(value);
}

/**
 * Returns the fingerprint of the fields that must be equal for a request to be sent as a delta of another. Unknown fields
 * are compared; a field at its default equals its absence.
 */
export function contextFingerprint(body: RequestBody): Fingerprint {
  const fields: string[] = [];
  for (const name of Object.keys(body).sort()) {
    const value = body[name];
    if (ignored.has(name) || value === null || value === undefined) continue;
    const text = contextField(name, value);
    if (text !== defaults.get(name) && text !== '{}') fields.push(`${name}=${text}`);
  }
  return sha256(fields.join('\n'));
}

/** Fields about delivery, and stamps that change with every attempt. They are not part of the requested generation. */
const delivery = new Set(['type', 'stream', 'stream_options', 'client_metadata', 'input']);

/**
 * Returns the fingerprint of a request. Requests with equal fingerprints ask for the same generation.
 *
 * @param hashes hashes of the items of the body's input
 */
export function requestFingerprint(body: RequestBody, hashes: readonly ItemHash[]): Fingerprint {
  const fields: string[] = [];
  for (const name of Object.keys(body).sort()) {
    const value = body[name];
    if (delivery.has(name) || value === null || value === undefined) continue;
    fields.push(`${name}=${contextField(name, value)}`);
  }
  return sha256(`${fields.join('\n')}\n${hashes.join()}`);
}
