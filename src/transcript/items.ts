import { hash } from 'node:crypto';
import {
  elementsOf,
  elementTexts,
  isFields,
  type Member,
  membersOf,
  rawNumber,
  type Span,
  scanObject,
  skipSpace,
  spansByName,
  type Written,
  withMembers,
  withSpans,
} from '../json.ts';
import type { Fingerprint, Item, ItemHash, ReadItem, ReadItems, RequestBody } from './types.ts';

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
  const texts = elementTexts(text ?? '');
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
/** Their names as an identity contains them. */
const writtenDecorations = [...decorations].map((name) => `"${name}":`);

/**
 * Serialises to JSON with sorted keys. Absent members, null and empty annotations are equal. A number that no double holds
 * stays as written.
 *
 * @param omit members of the value itself to omit
 * @param plain omit annotations and logprobs at every depth, whatever they hold
 */
export function canonical(value: unknown, omit: readonly string[] = [], plain = false): string {
  if (Array.isArray(value)) return `[${value.map((each) => canonical(each, [], plain)).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value ?? null);
  const written = rawNumber(value);
  if (written !== null) return written.toLowerCase();
  const fields: string[] = [];
  for (const key of Object.keys(value).sort()) {
    const field = (value as Record<string, unknown>)[key];
    if (omit.includes(key) || field == null) continue;
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
  if (writtenDecorations.some((name) => whole.includes(name))) {
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

/** Fields about delivery, and stamps that change with every attempt. They are not part of the requested generation. */
const delivery = new Set(['type', 'stream', 'stream_options', 'client_metadata', 'input']);

/** Further fields that do not change the model's input, or that may change between the turns of one line. */
const ignored = new Set([
  'previous_response_id',
  'conversation',
  'background',
  'metadata',
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

/** Canonical texts of a body's fields by name. */
export type FieldTexts = ReadonlyMap<string, string>;

/** Returns the canonical text of one field; null for a field that no fingerprint covers, or that has no value. */
export function fieldText(name: string, value: unknown): string | null {
  return delivery.has(name) || value == null ? null : contextField(name, value);
}

/** Returns the canonical texts of all fields that fingerprints cover. */
export function fieldTexts(body: RequestBody): FieldTexts {
  const texts = new Map<string, string>();
  for (const name of Object.keys(body)) {
    const text = fieldText(name, body[name]);
    if (text !== null) texts.set(name, text);
  }
  return texts;
}

const sorted = (fields: FieldTexts) => [...fields.keys()].sort().map((name) => [name, fields.get(name)!] as const);

/**
 * Returns the fingerprint of the fields that must be equal for a request to be sent as a delta of another. Unknown fields
 * are compared; a field at its default equals its absence.
 */
export function contextFingerprint(fields: FieldTexts): Fingerprint {
  const compared = sorted(fields).filter(
    ([name, text]) => !ignored.has(name) && text !== defaults.get(name) && text !== '{}',
  );
  return sha256(compared.map(([name, text]) => `${name}=${text}`).join('\n'));
}

/**
 * Returns the fingerprint of a request. Requests with equal fingerprints ask for the same generation.
 *
 * @param hashes hashes of the items of the body's input
 */
export function requestFingerprint(fields: FieldTexts, hashes: readonly ItemHash[]): Fingerprint {
  const written = sorted(fields).map(([name, text]) => `${name}=${text}`);
  return sha256(`${written.join('\n')}\n${hashes.join()}`);
}

interface ShownForm {
  /** The client's own anchor, or null. A response object must never show an anchor that only the bridge used. */
  previousResponseId: string | null;
  /** The bridge requested encrypted reasoning; the client did not and must not get it. */
  hideEncrypted: boolean;
}

const holdsEncrypted = (item: Item) => typeOf(item) === 'reasoning' && 'encrypted_content' in item;

function withoutEncrypted(item: Item): Item {
  if (!holdsEncrypted(item)) return item;
  const { encrypted_content: _hidden, ...rest } = item;
  return rest;
}

/** Returns the items of a turn as its client saw them. Identities use this form, replays the stored one. */
export function shownItems(items: readonly Item[], hideEncrypted: boolean): readonly Item[] {
  return hideEncrypted ? items.map(withoutEncrypted) : items;
}

const sealed = new Map([['encrypted_content', null]]);

/** Removes the encrypted content from an item's text. */
const unseal = (text: string, { start, end }: Span) => ({
  start,
  end,
  json: withMembers(text.slice(start, end), sealed),
});

/**
 * Returns one upstream event as its client may see it. The text is passed on unchanged except for additions of the bridge:
 * an anchor that the client did not send, or encrypted content that it did not request.
 */
export function rewriteForClient(text: string, data: Record<string, unknown>, form: ShownForm): string {
  const { response, item } = data;
  const isHidden = (listed: unknown) => form.hideEncrypted && isFields(listed) && holdsEncrypted(listed);
  if (isFields(response)) {
    const foreign = 'previous_response_id' in response && response.previous_response_id !== form.previousResponseId;
    const output: unknown[] = Array.isArray(response.output) ? response.output : [];
    const hides = output.some(isHidden);
    if (!foreign && !hides) return text;
    const members = membersOfResponse(text);
    const edits: (Span & { json: string })[] = [];
    if (foreign) edits.push({ ...members.get('previous_response_id')!, json: JSON.stringify(form.previousResponseId) });
    const spans = hides ? elementsOf(text, members.get('output')!.start) : [];
    for (const [index, span] of spans.entries()) if (isHidden(output[index])) edits.push(unseal(text, span));
    return withSpans(
      text,
      edits.sort((one, other) => one.start - other.start),
    );
  }
  return isHidden(item) ? withSpans(text, [unseal(text, membersOf(text).get('item')!)]) : text;
}

/**
 * Returns a response object made by the bridge itself: every member that OpenAI's SDKs declare as required, with nothing
 * generated. Vercel's SDK rejects one without `model` and `created_at`.
 *
 * @param from.model model that the request named; clients reject a response without one
 * @param from.now wall clock in milliseconds
 */
export function bareResponse(from: { id: string; model: unknown; now: number }) {
  return {
    id: from.id,
    object: 'response' as const,
    created_at: Math.floor(from.now / 1000),
    status: 'in_progress' as const,
    access_programs: null,
    error: null,
    incomplete_details: null,
    instructions: null,
    metadata: {},
    model: typeof from.model === 'string' && from.model !== '' ? from.model : 'unknown',
    output: [],
    output_text: '',
    parallel_tool_calls: true,
    temperature: null,
    tool_choice: 'auto' as const,
    tools: [],
    top_p: null,
  };
}

/**
 * Matching of a request's items with the turns that they continue.
 *
 * A provider seals an item separately for each event that shows it, may list items that it did not stream, and may change
 * ids between the two. So one turn is known in several forms, and a client may send back any of them, turn by turn. This
 * has two consequences. A fingerprint over everything cannot be looked up: the **place** fingerprint covers only the
 * client-made items and the last item, and selects candidates. The decision then compares item by item: each known item is
 * a set of accepted hashes (its **forms**), and a request continues a turn when every item of the turn's line accepts the
 * request's item at its position.
 */

/** Hashes accepted for one known item. */
type Accepted = readonly ItemHash[];

/**
 * Known items: the hashes accepted for each, one after the other, with a comma after each item. A session keeps all items of
 * its conversation as long as it lives, and strings of their own would take five times the memory.
 */
type Packed = string;

/** Items that one turn added to its line. */
export interface TurnForms {
  input: Packed;
  /** Alternatives for the output: usually one; two when the terminal event listed other items than were streamed. */
  outputs: readonly Packed[];
  /**
   * Alternatives for the start of the line after the provider compacted the context. Clients send either one of these or
   * the whole line, compaction included. Empty without a compaction.
   */
  begins: readonly Packed[];
}

/** Forms of a turn and of its ancestors. */
export interface Line {
  readonly turnId: string;
  readonly forms: TurnForms;
  readonly parent: Line | null;
  /** The turn has a parent that is not known here. Only a start of the line after a compaction can then be matched. */
  readonly detached?: boolean;
}

export const HASH_CHARS = 22;
const EACH_HASH = new RegExp(`.{${HASH_CHARS}}`, 'g');
const short = (text: string): ItemHash => hash('sha256', hashable(text), 'base64url').slice(0, HASH_CHARS);

/** Returns a copy of a hash: one that was cut out of a longer text keeps all of that text alive. */
export const ownHash = (text: string): string => Buffer.from(text, 'latin1').toString('latin1');

/** Chain over no items. */
export const EMPTY: Fingerprint = short('');

const clientRoles = new Set(['user', 'system', 'developer']);
const clientTypes = new Set([
  'function_call_output',
  'custom_tool_call_output',
  'computer_call_output',
  'local_shell_call_output',
  'apply_patch_call_output',
  'mcp_approval_response',
]);

/** Returns whether only clients make such an item. Its text is the same in every form of a turn. */
export function isFromClient(item: Item): boolean {
  const type = typeOf(item);
  return type === 'message' ? clientRoles.has(item.role as string) : clientTypes.has(type);
}

/** Returns the hash of an item as a request holds it. */
export function itemHash(item: Item): ItemHash {
  return short(identity(item));
}

/** Returns the hashes under which a client may repeat an item that it made or was shown; the item's own hash is first. */
export const acceptedOf = (item: Item): Accepted => identitiesOf(item).map(short);

/** Part of an item that a chain covers. */
type Link = Pick<ReadItem, 'hash' | 'fromClient'>;

/** Returns the chain after one more item. Items made by a model are skipped. */
const next = (before: Fingerprint, { hash: own, fromClient }: Link): Fingerprint =>
  fromClient ? short(`${before}\n${own}`) : before;

/** Extends a client chain by more items. */
export function extendChain(from: Fingerprint, items: readonly Link[]): Fingerprint {
  return items.reduce(next, from);
}

/**
 * Returns the chains over items: entry n covers the first n.
 *
 * @param from chain over the items before
 */
export function chainOver(items: readonly Link[], from: Fingerprint = EMPTY): Fingerprint[] {
  const chain = [from];
  for (const item of items) chain.push(next(chain.at(-1)!, item));
  return chain;
}

/**
 * Returns the fingerprint of the place after an item of a transcript.
 *
 * @param chain client chain up to the place
 * @param last item before the place
 */
export function placeAfter(chain: Fingerprint, last: Item): Fingerprint {
  return short(`${chain}\n>${looseIdentity(last)}`);
}

/** Most places looked up. The deepest match wins, so the longest prefixes come first. */
const MOST_PLACES = 256;

/** Number of newest items among which a known turn may also have ended after a client-made item. */
const NEWEST = 8;

/**
 * Returns the numbers of items after which a known turn may have ended, deepest first: after items of the model, and among
 * the newest items after any item (a warm-up has no output, and some outputs end like an input).
 */
export function plausibleCounts(items: readonly Pick<ReadItem, 'fromClient'>[]): number[] {
  const counts: number[] = [];
  for (let count = items.length; count > 0 && counts.length < MOST_PLACES; count -= 1) {
    if (count > items.length - NEWEST || !items[count - 1]!.fromClient) counts.push(count);
  }
  return counts;
}

/**
 * Returns the places in a request's items where a known turn may have ended, deepest first.
 *
 * @param known places that were computed before, by number of items
 */
export function plausiblePlaces(
  items: readonly Pick<ReadItem, 'fromClient' | 'value'>[],
  chain: readonly Fingerprint[],
  known: ReadonlyMap<number, Fingerprint> = new Map(),
): Fingerprint[] {
  return plausibleCounts(items).map((count) => known.get(count) ?? placeAfter(chain[count]!, items[count - 1]!.value));
}

/** Packs items. Joining copies the hashes, which may be parts of longer strings. */
const packed = (items: readonly Accepted[]): Packed => [...items.map((hashes) => hashes.join('')), ''].join(',');

/** Returns the hashes of packed items. */
const unpacked = (items: Packed): Accepted[] =>
  items
    .split(',')
    .slice(0, -1)
    .map((hashes) => hashes.match(EACH_HASH) ?? []);

const shown = (items: readonly Item[]): Accepted[] => items.map((item) => identitiesShown(item).map(short));

/** Merges two lists of equal length: each item accepts what either one accepts. */
const merged = (one: readonly Accepted[], other: readonly Accepted[]): Accepted[] =>
  one.map((hashes, index) => [...new Set([...hashes, ...other[index]!])]);

/** Returns the forms of an output: one list, or two where the terminal event listed other items than were streamed. */
function alternatives(streamed: readonly Item[], listed: readonly Item[] | null): Packed[] {
  const [one, other] = [shown(streamed), shown(listed ?? [])];
  if (one.length === other.length) return one.length === 0 ? [] : [packed(merged(one, other))];
  return [one, other].filter((each) => each.length > 0).map(packed);
}

const isCompaction = (item: Item) => typeOf(item) === 'compaction';
const fromCompaction = (items: readonly Item[]) => items.slice(Math.max(0, items.findLastIndex(isCompaction)));

/**
 * Returns the forms of a turn.
 *
 * @param turn.streamed output items of `response.output_item.done`
 * @param turn.listed output items of the terminal event; null or empty when it listed none
 */
export function formsOf(turn: {
  input: readonly Pick<ReadItem, 'accepted'>[];
  streamed: readonly Item[];
  listed: readonly Item[] | null;
}): TurnForms {
  const { input, streamed, listed } = turn;
  const compacted = [...streamed, ...(listed ?? [])].some(isCompaction);
  return {
    input: packed(input.map(({ accepted }) => accepted)),
    outputs: alternatives(streamed, listed),
    begins: compacted ? alternatives(fromCompaction(streamed), listed && fromCompaction(listed)) : [],
  };
}

/** Serialises forms for the store. */
export function encodeForms({ input, outputs, begins }: TurnForms): string {
  const lists = [unpacked(input), outputs.map(unpacked)];
  return JSON.stringify(begins.length > 0 ? [...lists, begins.map(unpacked)] : lists);
}

const isListOf =
  <T>(isEntry: (value: unknown) => value is T) =>
  (value: unknown): value is T[] =>
    Array.isArray(value) && value.every(isEntry);
const isHash = (value: unknown): value is ItemHash =>
  typeof value === 'string' && value.length === HASH_CHARS && !value.includes(',');
const areItems = isListOf(isListOf(isHash));
const areAlternatives = isListOf(areItems);

/** Parses what `encodeForms` wrote; null for any other text, such as that of another version. */
export function decodeForms(text: string): TurnForms | null {
  let stored: unknown;
  try {
    stored = JSON.parse(text);
  } catch {
    return null;
  }
  if (!Array.isArray(stored)) return null;
  const [input, outputs, begins = []] = stored as unknown[];
  if (!areItems(input) || !areAlternatives(outputs) || !areAlternatives(begins)) return null;
  return { input: packed(input), outputs: outputs.map(packed), begins: begins.map(packed) };
}

/** Relation of a request's items to a line: they continue it after `count` items, or end within it. */
export interface Relation {
  kind: 'continues' | 'within';
  count: number;
}

/**
 * Matches `items` with `hashes` from position `at`. Returns the position after them; -1, from which nothing matches, when an
 * item differs; infinity when the hashes end first.
 */
function take(items: Packed, hashes: readonly ItemHash[], at: number): number {
  let index = at;
  for (let place = 0; place < items.length; index += 1) {
    if (index >= hashes.length) return Number.POSITIVE_INFINITY;
    const end = items.indexOf(',', place);
    while (place < end && !items.startsWith(hashes[index]!, place)) place += HASH_CHARS;
    if (place === end) return -1;
    place = end + 1;
  }
  return index;
}

/**
 * Compares a request's items with a line. The request continues the line when its first items are exactly the line's, each
 * in any of its forms. It is within the line when it ends before the line does without a difference.
 *
 * @param line null when it is not known
 * @returns null when it neither continues the line nor is within it
 */
export function relate(line: Line | null, { hashes }: Pick<ReadItems, 'hashes'>): Relation | null {
  const nodes: Line[] = [];
  for (let node = line; node; node = node.parent) nodes.push(node);
  const start: ReadonlySet<number> = new Set([0]);
  let places = start;
  let within = false;
  /** Returns the positions reached after any of several lists of items, from any of several positions. */
  const after = (from: ReadonlySet<number>, lists: readonly Packed[]): Set<number> => {
    const reached = new Set<number>();
    for (const items of lists) {
      for (const at of from) {
        const next = take(items, hashes, at);
        if (next === Number.POSITIVE_INFINITY) within = true;
        else reached.add(next);
      }
    }
    return reached;
  };
  for (const { forms, detached } of nodes.reverse()) {
    const asked = detached ? new Set<number>() : after(places, [forms.input]);
    const whole = forms.outputs.length === 0 ? asked : after(asked, forms.outputs);
    places = new Set([...whole, ...after(start, forms.begins)]);
  }
  const count = Math.max(-1, ...places);
  if (count > 0) return { kind: 'continues', count };
  return within && hashes.length > 0 ? { kind: 'within', count: hashes.length } : null;
}

/** Returns how many of a request's first items are exactly the line; null when the request does not continue it. */
export function continuedBy(line: Line | null, read: Pick<ReadItems, 'hashes'>): number | null {
  const relation = relate(line, read);
  return relation?.kind === 'continues' ? relation.count : null;
}

/**
 * Members of a response that repeat its request. They are most of the text of an event with a response, and the same in
 * every event of a conversation, so their texts are remembered: where one occurs again it is compared, and not scanned or
 * parsed.
 */
const ECHOED = new Set(['instructions', 'tools', 'text']);

/** Lengths between which a text is remembered, in characters, and how many are remembered of each member. */
const LONG_ECHO = 512;
const LONGEST_ECHO = 131_072;
const MOST_ECHOES = 8;

/** Texts by member, the one that was met last first. Each is a string, an array or an object in valid JSON. */
const echoes = new Map<string, string[]>();

/** Characters at the beginning of an event within which its response begins, if it has one. */
const HEAD = 256;

/** Returns the end of a value that begins with a known text: such a text ends where the value does. */
function knownEnd(event: string, name: string, start: number): number | null {
  const texts = echoes.get(name);
  const nth = texts?.findIndex((text) => event.slice(start, start + text.length) === text) ?? -1;
  if (!texts || nth < 0) return null;
  const [text] = texts.splice(nth, 1);
  texts.unshift(text!);
  return start + text!.length;
}

/**
 * Returns the members of an event's response, in written order; empty without one. Of several responses the last counts.
 *
 * @param onEcho called with each member whose text is known
 */
function scanResponse(event: string, onEcho: (span: Span) => void = () => {}): readonly Member[] {
  let found: readonly Member[] = [];
  const endOf = (name: string, start: number) => {
    const end = knownEnd(event, name, start);
    if (end !== null) onEcho({ start, end });
    return end;
  };
  scanObject(event, skipSpace(event, 0), (name, start) => {
    if (name !== 'response') return null;
    const response = scanObject(event, start, endOf);
    found = response?.parts ?? [];
    return response?.end ?? null;
  });
  return found;
}

/** Returns the members of an event's response; of repeated names the last counts. Empty without a response. */
export const membersOfResponse = (event: string): Map<string, Span> => spansByName(scanResponse(event));

/**
 * Returns an event with `null` in place of the echoes that are known. It is JSON exactly where the event is, because a known
 * text is a whole value wherever it begins one.
 *
 * @returns `learn` remembers the other echoes; to be called if the text is JSON
 */
export function withoutEchoes(event: string): { text: string; learn(): void } {
  if (!event.slice(0, HEAD).includes('"response"')) return { text: event, learn: () => {} };
  const met: (Span & { json: string })[] = [];
  const members = scanResponse(event, (span) => met.push({ ...span, json: 'null' }));
  const starts = new Set(met.map(({ start }) => start));
  return {
    text: withSpans(event, met),
    learn() {
      for (const { name, start, end } of members) {
        const length = end - start;
        if (!ECHOED.has(name) || length < LONG_ECHO || length > LONGEST_ECHO || starts.has(start)) continue;
        if (!'"[{'.includes(event[start]!)) continue;
        // A copy, because a slice would keep the whole event.
        const text = Buffer.from(event.slice(start, end)).toString();
        echoes.set(name, [text, ...(echoes.get(name) ?? [])].slice(0, MOST_ECHOES));
      }
    },
  };
}
