import { createHash } from 'node:crypto';

/**
 * JSON in its written form. Bodies and frames are relayed, stored and cut into items as slices of their own text, because a
 * round trip through `JSON.parse` and `JSON.stringify` may change a value: numbers lose digits (2^63 - 1) or their form
 * (`1.0`, `-0`, `1E400`), and integer-like keys move to the front.
 *
 * The scanners here expect text that `JSON.parse` accepts. On other text their result is unspecified, but they terminate.
 */

/** Position of a value in a JSON text, in UTF-16 units; `end` is exclusive. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/** Value together with the text it was written as. */
export interface Written<T> {
  readonly value: T;
  readonly json: string;
}

/** Text as it was received, of which slices are taken: a string, or one that is held in parts. */
export type Text = Pick<string, 'length' | 'slice' | 'toString'>;

/**
 * Text in parts, so that a long text is continued without a copy of it. A slice copies only where it spans several parts.
 * There are few parts: one that is not longer than the one behind it is joined with it.
 */
export class PartedText implements Text {
  readonly #parts: readonly string[];
  readonly length: number;

  private constructor(parts: readonly string[]) {
    this.#parts = parts;
    this.length = parts.reduce((sum, part) => sum + part.length, 0);
  }

  /**
   * Returns a text that begins like another one.
   *
   * @param length number of characters that are taken from the other text
   */
  static continuing(text: Text, length: number, added: string): PartedText {
    const parts: string[] = [];
    for (const part of [...PartedText.of(text, length), added]) {
      let last = part;
      while (parts.length > 0 && parts.at(-1)!.length <= last.length) last = parts.pop()! + last;
      if (last !== '') parts.push(last);
    }
    return new PartedText(parts);
  }

  /** Returns the first `length` characters of a text in the parts in which it is held. */
  static of(text: Text, length: number): string[] {
    if (!(text instanceof PartedText)) return [text.slice(0, length)];
    const found: string[] = [];
    let left = length;
    for (const part of text.#parts) {
      if (left <= 0) break;
      found.push(left < part.length ? part.slice(0, left) : part);
      left -= part.length;
    }
    return found;
  }

  /** Like `String.prototype.slice`, for indexes that are not negative. */
  slice(start = 0, end = this.length): string {
    let from = this.length;
    let found = '';
    for (let nth = this.#parts.length - 1; nth >= 0 && from > start; nth -= 1) {
      const part = this.#parts[nth]!;
      const next = from;
      from -= part.length;
      if (from < end) found = part.slice(Math.max(0, start - from), Math.min(end, next) - from) + found;
    }
    return found;
  }

  toString(): string {
    return this.#parts.join('');
  }
}

/** Returns whether a value is a JSON object: neither null nor an array. */
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

/** Returns the index of the first character that is no white space, from an index on. */
export function skipSpace(text: string, from: number): number {
  let at = from;
  while (isSpace(text.charCodeAt(at))) at += 1;
  return at;
}

/** Returns the index after the closing quote of the string that starts at `from`. */
function skipString(text: string, from: number): number {
  for (let quote = text.indexOf('"', from + 1); quote >= 0; quote = text.indexOf('"', quote + 1)) {
    let slashes = 0;
    while (text.charCodeAt(quote - 1 - slashes) === BACKSLASH) slashes += 1;
    if (slashes % 2 === 0) return quote + 1;
  }
  return text.length;
}

/** Returns the index after the value that starts at `from`. Iterative, so that nesting uses no stack. */
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
        // End of the array or object around a bare number or word.
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

/** Member of an object; the span is that of its value. */
export interface Member extends Span {
  readonly name: string;
  /** Start of the quoted name. */
  readonly from: number;
}

/** Returns a member's name from its quoted text. Malformed text does not throw. */
function nameOf(quoted: string): string {
  if (!quoted.includes('\\')) return quoted.slice(1, -1);
  try {
    return JSON.parse(quoted) as string;
  } catch {
    return quoted;
  }
}

