import { namesError } from './error-codes.ts';
import { normaliseError } from './errors.ts';
import type { ParsedFrame } from './port.ts';

type Fields = Record<string, unknown>;

const ends = new Map<string, 'completed' | 'incomplete' | 'failed'>([
  ['response.completed', 'completed'],
  ['response.incomplete', 'incomplete'],
  ['response.failed', 'failed'],
]);

/** Frames that show the connection lives and say nothing about the turn. Telemetry is never progress. */
const telemetry = new Set([
  'response.metadata',
  'keepalive',
  'heartbeat',
  'ping',
  'pong',
  'response.keepalive',
  'response.heartbeat',
]);

const TURN_STATE = 'x-codex-turn-state';

const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const malformed: ParsedFrame = Object.freeze({
  kind: 'malformed',
  type: '',
  data: null,
  responseId: null,
  end: null,
  error: null,
  turnState: null,
});

/** The turn state in a frame's `headers`, whose names may have any case and whose values may be lists. */
function turnStateIn(data: Fields): string | null {
  if (!isFields(data.headers)) return null;
  for (const [name, value] of Object.entries(data.headers)) {
    if (name.toLowerCase() !== TURN_STATE) continue;
    const first: unknown = Array.isArray(value) ? value[0] : value;
    if (typeof first === 'string' && first !== '') return first;
  }
  return null;
}

function responseIdIn(data: Fields): string | null {
  const { response } = data;
  if (isFields(response) && typeof response.id === 'string') return response.id;
  return typeof data.response_id === 'string' ? data.response_id : null;
}

/** An error may come without the frame's `type`, or with its code in the place of the type. */
function isError(type: string, data: Fields): boolean {
  if (type === 'error') return true;
  if (type.startsWith('response.')) return false;
  if (type === '') return data.error != null || data.detail != null;
  return namesError(type) && (isFields(data.error) || typeof data.message === 'string');
}

/** A steered response is followed by its successor without a create of ours: the turn goes on. */
function isSteered(data: Fields): boolean {
  const details = isFields(data.response) ? data.response.incomplete_details : null;
  return isFields(details) && details.reason === 'steered';
}

/**
 * Reads one frame (or the data of one SSE event). Types that are not known pass through as `event`; in particular
 * `response.mcp_call.failed` and its like end a tool call, not the response. Never throws.
 */
export function parseFrame(frame: string): ParsedFrame {
  let data: unknown;
  try {
    data = JSON.parse(frame);
  } catch {
    return malformed;
  }
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
  };
  if (type.endsWith('.delta')) return parsed;
  if (type === 'response.created') parsed.kind = 'created';
  else if (ends.has(type)) {
    const end = ends.get(type)!;
    if (end === 'incomplete' && isSteered(data)) return parsed;
    parsed.kind = 'terminal';
    parsed.end = end;
    if (end === 'failed') parsed.error = normaliseError(data);
  } else if (telemetry.has(type) || type.startsWith('codex.')) {
    parsed.turnState = type === 'response.metadata' ? turnStateIn(data) : null;
    parsed.kind = parsed.turnState === null ? 'telemetry' : 'turn_state';
  } else if (isError(type, data)) {
    parsed.kind = 'error';
    parsed.type = 'error';
    parsed.error = normaliseError(data);
  } else if (type === '') return malformed;
  return parsed;
}
