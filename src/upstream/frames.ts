import { TURN_STATE_HEADER } from '../headers.ts';
import { isFields, nestsDeeperThan, textOf } from '../json.ts';
import { membersOfResponse, withoutEchoes } from '../transcript/items.ts';
import { namesError, normaliseError } from './errors.ts';
import { concernsTurns } from './headers.ts';
import type { ParsedFrame } from './port.ts';
import { MOST_FRAME_LEVELS } from './port.ts';

type Fields = Record<string, unknown>;
type End = NonNullable<ParsedFrame['end']>;

const ends = new Map<string, End>([
  ['response.completed', 'completed'],
  ['response.incomplete', 'incomplete'],
  ['response.failed', 'failed'],
  ['response.cancelled', 'failed'],
  ['response.canceled', 'failed'],
]);

/** Meaning of a response's final `status`. A cancelled response cannot be continued, like a failed one. */
const endOfStatus = new Map<unknown, End>([
  ['completed', 'completed'],
  ['incomplete', 'incomplete'],
  ['failed', 'failed'],
  ['cancelled', 'failed'],
  ['canceled', 'failed'],
]);

/** Events with a response object that start a response or show that it runs, whatever its status says. */
const beginnings = new Set(['response.created', 'response.queued', 'response.in_progress']);

/** Both names of the frame that carries over WebSocket what HTTP sends in headers. */
const metadata = new Set(['response.metadata', 'codex.response.metadata']);

/** Type of the frame that carries the head of a 2xx answer over HTTP, so that it keeps its place in the stream. */
const ANSWER_HEAD = 'holdfast.answer_head';

/** Frames that only show that the connection is alive. Telemetry never counts as progress of the turn. */
const telemetry = new Set([
  ...metadata,
  'keepalive',
  'heartbeat',
  'ping',
  'pong',
  'response.keepalive',
  'response.heartbeat',
]);

const malformed: ParsedFrame = Object.freeze({
  kind: 'malformed',
  type: '',
  data: null,
  responseId: null,
  end: null,
  error: null,
  turnState: null,
  headers: null,
});

/** A plain delta, but for its type. Its content is not read. */
const plainEvent: ParsedFrame = Object.freeze({ ...malformed, kind: 'event' });

/**
 * Returns the error that replaces a frame nested too deeply to be read, stored or relayed. It ends the turn, because the
 * frame may have been an error or the end of the answer.
 */
const tooDeep = (): ParsedFrame => ({
  ...malformed,
  kind: 'error',
  type: 'error',
  error: normaliseError({
    status: 502,
    error: {
      type: 'server_error',
      code: 'server_error',
      message: `The upstream sent an event nested deeper than ${MOST_FRAME_LEVELS} levels.`,
    },
  }),
});

const isTelemetry = (type: string) =>
  telemetry.has(type) || type.startsWith('codex.') || type.startsWith('responsesapi.');

/** Returns whether a frame announces a response that has produced nothing yet. */
export const isBeginning = ({ type }: Pick<ParsedFrame, 'type'>): boolean => beginnings.has(type);

/** Returns the id of the response that an event announces, or null for an event that announces none. */
export function responseIdOf(type: string, json: string): string | null {
  return isBeginning({ type }) ? idOfResponse(json) : null;
}

/** Returns the id of the response in an event's JSON; null if there is none. */
export function idOfResponse(json: string): string | null {
  const id: unknown = JSON.parse(textOf(json, membersOfResponse(json).get('id')) ?? 'null');
  return typeof id === 'string' && id !== '' ? id : null;
}

/**
 * Returns the head of an HTTP answer as a frame; null when none of its headers concerns the client.
 *
 * @param headers headers of a 2xx answer, names in lower case
 */
export function answerHeadFrame(headers: Record<string, string>): string | null {
  const kept = Object.entries(headers).filter(([name]) => concernsTurns(name));
  return kept.length === 0 ? null : JSON.stringify({ type: ANSWER_HEAD, headers: Object.fromEntries(kept) });
}

/**
 * Returns a frame's `headers` as strings, names in lower case, with the first value of a list. Null when there are none.
 */
export function headersIn(data: Readonly<Fields> | null): Record<string, string> | null {
  if (!isFields(data?.headers)) return null;
  const found: [string, string][] = [];
  for (const [name, value] of Object.entries(data.headers)) {
    const first: unknown = Array.isArray(value) ? value[0] : value;
    if (typeof first === 'string' || typeof first === 'number' || typeof first === 'boolean')
      found.push([name.toLowerCase(), String(first)]);
  }
  return found.length === 0 ? null : Object.fromEntries(found);
}

/**
 * Returns how a frame ends its response; null when it does not. Only the response's own events (`response.` and one word)
 * with the whole response object can: `response.mcp_call.failed` and the like concern an item or a tool.
 */
