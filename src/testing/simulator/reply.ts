import type { Item } from '../../transcript/types.ts';
import { fold, prefixOf } from './digest.ts';
import { isWarmUp } from './events.ts';
import type { TurnFault } from './faults.ts';
import { estimateTokens, itemsBackwards, type Provider, type TurnContext } from './provider.ts';
import { SEALED_MEMBERS } from './seeded.ts';

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
interface Directives {
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

/** The model's answer: finished output items, and the number of deltas per text. */
interface Reply {
  output: Item[];
  deltas: number;
  /** Form in which the terminal event lists the output, if the last user message requests one. */
  dialect: TerminalDialect | null;
}

interface ReplyOptions {
  provider: Provider;
  credential: string;
  context: TurnContext;
  body: Readonly<Record<string, unknown>>;
  reasoning: boolean;
  deltaCount: number;
  faults: readonly TurnFault[];
}

function textOf(content: unknown): string {
  if (typeof content === 'string') return content;
  if (!Array.isArray(content)) return '';
  return content.map((part) => String((part as { text?: unknown })?.text ?? '')).join('\n');
}

/** Returns the last user message of the effective context, and the number of calls made since. */
function lastAsk(context: TurnContext): { text: string; callsSince: number } {
  let callsSince = 0;
  function* backwards() {
    yield* context.input.toReversed();
    yield* itemsBackwards(context.previous);
  }
  for (const item of backwards()) {
    const type = item.type ?? 'message';
    if (type === 'function_call' || type === 'custom_tool_call') callsSince += 1;
    if (type === 'message' && item.role === 'user') return { text: textOf(item.content), callsSince };
  }
  return { text: '', callsSince };
}

function compactionThreshold(body: Readonly<Record<string, unknown>>): number {
  const management = body.context_management;
  const entry = Array.isArray(management) ? management.find((one) => one?.type === 'compaction') : null;
  return typeof entry?.compact_threshold === 'number' ? entry.compact_threshold : Number.POSITIVE_INFINITY;
}

const encryptedWanted = (body: Readonly<Record<string, unknown>>) =>
  Array.isArray(body.include) && body.include.includes('reasoning.encrypted_content');

/**
 * Computes the default model's answer. It makes the tool calls requested by the last user message, round by round, then
 * answers with the digest of the whole context it received. The faults `reply`, `huge` and `steered` shape the answer.
 */
export function composeReply(options: ReplyOptions): Reply {
  const { provider, credential, context, body, faults } = options;
  const ask = lastAsk(context);
  const directives = parseDirectives(ask.text);
  const scripted = faults.find((fault) => fault.kind === 'reply')?.output;
  const huge = faults.find((fault) => fault.kind === 'huge')?.bytes ?? 0;
  const deltas = huge > 0 ? 1 : (directives.deltas ?? options.deltaCount);
  const report = `digest=${context.digest} items=${context.count}`;

  const message = (words: string): Item => ({
    id: provider.id('msg'),
    type: 'message',
    status: 'completed',
    ...(options.reasoning ? { phase: 'final_answer' } : {}),
    role: 'assistant',
    content: [
      {
        type: 'output_text',
        text: `${words} ${report}${' '.repeat(huge)}`.padEnd(deltas, '.'),
        annotations: [],
        logprobs: [],
      },
    ],
  });
  const compaction = (): Item => ({
    id: provider.id('cmp'),
    type: 'compaction',
    encrypted_content: provider.sealer.seal(credential, { nonce: provider.id('cmpn'), prefixes: [] }, 'completed'),
  });
  /**
   * Returns the contexts in which an item after `before` may be replayed: the whole one, and the one that a compaction
   * leaves.
   */
  const prefixesAfter = (before: readonly Item[]): string[] => {
    const compacted = before.findLastIndex(({ type }) => type === 'compaction');
    const whole = prefixOf(fold(context.line, before).line);
    return compacted < 0 ? [whole] : [whole, prefixOf(fold('', before.slice(compacted)).line)];
  };
  const sealScripted = (item: Item): Item => {
    const sealed: Record<string, unknown> = {};
    for (const member of SEALED_MEMBERS) {
      if (item[member] !== 'sealed') continue;
      sealed[member] = provider.sealer.seal(credential, { nonce: provider.id('scr'), prefixes: [] }, 'completed');
    }
    return { id: provider.id('item'), ...item, ...sealed };
  };

  const { dialect } = directives;
  if (isWarmUp(body)) return { output: [], deltas, dialect };
  if (context.input.at(-1)?.type === 'compaction_trigger') return { output: [compaction()], deltas, dialect };

  const output: Item[] = [];
  if (context.tokens > compactionThreshold(body)) output.push(compaction());
  if (options.reasoning) {
    const summary = [{ type: 'summary_text', text: `Considered ${context.count} items.` }];
    const reasoning: Record<string, unknown> = { id: provider.id('rs'), type: 'reasoning', content: [] };
    const content = { nonce: provider.id('rsn'), prefixes: prefixesAfter(output) };
    if (encryptedWanted(body)) reasoning.encrypted_content = provider.sealer.seal(credential, content, 'completed');
    reasoning.summary = summary;
    output.push(reasoning);
  }
  if (Array.isArray(scripted)) {
    return { output: [...output, ...(scripted as readonly Item[]).map(sealScripted)], deltas, dialect };
  }

  let done = 0;
  const round =
    typeof scripted === 'string'
      ? undefined
      : directives.rounds.find((calls) => {
          const due = done === ask.callsSince;
          done += calls.length;
          return due;
        });
  if (!round) {
    const words = typeof scripted === 'string' ? scripted : (directives.say ?? 'Simulated answer.');
    return { output: [...output, message(words)], deltas, dialect };
  }
  for (const { tool, name, payload } of round) {
    const call_id = `call_${context.digest}_${provider.id('n').slice(2, 14)}`;
    const common = { status: 'completed', call_id, name };
    output.push(
      tool === 'function'
        ? { id: provider.id('fc'), type: 'function_call', ...common, arguments: payload }
        : { id: provider.id('ctc'), type: 'custom_tool_call', ...common, input: payload },
    );
  }
  return { output, deltas, dialect };
}

/** Returns the token counts of one response. */
export function usageOf(context: TurnContext, output: readonly Item[]): Record<string, unknown> {
  const reasoning = output.filter((item) => item.type === 'reasoning');
  const out = output.length === 0 ? 0 : estimateTokens(output);
  return {
    input_tokens: context.tokens,
    input_tokens_details: { cached_tokens: context.cachedTokens, cache_write_tokens: 0 },
    output_tokens: out,
    output_tokens_details: { reasoning_tokens: reasoning.length === 0 ? 0 : estimateTokens(reasoning) },
    total_tokens: context.tokens + out,
  };
}
