import { createHash } from 'node:crypto';

/**
 * JSON as it was written. Bodies and frames are relayed, stored and cut into items by slices of their own text, because
 * a value that went through `JSON.parse` and `JSON.stringify` may come out changed: numbers lose digits (2^63 - 1) or
 * their form (`1.0`, `-0`, `1E400`), and integer-like keys move to the front.
 *
 * The scanners here expect text that `JSON.parse` accepts; on other text their result is unspecified, but they end.
 */

/** Where a value lies in a JSON text, in UTF-16 units; `end` is exclusive. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/** A value together with the text it was written as. */
export interface Written<T> {
  readonly value: T;
  readonly json: string;
}

/** A JSON object: neither null nor an array. */
export const isFields = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const QUOTE = 34;
const COMMA = 44;
const COLON = 58;
const OPEN_LIST = 91;
const BACKSLASH = 92;
const CLOSE_LIST = 93;
const OPEN_OBJECT = 123;
const CLOSE_OBJECT = 125;

const isSpace = (code: number) => code === 32 || code === 10 || code === 13 || code === 9;

function skipSpace(text: string, from: number): number {
  let at = from;
  while (isSpace(text.charCodeAt(at))) at += 1;
  return at;
}

/** The index after the closing quote of the string that begins at `from`. */
function skipString(text: string, from: number): number {
  for (let quote = text.indexOf('"', from + 1); quote >= 0; quote = text.indexOf('"', quote + 1)) {
    let slashes = 0;
    while (text.charCodeAt(quote - 1 - slashes) === BACKSLASH) slashes += 1;
    if (slashes % 2 === 0) return quote + 1;
  }
  return text.length;
}

/** The index after the value that begins at `from`. Iterative, so that nesting costs no stack. */
function skipValue(text: string, from: number): number {
  let depth = 0;
  for (let at = from; at < text.length; at += 1) {
    switch (text.charCodeAt(at)) {
      case QUOTE:
        at = skipString(text, at) - 1;
        if (depth === 0) return at + 1;
        break;
      case OPEN_LIST:
      case OPEN_OBJECT:
        depth += 1;
        break;
      case CLOSE_LIST:
      case CLOSE_OBJECT:
        // The end of what surrounds a bare number or word.
        if (depth === 0) return at;
        depth -= 1;
        if (depth === 0) return at + 1;
        break;
      default:
        if (depth === 0 && (text.charCodeAt(at) === COMMA || isSpace(text.charCodeAt(at)))) return at;
    }
  }
  return text.length;
}

/** A member of an object, where its value lies. */
export interface Member extends Span {
  readonly name: string;
  /** Where the quoted name begins. */
  readonly from: number;
}

/** A member's name from its quoted text. Broken text does not throw. */
function nameOf(quoted: string): string {
  if (!quoted.includes('\\')) return quoted.slice(1, -1);
  try {
    return JSON.parse(quoted) as string;
  } catch {
    return quoted;
  }
}

/** Every member of the object that `text` holds at `at`, as it was written, repeated names included. */
export function scanMembers(text: string, at = 0): Member[] {
  const members: Member[] = [];
  let next = skipSpace(text, at);
  if (text.charCodeAt(next) !== OPEN_OBJECT) return members;
  next = skipSpace(text, next + 1);
  while (text.charCodeAt(next) === QUOTE) {
    const from = next;
    const nameEnd = skipString(text, from);
    next = skipSpace(text, nameEnd);
    if (text.charCodeAt(next) !== COLON) break;
    const start = skipSpace(text, next + 1);
    const end = skipValue(text, start);
    members.push({ name: nameOf(text.slice(from, nameEnd)), from, start, end });
    next = skipSpace(text, end);
    if (text.charCodeAt(next) !== COMMA) break;
    next = skipSpace(text, next + 1);
  }
  return members;
}

/**
 * The members of the object that `text` holds at `at`, in the order they were written. Of repeated names the last
 * counts, as in `JSON.parse`. Empty when there is no object.
 *
 * @param at where the object begins; white space before it is skipped
 */
export function membersOf(text: string, at = 0): Map<string, Span> {
  return spansByName(scanMembers(text, at));
}

