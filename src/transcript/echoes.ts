import { type Member, type Span, scanObject, skipSpace, spansByName, withSpans } from '../json.ts';

/**
 * Members of a response that repeat its request. They are most of the text of an event with a response, and the same in
 * every event of a conversation, so their texts are remembered: where one occurs again it is compared, and not scanned or
 * parsed.
 */
const ECHOED = new Set(['instructions', 'tools', 'text']);

/** Lengths between which a text is remembered, in characters, and how many are remembered of each member. */
const LONG = 512;
const LONGEST = 131_072;
const MOST = 8;

/** Texts by member, the one that was met last first. Each is a string, an array or an object in valid JSON. */
const known = new Map<string, string[]>();

/** Characters at the beginning of an event within which its response begins, if it has one. */
const HEAD = 256;

/** Returns the end of a value that begins with a known text: such a text ends where the value does. */
function knownEnd(event: string, name: string, start: number): number | null {
  const texts = known.get(name);
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
  const echoes: (Span & { json: string })[] = [];
  const members = scanResponse(event, (span) => echoes.push({ ...span, json: 'null' }));
  const met = new Set(echoes.map(({ start }) => start));
  return {
    text: withSpans(event, echoes),
    learn() {
      for (const { name, start, end } of members) {
        const length = end - start;
        if (!ECHOED.has(name) || length < LONG || length > LONGEST || met.has(start)) continue;
        if (!'"[{'.includes(event[start]!)) continue;
        // A copy, because a slice would keep the whole event.
        const text = Buffer.from(event.slice(start, end)).toString();
        known.set(name, [text, ...(known.get(name) ?? [])].slice(0, MOST));
      }
    },
  };
}
