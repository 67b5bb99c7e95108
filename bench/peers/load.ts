import { Agent, request } from 'undici';
import { seeded } from '../../test/support/random.ts';

/** Answer of the scripted upstream. */
export interface Script {
  /** Kind of the last output item: a message, or a function call. */
  reply: 'text' | 'call';
  deltas: number;
  /** Time between two deltas in milliseconds; 0: as fast as they can be sent. */
  gapMs: number;
  /** Members of every response object that repeat the request, as JSON text without its braces. */
  echo: string;
  /** Size of the reasoning item in front of the last one; 0: none. */
  reasoningBytes: number;
}

/** What the client sees of one turn. Times are in milliseconds. */
export interface Seen {
  /** From the request to the first event. */
  first: number;
  /** From the sending of the last delta, by the upstream, to the terminal event. */
  terminal: number;
  /** From the sending of a delta to its arrival: of the last delta of each read. */
  delays: number[];
  events: number;
  whole: number;
}

export type Item = Record<string, unknown>;

const agent = new Agent({ connections: 256, keepAliveTimeout: 60_000, headersTimeout: 60_000, bodyTimeout: 60_000 });
export const closeClient = () => agent.destroy();

/** Longest time of one turn, in milliseconds. */
const TURN_LIMIT = 60_000;

const TERMINAL = /"type": ?"response\.completed"/;
const STAMP = /"delta": ?"T(\d+) /;
const microseconds = () => Number(process.hrtime.bigint() / 1_000n);

/**
 * Asks for one turn.
 *
 * @returns what was seen, and the output items of the terminal event
 * @throws Error for any answer without a terminal event
 */
export async function ask(
  url: string,
  headers: Record<string, string>,
  body: string,
  stop?: AbortSignal,
): Promise<{ seen: Seen; output: Item[] }> {
  const seen: Seen = { first: Number.NaN, terminal: Number.NaN, delays: [], events: 0, whole: Number.NaN };
  const signal = AbortSignal.any([AbortSignal.timeout(TURN_LIMIT), ...(stop ? [stop] : [])]);
  const from = performance.now();
  const answer = await request(`${url}/responses`, { dispatcher: agent, method: 'POST', headers, body, signal });
  if (answer.statusCode !== 200) {
    throw new Error(`${answer.statusCode}: ${(await answer.body.text()).slice(0, 400)}`);
  }
  let rest = '';
  let last = 0;
  let terminal = '';
  for await (const part of answer.body as AsyncIterable<Buffer>) {
    const text = rest + part.toString('latin1');
    const end = text.lastIndexOf('\n\n') + 2;
    if (end === 1) {
      rest = text;
      continue;
    }
    const now = microseconds();
    const whole = text.slice(0, end);
    rest = text.slice(end);
    for (let at = whole.indexOf('\n\n'); at >= 0; at = whole.indexOf('\n\n', at + 2)) seen.events += 1;
    if (Number.isNaN(seen.first) && whole.includes('data:')) seen.first = performance.now() - from;
    // A line may begin with spaces where a proxy writes it again, so the member is looked for, not the whole frame.
    const delta = Math.max(whole.lastIndexOf('"delta":"T'), whole.lastIndexOf('"delta": "T'));
    const stamp = delta < 0 ? null : STAMP.exec(whole.slice(delta, delta + 40));
    if (stamp) {
      last = Number(stamp[1]);
      seen.delays.push((now - last) / 1_000);
    }
    const found = TERMINAL.exec(whole);
    if (!found) continue;
    seen.terminal = (now - last) / 1_000;
    const start = whole.lastIndexOf('data:', found.index) + 5;
    terminal = whole.slice(start, whole.indexOf('\n', start));
  }
  seen.whole = performance.now() - from;
  if (terminal === '') throw new Error('the stream ended without its terminal event');
  const { response } = JSON.parse(Buffer.from(terminal, 'latin1').toString()) as { response: { output: Item[] } };
  return { seen, output: response.output };
}

const WORDS =
  'const return import function export await async string number false true null value error result file path line test ' +
  'session turn request response stream event socket state store item list index count name type config option reads writes ' +
  'if else for while new class private readonly => === !== && || { } ( ) [ ] ; , .';
const words = WORDS.split(' ');

/** Returns text like that of sources and command output, of about this many bytes. */
export function prose(random: () => number, bytes: number): string {
  let text = '';
  while (text.length < bytes) {
    text += words[Math.floor(random() * words.length)]!;
    text += random() < 0.12 ? '\n  ' : random() < 0.1 ? `${Math.floor(random() * 1e6)} ` : ' ';
  }
  return text;
}

/** Sizes of tool outputs in KB, in turn: most are small, few are large. */
const outputSizes = [1, 2, 1, 4, 1, 2, 8, 1, 3, 2, 1, 16, 2, 1, 6, 1, 2, 60, 1, 2, 1, 4, 1, 200];

