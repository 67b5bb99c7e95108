import { z } from 'zod';
import { type BridgeCode, BridgeError, catalogue } from '../../errors.ts';
import type { Outcome } from '../../resolve/types.ts';
import type { ForwardResult } from '../../session/forwarding.ts';
import type { AnswerHead, ClientSink } from '../../session/port.ts';
import type { TurnEnd } from '../../store/port.ts';

/** Paths of the internal listener. It serves nothing else. */
export const WORKER_PATH = '/internal/worker';
export const TURN_PATH = '/internal/turn';
export const CLAIMED_PATH = '/internal/claimed';
export const VIEW_PATH = '/internal/view';

const filter = z.string().max(200).optional();

/** Question about sessions of the asked worker, on behalf of an operator. */
export const viewQuestion = z.object({
  sessionIds: z.array(z.string().max(200)).max(500).readonly(),
  recordOf: z.string().nullable(),
  failures: z
    .object({
      of: z.string().max(200).nullable(),
      limit: z.int().min(1).max(200),
      /** `of` is the beginning of an id, and requests that ended well are asked for too. */
      ended: z.boolean().optional(),
      since: z.number().optional(),
      until: z.number().optional(),
      ...{ model: filter, outcome: filter, tenant: filter, reason: filter },
    })
    .optional(),
  activity: z.enum(['15m', '1h', '24h']).optional(),
  unstored: z.boolean().optional(),
});
export type ViewQuestion = z.infer<typeof viewQuestion>;

/** Visible ASCII: these become header values, and a header that cannot be written would break the answer. */
const headerSafe = z.string().regex(/^[\x21-\x7e]*$/);
/** Value of any other header: writable bytes without line breaks. */
const headerValue = z
  .string()
  .max(16_384)
  .regex(/^[\t\x20-\x7e\x80-\xff]*$/);
const terminal = z.enum(['response.completed', 'response.incomplete', 'response.failed']);

const messageSchema = z.discriminatedUnion('t', [
  z.object({ t: z.literal('accepted') }),
  z.object({ t: z.literal('ping') }),
  z.object({ t: z.literal('not_owner') }),
  z.object({
    t: z.literal('head'),
    outcome: headerSafe,
    sessionId: headerSafe.nullable(),
    token: headerSafe.nullable(),
    headers: z.record(headerSafe, headerValue).optional(),
  }),
  z.object({ t: z.literal('event'), type: z.string(), telemetry: z.boolean(), json: z.string() }),
  z.object({ t: z.literal('open') }),
  z.object({ t: z.literal('cut') }),
  z.object({ t: z.literal('end'), type: terminal, json: z.string() }),
  z.object({
    t: z.literal('fail'),
    code: z.string(),
    detail: z.string().nullable(),
    param: z.string().nullable(),
    retryAfterSeconds: z.number().nullable(),
    outcome: z.string().nullable(),
  }),
  z.object({
    t: z.literal('relay'),
    status: z.int().min(100).max(599),
    headers: z.record(z.string(), z.string()),
    body: z.base64(),
  }),
]);

/** Message of an owner's answer, one line of JSON each: a call on the client's sink, or a message between the two workers. */
export type ForwardMessage = z.infer<typeof messageSchema>;
const kinds: ReadonlySet<unknown> = new Set(messageSchema.options.map(({ shape }) => shape.t.value));

/** Returns the JSON text of a message, with its line break. */
export const encodeMessage = (message: ForwardMessage): string => `${JSON.stringify(message)}\n`;

/**
 * Parses a message. Returns null for a kind that only a newer release knows.
 *
 * @throws SyntaxError or ZodError if the bytes are not a message
 */
export function decodeMessage(bytes: Buffer): ForwardMessage | null {
  const value: unknown = JSON.parse(bytes.toString('utf8'));
  if (typeof value === 'object' && value !== null && 't' in value && !kinds.has(value.t)) return null;
  return messageSchema.parse(value);
}

/** Returns the result of a hop, from the message that ends its answer. */
export const served = (message: ForwardMessage): Extract<ForwardResult, { kind: 'served' }> => ({
  kind: 'served',
  terminal: terminalOf(message),
  event: message.t === 'end' ? message.json : null,
});

function terminalOf(message: ForwardMessage): TurnEnd {
  switch (message.t) {
    case 'end':
      return message.type === 'response.completed'
        ? 'completed'
        : message.type === 'response.incomplete'
          ? 'incomplete'
          : 'failed';
    case 'fail':
      return message.code === 'bridge_turn_cancelled' ? 'cancelled' : 'failed';
    case 'relay':
      return 'failed';
    default:
      return 'cancelled';
  }
}