/** The members by name; of repeated names the last counts. */
export const spansByName = (members: readonly Member[]): Map<string, Span> =>
  new Map(members.map(({ name, start, end }) => [name, { start, end }]));

/**
 * The elements of the array that `text` holds at `at`. Empty when there is no array.
 *
 * @param at where the array begins; white space before it is skipped
 */
export function elementsOf(text: string, at = 0): Span[] {
  const elements: Span[] = [];
  let next = skipSpace(text, at);
  if (text.charCodeAt(next) !== OPEN_LIST) return elements;
  next = skipSpace(text, next + 1);
  while (next < text.length && text.charCodeAt(next) !== CLOSE_LIST) {
    const end = skipValue(text, next);
    if (end === next) break;
    elements.push({ start: next, end });
    next = skipSpace(text, end);
    if (text.charCodeAt(next) !== COMMA) break;
    next = skipSpace(text, next + 1);
  }
  return elements;
}

/** The text of a span, or null without one. */
export function textOf(text: string, span: Span | undefined): string | null {
  return span ? text.slice(span.start, span.end) : null;
}

/** The text of one member of the object that `text` holds, or null when it has no such member. */
export function memberText(text: string, name: string): string | null {
  return textOf(text, membersOf(text).get(name));
}

/** The texts of the elements of a JSON array. */
export function elementTexts(text: string, at = 0): string[] {
  return elementsOf(text, at).map(({ start, end }) => text.slice(start, end));
}

/** The text of a JSON array whose elements have these texts. */
export function arrayText(elements: readonly string[]): string {
  // One long element is not copied before it is used.
  return elements.length === 1 ? `[${elements[0]}]` : `[${elements.join(',')}]`;
}

/**
 * The text with some of its spans replaced.
 *
 * @param edits in the order of their spans, which do not overlap
 */
export function withSpans(text: string, edits: Iterable<Span & { readonly json: string }>): string {
  const parts: string[] = [];
  let done = 0;
  for (const { start, end, json } of edits) {
    parts.push(text.slice(done, start), json);
    done = end;
  }
  parts.push(text.slice(done));
  return parts.join('');
}

/** An object's text around and between its braces' ends: what precedes its first member, its members, what follows them. */
export interface MembersText {
  readonly before: string;
  readonly members: string;
  readonly after: string;
}

/**
 * An object's text with some of its members replaced, added (at the end, in the order given) or, with null, left out;
 * everything else stays as it was written, white space and escapes included. Of repeated names only the last is kept.
 * Parts are appended, never joined: so a long text is not copied before it is used.
 *
 * @param changes JSON text by member name
 * @param members the text's own members, where they are known already
 */
export function changedMembers(
  text: string,
  changes: ReadonlyMap<string, string | null>,
  members: readonly Member[] = scanMembers(text),
): MembersText {
  const last = new Map(members.map((member) => [member.name, member]));
  let kept = '';
  let previous: Member | null = null;
  for (const member of members) {
    const { name, from, start, end } = member;
    const change = changes.get(name);
    if (change !== null && last.get(name) === member) {
      // The white space and the comma before a member leave with it.
      if (kept !== '' && previous) kept += text.slice(previous.end, from);
      kept += text.slice(from, start);
      kept += change ?? text.slice(start, end);
    }
    previous = member;
  }
  for (const [name, change] of changes) {
    if (change === null || last.has(name)) continue;
    kept += `${kept === '' ? '' : ','}${JSON.stringify(name)}:`;
    kept += change;
  }
  if (!previous) return { before: '{', members: kept, after: '}' };
  return { before: text.slice(0, members[0]!.from), members: kept, after: text.slice(previous.end) };
}

/** The text that `changedMembers` describes. */
export function withMembers(...change: Parameters<typeof changedMembers>): string {
  const { before, members, after } = changedMembers(...change);
  return before + members + after;
}

/** Deepest nesting of anything that is taken in, a request body or an upstream frame: what reads it on is recursive. */
export const MOST_LEVELS = 400;

/** What of a text is beyond a bound: arrays and objects in each other, or values and member names together. */
export type Excess = 'levels' | 'values';