/** Returns every member of the object that `text` has at `at`, in written order, including repeated names. */
export function scanMembers(text: string, at = 0): Member[] {
  const start = skipSpace(text, at);
  return text.charCodeAt(start) === OPEN_OBJECT ? membersFrom(text, start + 1).parts : [];
}

/** Parts of an array or object, and the index at which the scan ended: of the closing bracket in valid JSON. */
interface Scanned<Part> {
  parts: Part[];
  end: number;
}

/**
 * Returns the members of the object that `text` has at `at`, and the index after its closing bracket; null when there is no
 * whole object.
 *
 * @param endOf returns the end of the value of a member that starts at an index, or null where it has to be searched
 */
export function scanObject(text: string, at: number, endOf: EndOf): Scanned<Member> | null {
  if (text.charCodeAt(at) !== OPEN_OBJECT) return null;
  const { parts, end } = membersFrom(text, at + 1, endOf);
  return text.charCodeAt(end) === CLOSE_OBJECT ? { parts, end: end + 1 } : null;
}

type EndOf = (name: string, start: number) => number | null;

/** Scans the members of an object from the start of one of them. */
function membersFrom(text: string, at: number, endOf: EndOf = () => null): Scanned<Member> {
  const parts: Member[] = [];
  let next = skipSpace(text, at);
  while (text.charCodeAt(next) === QUOTE) {
    const from = next;
    const nameEnd = skipString(text, from);
    next = skipSpace(text, nameEnd);
    if (text.charCodeAt(next) !== COLON) break;
    const start = skipSpace(text, next + 1);
    const name = nameOf(text.slice(from, nameEnd));
    const end = endOf(name, start) ?? skipValue(text, start);
    parts.push({ name, from, start, end });
    next = skipSpace(text, end);
    if (text.charCodeAt(next) !== COMMA) break;
    next = skipSpace(text, next + 1);
  }
  return { parts, end: next };
}

/**
 * Returns the parts of an array or an object that follow the one that ends at `at`; null when a comma is followed by none.
 *
 * @param scan `elementsFrom` or `membersFrom`
 */
function partsAfter<Part>(
  text: string,
  at: number,
  scan: (text: string, at: number) => Scanned<Part>,
): Scanned<Part> | null {
  const next = skipSpace(text, at);
  if (text.charCodeAt(next) !== COMMA) return { parts: [], end: next };
  const found = scan(text, next + 1);
  return found.parts.length === 0 ? null : found;
}

/** Returns the elements of an array after the element that ends at `at`. Null when the array does not end after them. */
export function elementsAfter(text: string, at: number): Scanned<Span> | null {
  const found = partsAfter(text, at, elementsFrom);
  return found && text.charCodeAt(found.end) === CLOSE_LIST ? found : null;
}

/** Returns the members of an object after the member that ends at `at`. Null when the text does not end with the object. */
export function membersAfter(text: string, at: number): Scanned<Member> | null {
  const found = partsAfter(text, at, (within, from) => membersFrom(within, from));
  if (found === null || text.charCodeAt(found.end) !== CLOSE_OBJECT) return null;
  return skipSpace(text, found.end + 1) === text.length ? found : null;
}

/**
 * Returns the members of the object that `text` has at `at`, in written order. Of repeated names the last counts, as in
 * `JSON.parse`. Empty when there is no object.
 *
 * @param at start of the object; white space before it is skipped
 */
export function membersOf(text: string, at = 0): Map<string, Span> {
  return spansByName(scanMembers(text, at));
}

/** Returns the members by name; of repeated names the last counts. */
export function spansByName(members: readonly Member[]): Map<string, Span> {
  const spans = new Map<string, Span>();
  for (const { name, start, end } of members) spans.set(name, { start, end });
  return spans;
}

