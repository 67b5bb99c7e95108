import { request } from 'undici';
import { catalogue } from '../../src/errors.ts';
import { UPSTREAM_CODE } from './upstream.ts';
import { LONGEST_MS, type World } from './world.ts';

/** Property that a case violated. Each but the last is a guarantee of this project for any input. */
export type Property =
  /** The process exited, or an exception reached the last-resort handler. */
  | 'crash'
  /** An answer was `bridge_internal`. */
  | 'internal'
  /** Neither an answer nor an end of the connection in time. */
  | 'hang'
  /** An answer that is neither the upstream's nor an envelope with a code of the catalogue, or a broken event stream. */
  | 'shape'
  /** A streamed answer that ended without its terminal. */
  | 'cut'
  /** A secret, a path or a stack in an answer. */
  | 'leak'
  /** The same in a log, or content of users in a log. */
  | 'log leak'
  /** A log line at level error. */
  | 'log error'
  /** A session that stays busy. */
  | 'wedge'
  /** A session that refuses a well-formed turn afterwards. */
  | 'afterwards'
  /** Files and sockets that stay open. */
  | 'descriptors'
  /** The fuzzer itself threw: no guarantee was tested. */
  | 'fuzzer';

export interface Violation {
  property: Property;
  /** Key that is equal for violations with the same cause. */
  signature: string;
  detail: string;
}

/** Inputs of one case run, and the callback for what it observed. */
export interface At {
  world: World;
  /** Name of this case's conversation, in the header `thread-id`. */
  thread: string;
  found(property: Property, signature: string, detail: string): void;
  /** Records the id of a request, to attribute log lines to this case. */
  saw(requestId: string): void;
}

export interface Answer {
  status: number;
  headers: Record<string, string>;
  text: string;
  /** True if the connection ended before the answer did. */
  cut: boolean;
  /** True if the client disconnected. */
  left: boolean;
  events: { type: string; data: Record<string, unknown> }[];
}

export interface Posted {
  method?: string;
  path?: string;
  headers?: Record<string, string>;
  body?: Buffer | null;
  /** Milliseconds after which the client disconnects. */
  leaveAfter?: number;
}

const MOST_BYTES = 64 * 1024 * 1024;

/**
 * Sends one request and reads its whole answer.
 *
 * @returns null when the connection ended without an answer
 */
export async function send(
  at: At,
  { method = 'POST', path = '/v1/responses', ...posted }: Posted,
): Promise<Answer | null> {
  const { world } = at;
  const over = new AbortController();
  let late = false;
  const stopLate = setTimeout(() => {
    late = true;
    over.abort();
  }, LONGEST_MS);
  const stopLeave = posted.leaveAfter === undefined ? null : setTimeout(() => over.abort(), posted.leaveAfter);
  const answer: Answer = { status: 0, headers: {}, text: '', cut: false, left: false, events: [] };
  try {
    const got = await request(`${world.url}${path}`, {
      method: method as 'POST',
      headers: {
        authorization: world.authorization,
        'content-type': 'application/json',
        'thread-id': at.thread,
        ...posted.headers,
      },
      body: posted.body ?? null,
      dispatcher: world.agent,
      signal: over.signal,
      headersTimeout: 0,
      bodyTimeout: 0,
    });
    answer.status = got.statusCode;
    answer.headers = Object.fromEntries(Object.entries(got.headers).map(([name, value]) => [name, String(value)]));
    if (answer.headers['x-request-id']) at.saw(answer.headers['x-request-id']);
    const chunks: Buffer[] = [];
    let size = 0;
    try {
      for await (const chunk of got.body as AsyncIterable<Buffer>) {
        chunks.push(chunk);
        if ((size += chunk.length) > MOST_BYTES) throw new Error('an answer without end');
      }
    } catch {
      answer.cut = true;
    }
    answer.text = Buffer.concat(chunks).toString('utf8');
    answer.events = eventsOf(answer);
  } catch (error) {
    if (late) {
      if (world.crash === null)
        at.found('hang', `no answer: ${method} ${plain(path)}`, `nothing within ${LONGEST_MS} ms`);
    } else if (!over.signal.aborted && !isConnectionEnd(error)) throw error;
    return null;
  } finally {
    clearTimeout(stopLate);
    if (stopLeave) clearTimeout(stopLeave);
  }
  if (late && world.crash === null) {
    at.found(
      'hang',
      `no end of an answer: ${method} ${plain(path)}`,
      `${answer.status}, ${answer.text.length} characters within ${LONGEST_MS} ms`,
    );
  }
  answer.left = over.signal.aborted;
  return answer;
}

const isConnectionEnd = (error: unknown): boolean =>
  /ECONNRESET|EPIPE|UND_ERR_SOCKET|ECONNREFUSED|UND_ERR_CLOSED|UND_ERR_DESTROYED|UND_ERR_RES_CONTENT_LENGTH_MISMATCH|HPE_/.test(
    String((error as { code?: unknown }).code ?? (error as { message?: unknown }).message),
  );

const plain = (path: string) => path.replace(/\?.*/s, '').slice(0, 60);

const traces = [/\n? {2,}at [^\n]{0,200}(?::\d+:\d+\)?)/, /node:internal\//, /node_modules\//, /file:\/\/\//];
const ROOT = import.meta.dirname.replace(/\/test\/fuzz$/, '');