/**
 * The first bound that a text goes beyond, found without parsing it; null when it keeps both.
 *
 * @param most.levels arrays and objects that may lie in each other
 * @param most.values values and member names that the text may hold, all levels together
 */
export function excessOf(text: string, most: { levels: number; values: number }): Excess | null {
  let depth = 0;
  let values = 1;
  for (let at = 0; at < text.length; at += 1) {
    switch (text.charCodeAt(at)) {
      case QUOTE:
        at = skipString(text, at) - 1;
        break;
      case OPEN_LIST:
      case OPEN_OBJECT:
        depth += 1;
        values += 1;
        if (depth > most.levels) return 'levels';
        break;
      case COMMA:
      case COLON:
        values += 1;
        break;
      case CLOSE_LIST:
      case CLOSE_OBJECT:
        depth -= 1;
    }
    if (values > most.values) return 'values';
  }
  return null;
}

/** Whether arrays and objects in the text lie in each other deeper than `most` levels. */
export const nestsDeeperThan = (text: string, most: number): boolean =>
  excessOf(text, { levels: most, values: Number.POSITIVE_INFINITY }) === 'levels';

/**
 * Where the first name lies that an object of the text has more than once, as the names and indexes on the way to it; null
 * without one. `JSON.parse` shows the last of its values: another reader may take the first.
 */
export function repeatedName(text: string): readonly (string | number)[] | null {
  const open: { names: Set<string> | null; at: string | number }[] = [];
  for (let at = 0; at < text.length; at += 1) {
    const within = open.at(-1);
    switch (text.charCodeAt(at)) {
      case QUOTE: {
        const end = skipString(text, at);
        if (within?.names && text.charCodeAt(skipSpace(text, end)) === COLON) {
          within.at = nameOf(text.slice(at, end));
          if (within.names.has(within.at)) return open.map((each) => each.at);
          within.names.add(within.at);
        }
        at = end - 1;
        break;
      }
      case OPEN_OBJECT:
        open.push({ names: new Set(), at: '' });
        break;
      case OPEN_LIST:
        open.push({ names: null, at: 0 });
        break;
      case COMMA:
        if (typeof within?.at === 'number') within.at += 1;
        break;
      case CLOSE_LIST:
      case CLOSE_OBJECT:
        open.pop();
    }
  }
  return null;
}

/** Texts of up to this many UTF-16 units are encoded or decoded in one go. */
const SLICE = 1_048_576;

const turnOfTheLoop = () => new Promise<void>((next) => setImmediate(next));

/** Whether encoding the text in one go would hold up the event loop. */
export const isLongText = (text: string): boolean => text.length > SLICE;

/** A text in UTF-8. A long one is encoded in slices, between which the event loop goes on. */
export async function encodeText(text: string): Promise<Buffer> {
  if (!isLongText(text)) return Buffer.from(text, 'utf8');
  const parts: Buffer[] = [];
  for await (const part of encodedSlices(text)) parts.push(part);
  return joinParts(parts);
}

/** The slices of a text in UTF-8. The event loop goes on behind each of them. */
export async function* encodedSlices(text: string): AsyncGenerator<Buffer, void, undefined> {
  for (let at = 0; at < text.length; ) {
    const end = sliceEnd(text, at);
    yield Buffer.from(text.slice(at, end), 'utf8');
    at = end;
    await turnOfTheLoop();
  }
}

/** `arrayText` in UTF-8. A long array is encoded in slices, between which the event loop goes on. */
export async function encodeArray(elements: readonly string[]): Promise<Buffer> {
  const parts: Buffer[] = [];
  let pending = '[';
  for (const [nth, element] of elements.entries()) {
    if (nth > 0) pending += ',';
    pending += element;
    if (!isLongText(pending)) continue;
    for await (const part of encodedSlices(pending)) parts.push(part);
    pending = '';
  }
  const last = Buffer.from(`${pending}]`, 'utf8');
  return parts.length === 0 ? last : joinParts([...parts, last]);
}

/** The hex SHA-256 of a text in UTF-8. A long one is hashed in slices, between which the event loop goes on. */
export async function hashText(text: string): Promise<string> {
  const hash = createHash('sha256');
  for (let at = 0; at < text.length; ) {
    const end = sliceEnd(text, at);
    hash.update(text.slice(at, end));
    if (end < text.length) await turnOfTheLoop();
    at = end;
  }
  return hash.digest('hex');
}