/** Instructions and tools like those of Codex: together about 40 KB. */
export function codexContext(): { instructions: string; tools: Item[] } {
  const random = seeded(7);
  const tools = Array.from({ length: 14 }, (_, nth) => ({
    type: 'function',
    name: nth === 0 ? 'exec_command' : `tool_${nth}`,
    description: prose(random, 1_100),
    strict: false,
    parameters: {
      type: 'object',
      properties: Object.fromEntries(
        Array.from({ length: 5 }, (__, field) => [
          `field_${field}`,
          { type: 'string', description: prose(random, 120) },
        ]),
      ),
      required: ['field_0'],
      additionalProperties: false,
    },
  }));
  return { instructions: prose(random, 15_000), tools };
}

const sealed = (random: () => number, bytes: number) =>
  `gAAAAAB${Array.from({ length: bytes }, () => Math.floor(random() * 36).toString(36)).join('')}`;

let made = 0;

/** A conversation of one client, with its whole history in every request. */
export class Conversation {
  readonly #headers: Record<string, string>;
  readonly #url: string;
  readonly #id = `bench-${process.pid}-${(made += 1)}`;
  readonly #common: object;
  readonly #random = seeded(made);
  readonly #codex: boolean;
  readonly #outputBytes: number | null;
  readonly history: Item[] = [];
  turns = 0;

  /**
   * @param kind `codex`: function calls with their outputs, beside instructions and tools; `short`: text
   * @param options `items`: number of items that precede the first turn; `outputBytes`: size of every tool output
   */
  constructor(
    peer: { url: string; headers: Record<string, string> },
    kind: 'codex' | 'short',
    options: { items?: number; outputBytes?: number } = {},
  ) {
    this.#url = peer.url;
    this.#codex = kind === 'codex';
    this.#outputBytes = options.outputBytes ?? null;
    this.#headers = {
      'content-type': 'application/json',
      accept: 'text/event-stream',
      authorization: 'Bearer sk-bench',
      'user-agent': 'codex_exec/0.169.0',
      originator: 'codex_exec',
      'thread-id': this.#id,
      'session-id': this.#id,
      ...peer.headers,
    };
    this.#common = {
      model: 'gpt-5.5',
      stream: true,
      store: false,
      ...(this.#codex
        ? {
            ...context,
            parallel_tool_calls: true,
            reasoning: { effort: 'medium' },
            include: ['reasoning.encrypted_content'],
          }
        : { instructions: 'Answer briefly.' }),
      prompt_cache_key: this.#id,
    };
    while (this.history.length < (options.items ?? 0) - 1) this.#addPast();
  }

  #addPast(): void {
    if (this.history.length === 0) return void this.history.push(message(prose(this.#random, 600)));
    const nth = `${this.#id}-${this.history.length}`;
    this.history.push(
      {
        type: 'reasoning',
        id: `rs_${nth}`,
        summary: [],
        encrypted_content: sealed(this.#random, 800 + Math.floor(this.#random() * 1_600)),
      },
      {
        type: 'function_call',
        id: `fc_${nth}`,
        name: 'exec_command',
        call_id: `call_${nth}`,
        arguments: JSON.stringify({ cmd: prose(this.#random, 80) }),
      },
      { type: 'function_call_output', call_id: `call_${nth}`, output: this.#toolOutput() },
    );
  }

  #toolOutput(): string {
    const bytes = this.#outputBytes ?? 1_000 * outputSizes[Math.floor(this.#random() * outputSizes.length)]!;
    return prose(this.#random, bytes);
  }

  /** Adds what the client says next, asks, and keeps the answer in the history. */
  async turn(stop?: AbortSignal): Promise<Seen> {
    const calls = this.history.slice(-1).filter(({ type }) => type === 'function_call');
    const answered = calls.map(({ call_id }) => ({
      type: 'function_call_output',
      call_id,
      output: this.#toolOutput(),
    }));
    this.history.push(...(answered.length > 0 ? answered : [message(`turn ${this.turns} of ${this.#id}`)]));
    const body = JSON.stringify({ ...this.#common, input: this.history });
    const { seen, output } = await ask(this.#url, this.#headers, body, stop);
    this.turns += 1;
    this.history.push(...output);
    return seen;
  }
}

/** Turns of one conversation of short turns, after which the client begins another. */
const SHORT_TURNS = 25;

/**
 * Returns a function that asks for the next short turn of a stream. Each stream has a conversation; one that is long is
 * replaced.
 */
export function shortConversations(peer: { url: string; headers: Record<string, string> }, streams: number) {
  const conversations = Array.from({ length: streams }, () => new Conversation(peer, 'short'));
  return async (stream: number, stop?: AbortSignal): Promise<Seen> => {
    if (conversations[stream]!.turns >= SHORT_TURNS) conversations[stream] = new Conversation(peer, 'short');
    return conversations[stream]!.turn(stop);
  };
}

/** What the upstream answers to a short turn. */
export const shortScript: Script = {
  reply: 'text',
  deltas: 3,
  gapMs: 0,
  echo: '"instructions":null,"tools":[]',
  reasoningBytes: 0,
};

const context = codexContext();
/** The members of a response that repeat instructions and tools of Codex, for the script of the upstream. */
export const codexEcho = JSON.stringify(context).slice(1, -1);

const message = (text: string): Item => ({
  type: 'message',
  role: 'user',
  content: [{ type: 'input_text', text }],
});