/** Checks that a text holds nothing of this installation that a client must not see. */
export function checkText(at: At, text: string, where: string): void {
  for (const secret of at.world.secrets) {
    if (text.includes(secret))
      at.found('leak', `a secret in ${where}`, `${secret.slice(0, 12)}... in ${text.slice(0, 300)}`);
  }
  for (const trace of traces) {
    if (trace.test(text)) at.found('leak', `a stack in ${where}`, text.slice(0, 500));
  }
  if (text.includes(ROOT)) at.found('leak', `a path in ${where}`, text.slice(0, 500));
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const terminals = new Set(['response.completed', 'response.incomplete', 'response.failed']);

export interface Expected {
  /** True if the upstream may answer with an error of any form: then only the bridge's own answers are judged. */
  hostile?: boolean;
  /** Name of the request for signatures. */
  what: string;
}

/** Checks one answer against every property that can be judged from the answer alone. */
export function judge(at: At, answer: Answer, { hostile = false, what }: Expected): void {
  const { status, headers, text } = answer;
  checkText(at, `${text}\n${JSON.stringify(headers)}`, 'an answer');
  if (headers['content-type']?.startsWith('text/event-stream') && status === 200) return judgeStream(at, answer, what);
  if (answer.cut && !answer.left) return at.found('cut', `${what}: the body of ${status} was cut`, text.slice(-200));
  if (status < 400 || answer.left) return;
  judgeEnvelope(at, status, text, { hostile, what });
}

/** Checks the body of an error answer. */
export function judgeEnvelope(at: At, status: number, text: string, { hostile = false, what }: Expected): void {
  const body = parsed(text);
  const error = isObject(body) && isObject(body.error) ? body.error : null;
  const code = error?.bridge_code;
  if (code === undefined) {
    if (hostile || (isObject(error) && error.code === UPSTREAM_CODE)) return;
    return at.found('shape', `${what}: ${status} without an envelope`, text.slice(0, 300));
  }
  if (code === 'bridge_internal') return at.found('internal', `${what}: bridge_internal`, text.slice(0, 300));
  const entry = Object.hasOwn(catalogue, String(code)) ? catalogue[code as keyof typeof catalogue] : null;
  if (!entry) return at.found('shape', `${what}: unknown code ${String(code)}`, text.slice(0, 300));
  if (entry.status !== status) at.found('shape', `${what}: ${String(code)} with status ${status}`, text.slice(0, 300));
}

/** Returns the parsable events of a streamed answer. */
function eventsOf({ headers, text }: Answer): Answer['events'] {
  if (!headers['content-type']?.startsWith('text/event-stream')) return [];
  return text.split('\n\n').flatMap((block) => {
    const match = EVENT.exec(block);
    const data = match ? parsed(match[2]!) : undefined;
    return match && isObject(data) ? [{ type: match[1] ?? String(data.type), data }] : [];
  });
}

const EVENT = /^(?:event: ([^\n]+)\n)?data: ([^\n]*)$/;

function judgeStream(at: At, answer: Answer, what: string): void {
  const blocks = answer.text.split('\n\n');
  const rest = blocks.pop();
  if (rest !== '' && !answer.cut)
    at.found('shape', `${what}: the stream ends within an event`, String(rest).slice(0, 300));
  let ends = 0;
  for (const block of blocks) {
    if (block.startsWith(':')) continue;
    const match = EVENT.exec(block);
    const data = match ? parsed(match[2]!) : undefined;
    if (!match || !isObject(data)) {
      at.found('shape', `${what}: not an event`, block.slice(0, 300));
      continue;
    }
    const type = match[1] ?? String(data.type);
    if (ends > 0) at.found('shape', `${what}: an event behind the terminal`, block.slice(0, 300));
    if (terminals.has(type)) {
      ends += 1;
      const error = isObject(data.response) && isObject(data.response.error) ? data.response.error : null;
      if (error?.bridge_code === 'bridge_internal')
        at.found('internal', `${what}: bridge_internal`, block.slice(0, 300));
    }
  }
  if (ends === 0 && !answer.left) {
    if (answer.cut) at.found('cut', `${what}: the stream was cut`, answer.text.slice(-300));
    else at.found('shape', `${what}: a stream without a terminal`, answer.text.slice(-300));
  }
}

/** Returns true if a well-formed turn was answered well. */
export function isGood(answer: Answer | null): boolean {
  if (answer?.status !== 200) return false;
  return answer.events.length > 0
    ? answer.events.at(-1)?.type === 'response.completed'
    : parsed(answer.text) !== undefined && answer.text.includes('"completed"');
}

/** Sends the turn that every conversation must accept after anything. Retries a few times, as clients do. */
export async function takesTurn(at: At, what: string): Promise<void> {
  const body = Buffer.from(
    JSON.stringify({
      model: 'm',
      stream: true,
      store: false,
      input: [{ role: 'user', content: 'And after all that?' }],
    }),
  );
  let last: Answer | null = null;
  for (let attempt = 0; attempt < 4; attempt += 1) {
    if (attempt > 0) await new Promise((again) => setTimeout(again, 500 * attempt));
    last = await send(at, { body });
    if (at.world.crash !== null) return;
    if (last) judge(at, last, { what: `${what}, afterwards` });
    if (isGood(last)) return;
  }
  const code = /"bridge_code":"(\w+)"/.exec(last?.text ?? '')?.[1];
  at.found(
    'afterwards',
    `${what}: ${last?.status ?? 'no answer'} ${code ?? ''}`,
    last?.text.slice(0, 300) ?? 'no answer',
  );
}

/**
 * Returns a text as a client library allows it in a header: without control characters, and shorter than the limit of a
 * head.
 */
export const headerText = (bytes: Buffer): string =>
  Buffer.from(bytes.filter((byte) => byte >= 0x20 && byte !== 0x7f))
    .toString('latin1')
    .slice(0, 12_000);