/** Where a slice from `at` ends: not between the halves of one character. */
function sliceEnd(text: string, at: number): number {
  const end = Math.min(text.length, at + SLICE);
  const last = text.charCodeAt(end - 1);
  return end < text.length && last >= 0xd800 && last < 0xdc00 ? end + 1 : end;
}

async function joinParts(parts: readonly Buffer[]): Promise<Buffer> {
  const whole = Buffer.allocUnsafeSlow(parts.reduce((size, { length }) => size + length, 0));
  let at = 0;
  for (const part of parts) {
    at += part.copy(whole, at);
    await turnOfTheLoop();
  }
  return whole;
}

/** The text of UTF-8 bytes, which are decoded in slices when they are many; what is no UTF-8 is replaced. */
export async function decodeText(bytes: Buffer): Promise<string> {
  if (bytes.length <= SLICE) return bytes.toString('utf8');
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  const parts: string[] = [];
  for (let at = 0; at < bytes.length; at += SLICE) {
    parts.push(decoder.decode(bytes.subarray(at, at + SLICE), { stream: true }));
    await turnOfTheLoop();
  }
  parts.push(decoder.decode());
  return parts.join('');
}

/**
 * Finds numbers whose value a double may not hold: more digits than it has, or an exponent. It may also match inside
 * strings, which only costs the slower parse.
 */
const UNSAFE_NUMBER = /(?:^|[\s:[,])-?(?:[\d.]{16}|\d+(?:\.\d+)?[eE])/;

const NUMBER = /^(-?)0*(\d*)(?:\.(\d+))?(?:[eE]([+-]?\d{1,6}))?$/;

/** A number's exact value, so that `1.0`, `1` and `10e-1` are equal; null for exponents beyond reason. */
function exactValue(written: string): string | null {
  const match = NUMBER.exec(written);
  if (!match) return null;
  const [, sign = '', whole = '', fraction = '', exponent = '0'] = match;
  const digits = whole + fraction;
  let end = digits.length;
  while (digits[end - 1] === '0') end -= 1;
  let start = 0;
  while (start < end && digits[start] === '0') start += 1;
  return start === end
    ? '0'
    : `${sign}${digits.slice(start, end)}e${Number(exponent) - fraction.length + digits.length - end}`;
}

/**
 * `JSON.parse`, but a number whose value a double cannot hold is kept as a `JSON.rawJSON` object, so that two of them
 * compare by their digits. Other ways to write a number that a double holds (`1.0`, `1e-05`) are that number: a client
 * that parses and writes what it was sent says the same. Text that is nested too deeply is parsed without this.
 *
 * @throws SyntaxError when the text is not JSON
 */
export function parseExact(text: string): unknown {
  if (!UNSAFE_NUMBER.test(text)) return JSON.parse(text);
  try {
    return JSON.parse(text, ((_name: string, value: unknown, { source }: { source?: string }) => {
      if (typeof value !== 'number' || source === undefined || String(value) === source) return value;
      const exact = exactValue(source);
      return exact !== null && exact === exactValue(String(value)) ? value : rawJson.rawJSON(source);
    }) as never);
  } catch (error) {
    if (error instanceof RangeError) return JSON.parse(text);
    throw error;
  }
}

/**
 * `JSON.parse` of text from outside.
 *
 * @param most deepest nesting
 * @throws SyntaxError when the text is not JSON, or nested deeper
 */
export function parseBounded(text: string, most: number = MOST_LEVELS): unknown {
  if (nestsDeeperThan(text, most)) throw new SyntaxError(`nested deeper than ${most} levels`);
  return JSON.parse(text);
}

/** ES2026 members of `JSON` that the type library does not know yet; Node has them since 21. */
const rawJson = JSON as unknown as {
  rawJSON(text: string): { readonly rawJSON: string };
  isRawJSON(value: unknown): value is { readonly rawJSON: string };
};

/** The digits of a number that `parseExact` kept as written; null for anything else. */
export function rawNumber(value: unknown): string | null {
  return rawJson.isRawJSON(value) ? value.rawJSON : null;
}