/**
 * Returns the elements of the array that `text` has at `at`. Empty when there is no array.
 *
 * @param at start of the array; white space before it is skipped
 */
export function elementsOf(text: string, at = 0): Span[] {
  const start = skipSpace(text, at);
  return text.charCodeAt(start) === OPEN_LIST ? elementsFrom(text, start + 1).parts : [];
}

/** Scans the elements of an array from the start of one of them. */
function elementsFrom(text: string, at: number): Scanned<Span> {
  const parts: Span[] = [];
  let next = skipSpace(text, at);
  while (next < text.length && text.charCodeAt(next) !== CLOSE_LIST) {
    const end = skipValue(text, next);
    if (end === next) break;
    parts.push({ start: next, end });
    next = skipSpace(text, end);
    if (text.charCodeAt(next) !== COMMA) break;
    next = skipSpace(text, next + 1);
  }
  return { parts, end: next };
}

/** Returns the text of a span; null without a span. */
export function textOf(text: Text, span: Span | undefined): string | null {
  return span ? text.slice(span.start, span.end) : null;
}

/** Returns the text of one member of the object in `text`; null when it has no such member. */
export function memberText(text: Text, name: string): string | null {
  const written = String(text);
  return textOf(written, membersOf(written).get(name));
}

/** Returns the texts of the elements of a JSON array. */
export function elementTexts(text: string, at = 0): string[] {
  const texts: string[] = [];
  for (const { start, end } of elementsOf(text, at)) texts.push(text.slice(start, end));
  return texts;
}

/** Returns the text of a JSON array whose elements have these texts. */
export function arrayText(elements: readonly string[]): string {
  // Avoids copying a single long element.
  return elements.length === 1 ? `[${elements[0]}]` : `[${elements.join(',')}]`;
}

/**
 * Returns the text with some of its spans replaced.
 *
 * @param edits non-overlapping spans in ascending order
 */
export function withSpans(text: Text, edits: Iterable<Span & { readonly json: string }>): string {
  const parts: string[] = [];
  let done = 0;
  for (const { start, end, json } of edits) {
    parts.push(text.slice(done, start), json);
    done = end;
  }
  parts.push(text.slice(done));
  return parts.join('');
}

/** Text of an object in three parts: up to its first member, its members, and after the last one. */
interface MembersText {
  readonly before: string;
  readonly members: string;
  readonly after: string;
}

/**
 * Returns an object's text with some of its members replaced, added (at the end, in the given order) or, with null,
 * removed. Everything else keeps its written form, including white space and escapes. Of repeated names only the last is
 * kept. Parts are appended, not joined, so a long text is not copied before it is used.
 *
 * @param changes JSON text by member name
 * @param members the text's own members, if already known
 */
