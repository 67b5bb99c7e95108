/** Tool call that the last user message asks the model to make. */
interface CallDirective {
  tool: 'function' | 'custom';
  name: string;
  /** JSON arguments of a function, or free text of a custom tool. */
  payload: string;
}

/**
 * Instructions in a user message to the simulated model:
 *
 * - `[call:NAME {json}]` one function call; several adjacent ones are parallel calls of one response
 * - `[custom:NAME "text"]` (or bare text without brackets) a custom tool call
 * - `[[call:a {..}][custom:b ..]]` one call per response, each after the output of the previous one
 * - `[say:TEXT]` text of the final message; `[deltas:N]` its number of deltas
 * - `[terminal:listed]` (or `empty`, `ids`) how the terminal event lists the output
 */
export interface Directives {
  /** Calls of each round, in order. */
  rounds: CallDirective[][];
  say: string | null;
  deltas: number | null;
  dialect: TerminalDialect | null;
}

/**
 * Difference between a terminal event and the streamed output:
 *
 * - `listed`: two additional items that were never streamed, as when a server's tools are listed
 * - `empty`: `output: []`, although items were streamed
 * - `ids`: other ids; every event of an item has a different one
 */
export type TerminalDialect = 'listed' | 'empty' | 'ids';

const OPENING = /\[(\[)?(call|custom):([\w.-]+)|\[say:([^\]]*)\]|\[deltas:(\d+)\]|\[terminal:(listed|empty|ids)\]/y;

/**
 * Returns the index after the JSON value that starts at `from`, or -1. Strings may contain brackets and escaped quotes.
 */
function endOfJson(text: string, from: number): number {
  let depth = 0;
  let quoted = false;
  for (let i = from; i < text.length; i++) {
    const char = text[i]!;
    if (quoted) {
      if (char === '\\') i += 1;
      else if (char === '"') quoted = false;
    } else if (char === '"') quoted = true;
    else if (char === '{' || char === '[') depth += 1;
    else if (char === '}' || char === ']') depth -= 1;
    if (depth === 0 && !quoted) return i + 1;
  }
  return -1;
}

/** Reads the payload up to the directive's closing bracket. Returns null when the directive is not closed. */
function readPayload(text: string, from: number): { payload: string; end: number } | null {
  let at = from;
  while (text[at] === ' ') at += 1;
  const structured = text[at] === '{' || text[at] === '"';
  const end = structured ? endOfJson(text, at) : text.indexOf(']', at);
  if (end < 0) return null;
  const raw = text.slice(at, end);
  let close = end;
  while (text[close] === ' ') close += 1;
  if (text[close] !== ']') return null;
  return { payload: raw.startsWith('"') ? JSON.parse(raw) : raw.trim(), end: close + 1 };
}

/** Extracts all directives from a user message. */
export function parseDirectives(text: string): Directives {
  const found: Directives = { rounds: [], say: null, deltas: null, dialect: null };
  let sequence = false;
  let parallel: CallDirective[] | null = null;
  let at = 0;
  while (at < text.length) {
    const previous = at;
    OPENING.lastIndex = at;
    const match = OPENING.exec(text);
    if (match?.[4] !== undefined) found.say = match[4];
    if (match?.[5] !== undefined) found.deltas = Number(match[5]);
    if (match?.[6] !== undefined) found.dialect = match[6] as TerminalDialect;
    const tool = match?.[2];
    if (match && tool) {
      const read = readPayload(text, OPENING.lastIndex);
      if (read) {
        if (match[1]) sequence = true;
        const payload = tool === 'call' ? read.payload || '{}' : read.payload;
        const call: CallDirective = { tool: tool === 'call' ? 'function' : 'custom', name: match[3]!, payload };
        if (sequence || !parallel) found.rounds.push((parallel = [call]));
        else parallel.push(call);
        at = read.end;
        if (sequence && text[at] === ']') {
          sequence = false;
          parallel = null;
          at += 1;
        }
      }
    } else if (match) at = OPENING.lastIndex;
    if (at === previous) at += 1;
  }
  return found;
}
