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

/**
 * The members of the object that `text` holds at `at`, in the order they were written. Of repeated names the last
 * counts, as in `JSON.parse`. Empty when there is no object.
 *
 * @param at where the object begins; white space before it is skipped
 */
export function membersOf(text: string, at = 0): Map<string, Span> {
  const members = new Map<string, Span>();
  let next = skipSpace(text, at);
  if (text.charCodeAt(next) !== OPEN_OBJECT) return members;
  next = skipSpace(text, next + 1);
  while (text.charCodeAt(next) === QUOTE) {
    const nameEnd = skipString(text, next);
    const name = JSON.parse(text.slice(next, nameEnd)) as string;
    next = skipSpace(text, nameEnd);
    if (text.charCodeAt(next) !== COLON) break;
    const start = skipSpace(text, next + 1);
    const end = skipValue(text, start);
    members.set(name, { start, end });
    next = skipSpace(text, end);
    if (text.charCodeAt(next) !== COMMA) break;
    next = skipSpace(text, next + 1);
  }
  return members;
}

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

/** The texts of the elements of a JSON array. */
export function elementTexts(text: string, at = 0): string[] {
  return elementsOf(text, at).map(({ start, end }) => text.slice(start, end));
}

/**
 * An object's text with some of its members replaced, added (at the end, in the order given) or, with null, left out;
 * everything else stays as it was written.
 *
 * @param changes JSON text by member name
 */
export function withMembers(text: string, changes: ReadonlyMap<string, string | null>): string {
  const parts: string[] = [];
  const members = membersOf(text);
  for (const [name, { start, end }] of members) {
    const change = changes.get(name);
    if (change === null) continue;
    parts.push(`${JSON.stringify(name)}:${change ?? text.slice(start, end)}`);
  }
  for (const [name, change] of changes) {
    if (change !== null && !members.has(name)) parts.push(`${JSON.stringify(name)}:${change}`);
  }
  return `{${parts.join(',')}}`;
}

/**
 * Finds numbers that a double may not give back as they were written: more digits than it holds, a fraction that ends in
 * zero, an exponent, negative zero. It may also match inside strings, which only costs the slower parse.
 */
const UNSAFE_NUMBER = /[\s:[,](?:-0(?![\d.])|-?\d+(?:\.\d*0(?!\d)|\.\d{15,}|\d{14,}|(?:\.\d+)?[eE]))/;

/**
 * `JSON.parse`, but numbers that a double cannot give back as they were written are kept as `JSON.rawJSON` objects, so
 * that two of them compare by their digits. `JSON.stringify` writes them as they came.
 *
 * @throws SyntaxError when the text is not JSON
 */
export function parseExact(text: string): unknown {
  if (!UNSAFE_NUMBER.test(text)) return JSON.parse(text);
  return JSON.parse(text, ((_name: string, value: unknown, { source }: { source?: string }) =>
    typeof value === 'number' && source !== undefined && String(value) !== source
      ? rawJson.rawJSON(source)
      : value) as never);
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