function endOf(type: string, data: Fields): End | null {
  const known = ends.get(type);
  if (known !== undefined) return known;
  const response = isFields(data.response) ? data.response : null;
  const judged = endOfStatus.get(response?.status) ?? null;
  if (type === 'response.done') return judged ?? 'completed';
  if (!/^response\.[a-z_]+$/.test(type) || beginnings.has(type)) return null;
  return response !== null && Array.isArray(response.output) ? judged : null;
}

/** Returns why a response failed. A cancelled one often has no error. */
function failureOf(type: string, data: Fields): ParsedFrame['error'] {
  const status = isFields(data.response) ? data.response.status : null;
  const silent = !isFields(data.error) && !(isFields(data.response) && isFields(data.response.error));
  const cancelled = /cancell?ed$/.test(type) || status === 'cancelled' || status === 'canceled';
  if (!silent || !cancelled) return normaliseError(data);
  return normaliseError({ error: { code: 'server_error', message: 'The provider cancelled the response.' } });
}

function responseIdIn(data: Fields): string | null {
  const { response } = data;
  if (isFields(response) && typeof response.id === 'string') return response.id;
  return typeof data.response_id === 'string' ? data.response_id : null;
}

/** Returns whether a frame is an error. It may lack the frame's `type`, or have its code in place of the type. */
function isError(type: string, data: Fields): boolean {
  if (type === 'error') return true;
  if (type.startsWith('response.')) return false;
  if (type === '') return data.error != null || data.detail != null;
  return namesError(type) && (isFields(data.error) || typeof data.message === 'string');
}

/**
 * Returns whether a response was steered. Its successor follows without another `response.create`, so the turn continues.
 */
function isSteered(data: Fields): boolean {
  const details = isFields(data.response) ? data.response.incomplete_details : null;
  return isFields(details) && details.reason === 'steered';
}

/** A JSON string, and the other values that a plain delta may have. */
const TEXT = String.raw`"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*"`;
const VALUE = String.raw`(?:${TEXT}|-?(?:0|[1-9]\d{0,14})|\[\]|null|true|false)`;

/**
 * Matches a whole delta event whose members are all plain values: JSON that need not be parsed, because nothing in it is
 * acted upon. Nearly every frame of a stream is one. The type is the first member or follows the sequence number, and no
 * later member is `type`, `response` or `response_id`. Any other frame is parsed.
 */
const plainDelta = new RegExp(
  String.raw`^\{(?:"sequence_number":(?:0|[1-9]\d{0,14}),)?"type":"(response\.[a-z_.]{1,60}\.delta)"` +
    String.raw`(?:,"(?!type"|response)[a-z_]{1,40}":${VALUE})*\}$`,
);

/** Longest frame matched with `plainDelta`, in UTF-16 units: its backtracking costs memory in proportion to the text. */
const LONGEST_PLAIN = 4_096;

/**
 * Parses one frame (or the data of one SSE event). Unknown types pass through as `event`; in particular,
 * `response.mcp_call.failed` and the like end a tool call, not the response. A frame nested deeper than `MOST_FRAME_LEVELS`
 * is an error. Never throws.
 */
export function parseFrame(frame: string): ParsedFrame {
  const plain = frame.length <= LONGEST_PLAIN ? plainDelta.exec(frame) : null;
  if (plain) return { ...plainEvent, type: plain[1]! };
  const { text, learn } = frame.length > LONGEST_PLAIN ? withoutEchoes(frame) : { text: frame, learn: null };
  if (nestsDeeperThan(text, MOST_FRAME_LEVELS)) return tooDeep();
  let data: unknown;
  try {
    data = JSON.parse(text);
  } catch {
    return malformed;
  }
  learn?.();
  if (!isFields(data)) return malformed;
  const type = typeof data.type === 'string' ? data.type : '';
  const parsed: ParsedFrame = {
    kind: 'event',
    type,
    data,
    responseId: responseIdIn(data),
    end: null,
    error: null,
    turnState: null,
    headers: null,
  };
  if (type.endsWith('.delta')) return parsed;
  if (type === 'response.created') {
    parsed.kind = 'created';
    return parsed;
  }
  if (type === ANSWER_HEAD) {
    parsed.kind = 'head';
    parsed.headers = headersIn(data);
    return parsed;
  }
  if (isTelemetry(type)) {
    if (metadata.has(type)) parsed.headers = headersIn(data);
    parsed.turnState = parsed.headers?.[TURN_STATE_HEADER] || null;
    parsed.kind = parsed.turnState === null ? 'telemetry' : 'turn_state';
    return parsed;
  }
  const end = endOf(type, data);
  if (end !== null) {
    if (end === 'incomplete' && isSteered(data)) return parsed;
    parsed.kind = 'terminal';
    parsed.end = end;
    if (end === 'failed') parsed.error = failureOf(type, data);
  } else if (isError(type, data)) {
    parsed.kind = 'error';
    parsed.type = 'error';
    parsed.error = normaliseError(data);
  } else if (type === '') return malformed;
  return parsed;
}