/** Returns the message of a `head` call. */
export const headMessage = ({ outcome, sessionId, token, headers }: AnswerHead): ForwardMessage => ({
  t: 'head',
  outcome,
  sessionId,
  token,
  headers,
});

/** Returns the message of a `fail` call. The detail that follows the catalogue's message is sent separately. */
export function failMessage(error: BridgeError): ForwardMessage {
  const { code, entry, message, param, retryAfterSeconds, outcome } = error;
  const detail = message.startsWith(`${entry.message} `) ? message.slice(entry.message.length + 1) : null;
  return { t: 'fail', code, detail, param, retryAfterSeconds, outcome };
}

function errorOf(message: Extract<ForwardMessage, { t: 'fail' }>): BridgeError {
  const known = Object.hasOwn(catalogue, message.code);
  const error = new BridgeError(known ? (message.code as BridgeCode) : 'bridge_internal', {
    ...(known && message.detail !== null ? { detail: message.detail } : {}),
    ...(message.param !== null ? { param: message.param } : {}),
    ...(message.retryAfterSeconds !== null ? { retryAfterSeconds: message.retryAfterSeconds } : {}),
  });
  error.outcome = message.outcome;
  return error;
}

/**
 * Applies a message to the real client's sink.
 *
 * @returns `ended` after the last message of an answer, `full` if the client reads more slowly than it is written to
 */
export function applyMessage(message: ForwardMessage, sink: ClientSink): 'more' | 'full' | 'ended' {
  switch (message.t) {
    case 'head':
      sink.head({
        outcome: message.outcome as Outcome,
        sessionId: message.sessionId,
        token: message.token,
        headers: message.headers,
      });
      return 'more';
    case 'event':
      return sink.event(message.type, message.json, message.telemetry) ? 'more' : 'full';
    case 'open':
      sink.open();
      return 'more';
    case 'end':
      sink.end(message.type, message.json);
      return 'ended';
    case 'fail':
      sink.fail(errorOf(message));
      return 'ended';
    case 'relay':
      sink.relay({ status: message.status, headers: message.headers, body: Buffer.from(message.body, 'base64') });
      return 'ended';
    case 'cut':
      sink.cut();
      return 'ended';
    case 'accepted':
    case 'ping':
    case 'not_owner':
      return 'more';
  }
}

/** Splits a byte stream into lines. A long line is copied once, regardless of the number of chunks. */
interface Splitter {
  /**
   * Adds a chunk and returns the lines that it completes.
   *
   * @throws LineTooLong if an unfinished line exceeds the maximum
   */
  push(chunk: Buffer): Buffer[];
}

/** Error for a line that exceeds the maximum length. */
export class LineTooLong extends Error {
  override readonly name = 'LineTooLong';
}

const NEWLINE = 0x0a;

/**
 * Creates a splitter.
 *
 * @param maxBytes maximum length of a line that arrives in several chunks, in bytes
 */
export function createSplitter(maxBytes: number): Splitter {
  let pieces: Buffer[] = [];
  let held = 0;
  return {
    push(chunk) {
      const lines: Buffer[] = [];
      let from = 0;
      for (let at = chunk.indexOf(NEWLINE); at >= 0; at = chunk.indexOf(NEWLINE, from)) {
        const last = chunk.subarray(from, at);
        lines.push(held === 0 ? last : Buffer.concat([...pieces, last]));
        pieces = [];
        held = 0;
        from = at + 1;
      }
      if (from < chunk.length) {
        // The caller may reuse the memory of a chunk, so the rest is copied.
        pieces.push(Buffer.from(chunk.subarray(from)));
        held += chunk.length - from;
        if (held > maxBytes) throw new LineTooLong(`A line is longer than ${maxBytes} bytes.`);
      }
      return lines;
    },
  };
}

/**
 * Calls `fn` once everything that had already arrived at this process's sockets has been delivered.
 *
 * Timers run before sockets are read. After a pause or a blocked event loop, a process therefore finds its deadlines
 * expired while the answer, or the close of the connection, is still waiting in the kernel. Code that draws conclusions
 * from silence must process pending I/O first. The first immediate ends the current iteration of the event loop, the
 * second follows a complete poll of the sockets, and the third allows for a close that this poll announced.
 */
export function afterPendingIo(fn: () => void): void {
  setImmediate(() => setImmediate(() => setImmediate(fn)));
}
