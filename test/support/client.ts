import { request } from 'undici';

export interface StreamEvent {
  type: string;
  data: Record<string, unknown>;
}

export interface Answer {
  status: number;
  headers: Record<string, string>;
  /** Events of a streamed answer, in order. */
  events: StreamEvent[];
  /** The whole body. */
  text: string;
  /** The response object of the terminal event, or the JSON body. */
  body: ResponseObject;
  /** True if the connection ended before the answer did. */
  cut: boolean;
}

export interface ResponseObject {
  id: string;
  status?: string;
  output: Record<string, unknown>[];
  previous_response_id?: string | null;
  error?: { code?: string; message?: string; bridge_code?: string; outcome?: string } | null;
  input_transformations?: unknown;
}

const terminals = new Set(['response.completed', 'response.incomplete', 'response.failed', 'error']);

/** Returns the terminal events of an answer: there must be exactly one. */
export const terminalsOf = (answer: Answer) => answer.events.filter(({ type }) => terminals.has(type));

/** Returns the events of the response, without those about the provider or the account. */
export const ownEvents = (events: readonly StreamEvent[]): StreamEvent[] =>
  events.filter(({ type }) => !type.startsWith('codex.') && type !== 'response.metadata');

/** Returns the finished items of an answer as they were streamed, in order. */
export const doneItems = (answer: Answer): Record<string, unknown>[] =>
  answer.events.flatMap(({ type, data }) =>
    type === 'response.output_item.done' ? [data.item as Record<string, unknown>] : [],
  );

/** Splits a stream into events, strictly: anything except comments and `event`/`data` pairs is an error. */
export function parseStream(text: string): StreamEvent[] {
  return text
    .split('\n\n')
    .filter((block) => block !== '' && !block.startsWith(':'))
    .map((block) => {
      const match = /^event: ([^\n]+)\ndata: ([^\n]+)$/.exec(block);
      if (!match) throw new Error(`not an event: ${JSON.stringify(block.slice(0, 200))}`);
      return { type: match[1]!, data: JSON.parse(match[2]!) as Record<string, unknown> };
    });
}

/** Posts one request and reads its whole answer. */
export async function post(
  url: string,
  body: unknown,
  headers: Record<string, string> = {},
  signal?: AbortSignal,
): Promise<Answer> {
  const answer = await request(`${url}/v1/responses`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: 'Bearer sk-test', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
    signal,
    headersTimeout: 60_000,
  });
  let text = '';
  let cut = false;
  try {
    for await (const chunk of answer.body.setEncoding('utf8')) text += chunk;
  } catch {
    cut = true;
  }
  const flat = Object.fromEntries(Object.entries(answer.headers).map(([name, value]) => [name, String(value)]));
  const streamed = flat['content-type']?.startsWith('text/event-stream') ?? false;
  const events = streamed ? parseStream(cut ? text.slice(0, text.lastIndexOf('\n\n') + 2) : text) : [];
  const last = events.findLast(({ type }) => terminals.has(type));
  const parsed = streamed ? (last?.data.response ?? {}) : text === '' ? {} : JSON.parse(text);
  return { status: answer.statusCode, headers: flat, events, text, body: parsed as ResponseObject, cut };
}