export function changedMembers(
  text: Text,
  changes: ReadonlyMap<string, string | null>,
  members: readonly Member[] = scanMembers(String(text)),
): MembersText {
  const last = new Map<string, Member>();
  for (const member of members) last.set(member.name, member);
  let kept = '';
  let previous: Member | null = null;
  for (const member of members) {
    const { name, from, start, end } = member;
    const change = changes.get(name);
    if (change !== null && last.get(name) === member) {
      // The white space and the comma before a removed member are removed with it.
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

/** Returns the text that `changedMembers` describes. */
export function withMembers(...change: Parameters<typeof changedMembers>): string {
  const { before, members, after } = changedMembers(...change);
  return before + members + after;
}

/** Deepest nesting accepted in a request body or an upstream frame: later code processes it recursively. */
export const MOST_LEVELS = 400;

/** Bound that a text exceeds: nesting of arrays and objects, or the number of values and member names. */
export type Excess = 'levels' | 'values';

/**
 * Returns the number of values and member names in a text, over all levels, without parsing it; or the first bound that it
 * exceeds.
 *
 * @param most.levels deepest nesting of arrays and objects
 * @param most.values most values and member names
 */
export function countValues(text: string, most: { levels: number; values: number }): number | Excess {
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
  return values;
}

/** Returns whether arrays and objects in the text are nested deeper than `most` levels. */
export const nestsDeeperThan = (text: string, most: number): boolean =>
  countValues(text, { levels: most, values: Number.POSITIVE_INFINITY }) === 'levels';

/** Returns whether the text holds more than `most` values and member names, over all levels. */
export const holdsMoreThan = (text: string, most: number): boolean =>
  countValues(text, { levels: Number.POSITIVE_INFINITY, values: most }) === 'values';

/**
 * Returns the path (names and indexes) of the first name that an object of the text contains more than once; null when
 * there is none. `JSON.parse` uses the last of its values, another parser may use the first.
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

/** Most UTF-16 units of a text that are encoded or decoded at once. */
const SLICE = 1_048_576;

const turnOfTheLoop = () => new Promise<void>((next) => setImmediate(next));

/** Returns whether encoding the text at once would block the event loop. */
export const isLongText = (text: string): boolean => text.length > SLICE;

/** Encodes a text in UTF-8. A long text is encoded in slices; the event loop runs between them. */
export async function encodeText(text: string): Promise<Buffer> {
  if (!isLongText(text)) return Buffer.from(text, 'utf8');
  const parts: Buffer[] = [];
  for await (const part of encodedSlices(text)) parts.push(part);
  return joinParts(parts);
}

/** Yields the slices of a text in UTF-8. The event loop runs after each one. */
export async function* encodedSlices(text: string): AsyncGenerator<Buffer, void, undefined> {
  for (let at = 0; at < text.length; ) {
    const end = sliceEnd(text, at);
    yield Buffer.from(text.slice(at, end), 'utf8');
    at = end;
    await turnOfTheLoop();
  }
}

/** Encodes `arrayText` in UTF-8. A long array is encoded in slices; the event loop runs between them. */
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

/** Returns the hex SHA-256 of a text in UTF-8. A long text is hashed in slices; the event loop runs between them. */
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

/** Returns the end of a slice from `at`, which never separates a surrogate pair. */
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

/** Decodes UTF-8 bytes, many of them in slices. Invalid bytes are replaced. */
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
 * Matches numbers whose value a double may not hold: more digits than it has, or an exponent. A match inside a string only
 * causes the slower parse.
 */
const UNSAFE_NUMBER = /(?:^|[\s:[,])-?(?:[\d.]{16}|\d+(?:\.\d+)?[eE])/;

const NUMBER = /^(-?)0*(\d*)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/;

/** Returns a number's exact value in a normal form, so that `1.0`, `1` and `10e-1` are equal; null for infinity. */
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
 * Parses like `JSON.parse`, but keeps a number whose value a double cannot hold as a `JSON.rawJSON` object, so that two of
 * them compare by their digits. Other spellings of a number that a double holds (`1.0`, `1e-05`) become that number: a
 * client that parses and reserialises what it received produces the same. Text nested too deeply for this falls back to
 * `JSON.parse`.
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
 * Parses external text with `JSON.parse`.
 *
 * @param most deepest nesting
 * @throws SyntaxError when the text is not JSON, or nested deeper
 */
export function parseBounded(text: string, most: number = MOST_LEVELS): unknown {
  if (nestsDeeperThan(text, most)) throw new SyntaxError(`nested deeper than ${most} levels`);
  return JSON.parse(text);
}

/** ES2026 members of `JSON` that the type library does not declare yet; Node has them since 21. */
const rawJson = JSON as unknown as {
  rawJSON(text: string): { readonly rawJSON: string };
  isRawJSON(value: unknown): value is { readonly rawJSON: string };
};

/** Returns the digits of a number that `parseExact` kept as written; null for any other value. */
export function rawNumber(value: unknown): string | null {
  return rawJson.isRawJSON(value) ? value.rawJSON : null;
}
