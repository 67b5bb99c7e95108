import type { Item } from '../../transcript/types.ts';
import { chance, derive } from './seeded.ts';

/** Stream event without its sequence number. */
export type SimEvent = Record<string, unknown> & { type: string };

/** Splits a text into `count` even pieces, or fewer when the text is shorter. Never splits a surrogate pair. */
function pieces(text: string, count: number): string[] {
  const characters = [...text];
  const pieceCount = Math.min(characters.length, Math.max(1, count));
  const start = (piece: number) => Math.floor((piece * characters.length) / pieceCount);
  return Array.from({ length: pieceCount }, (_, n) => characters.slice(start(n), start(n + 1)).join(''));
}

function messageEvents(item: Item, output_index: number, deltas: number): SimEvent[] {
  const events: SimEvent[] = [];
  (item.content as Record<string, unknown>[]).forEach((part, content_index) => {
    const at = { item_id: item.id, output_index, content_index };
    const kind = part.type === 'refusal' ? 'refusal' : 'output_text';
    const field = part.type === 'refusal' ? 'refusal' : 'text';
    const text = String(part[field] ?? '');
    const extra = kind === 'output_text' ? { logprobs: [] } : {};
    events.push({ type: 'response.content_part.added', ...at, part: { ...part, [field]: '' } });
    for (const delta of pieces(text, deltas)) events.push({ type: `response.${kind}.delta`, delta, ...at, ...extra });
    events.push({ type: `response.${kind}.done`, ...at, ...extra, [field]: text });
    events.push({ type: 'response.content_part.done', ...at, part });
  });
  return events;
}

function reasoningEvents(item: Item, output_index: number, deltas: number): SimEvent[] {
  const events: SimEvent[] = [];
  const summary = Array.isArray(item.summary) ? (item.summary as Record<string, unknown>[]) : [];
  summary.forEach((part, summary_index) => {
    const at = { item_id: item.id, output_index, summary_index };
    const text = String(part.text ?? '');
    events.push({ type: 'response.reasoning_summary_part.added', ...at, part: { ...part, text: '' } });
    for (const delta of pieces(text, deltas))
      events.push({ type: 'response.reasoning_summary_text.delta', ...at, delta });
    events.push({ type: 'response.reasoning_summary_text.done', ...at, text });
    events.push({ type: 'response.reasoning_summary_part.done', ...at, part });
  });
  return events;
}

function callEvents(item: Item, output_index: number, deltas: number): SimEvent[] {
  const custom = item.type === 'custom_tool_call';
  const field = custom ? 'input' : 'arguments';
  const name = custom ? 'response.custom_tool_call_input' : 'response.function_call_arguments';
  const at = { item_id: item.id, output_index };
  const text = String(item[field] ?? '');
  const done: SimEvent = { type: `${name}.done`, ...at, [field]: text };
  if (!custom) done.name = item.name;
  return [...pieces(text, deltas).map((delta) => ({ type: `${name}.delta`, ...at, delta })), done];
}

/** An item as its `added` event and its `done` event show it. The terminal event may show it differently again. */
interface StreamedItem {
  added: Item;
  done: Item;
}

/** Returns the item as `response.output_item.added` shows it: started, with empty content. */
export function begun(item: Item): Item {
  switch (item.type) {
    case 'message':
      return { ...item, status: 'in_progress', content: [] };
    case 'function_call':
      return { ...item, status: 'in_progress', arguments: '' };
    case 'custom_tool_call':
      return { ...item, status: 'in_progress', input: '' };
    case 'reasoning':
      return { ...item, summary: [] };
    default:
      return item;
  }
}

/** Returns the events of one output item, from added to done. */
function itemEvents({ added, done: item }: StreamedItem, output_index: number, deltas: number): SimEvent[] {
  const inner =
    item.type === 'message'
      ? messageEvents(item, output_index, deltas)
      : item.type === 'reasoning'
        ? reasoningEvents(item, output_index, deltas)
        : item.type === 'function_call' || item.type === 'custom_tool_call'
          ? callEvents(item, output_index, deltas)
          : [];
  return [
    { type: 'response.output_item.added', item: added, output_index },
    ...inner,
    { type: 'response.output_item.done', item, output_index },
  ];
}

/** Returns whether a request is a warm-up, which has no output: by a field of sockets, or an option of the prompt cache. */
export const isWarmUp = ({ generate, prompt_cache_options: options }: Readonly<Record<string, unknown>>): boolean =>
  generate === false || (options as { prewarm?: unknown } | null | undefined)?.prewarm === true;

/** Returns a response object before anything was generated. Fields of the request are echoed, as the API does. */
export function responseObject(options: {
  id: string;
  createdAt: number;
  body: Readonly<Record<string, unknown>>;
}): Record<string, unknown> {
  const { id, createdAt, body } = options;
  return {
    id,
    object: 'response',
    created_at: createdAt,
    status: 'in_progress',
    background: body.background === true,
    completed_at: null,
    error: null,
    frequency_penalty: body.frequency_penalty ?? 0,
    incomplete_details: null,
    instructions: body.instructions ?? null,
    max_output_tokens: body.max_output_tokens ?? null,
    max_tool_calls: body.max_tool_calls ?? null,
    model: body.model,
    output: [],
    parallel_tool_calls: body.parallel_tool_calls ?? true,
    presence_penalty: body.presence_penalty ?? 0,
    previous_response_id: body.previous_response_id ?? null,
    prompt_cache_key: body.prompt_cache_key ?? null,
    prompt_cache_retention: body.prompt_cache_retention ?? null,
    reasoning: body.reasoning ?? { effort: null, summary: null },
    safety_identifier: body.safety_identifier ?? null,
    service_tier: body.service_tier ?? 'auto',
    store: body.store !== false,
    temperature: body.temperature ?? 1,
    text: body.text ?? { format: { type: 'text' } },
    tool_choice: body.tool_choice ?? 'auto',
    tools: body.tools ?? [],
    top_logprobs: body.top_logprobs ?? 0,
    top_p: body.top_p ?? 1,
    truncation: body.truncation ?? 'disabled',
    usage: null,
    user: body.user ?? null,
    metadata: body.metadata ?? {},
  };
}

/**
 * Returns the complete event sequence of a response, from `response.created` to its terminal event, which contains
 * `finished` unchanged.
 */
export function responseEvents(options: {
  started: Record<string, unknown>;
  items: readonly StreamedItem[];
  finished: Record<string, unknown>;
  deltas: number;
  queued: boolean;
}): SimEvent[] {
  const { started, items, finished, deltas } = options;
  const first: SimEvent[] = [{ type: 'response.created', response: started }];
  if (options.queued) first.push({ type: 'response.queued', response: { ...started, status: 'queued' } });
  return [
    ...first,
    { type: 'response.in_progress', response: started },
    ...items.flatMap((item, index) => itemEvents(item, index, deltas)),
    { type: `response.${String(finished.status)}`, response: finished },
  ];
}

/** A delta and its obfuscation together fill a multiple of this many bytes. */
const OBFUSCATED_BYTES = 16;

/**
 * Adds random padding to most deltas, so that event sizes do not reveal their content. As in recorded traffic, about 78
 * % of the deltas have it, and it fills them up to a multiple of sixteen characters.
 */
export function obfuscate(events: readonly SimEvent[], seed: number, name: string): SimEvent[] {
  return events.map((event, index) => {
    if (!event.type.endsWith('.delta')) return event;
    const noise = derive(seed, 'obfuscation', name, index);
    if (Number.parseInt(noise.slice(-4), 16) / 2 ** 16 >= 0.78) return event;
    const length = OBFUSCATED_BYTES - (String(event.delta ?? '').length % OBFUSCATED_BYTES);
    const { type, delta, ...rest } = event;
    return { type, delta, obfuscation: noise.slice(0, length), ...rest };
  });
}

/** Gives every reference to an item a different id: some gateways generate ids as they relay events. */
export function scatterIds(events: readonly SimEvent[], freshId: () => string): SimEvent[] {
  const renamed = (item: Item): Item => ({ ...item, id: freshId() });
  return events.map((event): SimEvent => {
    if ('item_id' in event) return { ...event, item_id: freshId() };
    if (event.item !== undefined) return { ...event, item: renamed(event.item as Item) };
    const response = event.response as { output?: readonly Item[] } | undefined;
    if (!response?.output?.length) return event;
    return { ...event, response: { ...response, output: response.output.map(renamed) } };
  });
}

/**
 * Returns headers with information about the provider and the account that clients act on. They are the same on an
 * upgrade and on an HTTP answer, except that the latter also names its model.
 *
 * @param model model of the request; undefined for an upgrade, which precedes all requests
 */
export const signalHeaders = (model?: unknown): Record<string, string> => ({
  'openai-version': '2020-10-01',
  ...(model === undefined ? {} : { 'openai-model': String(model) }),
  'x-reasoning-included': 'true',
  'x-models-etag': 'W/"sim-models-1"',
  'x-codex-active-limit': 'primary',
  'x-codex-primary-used-percent': '1',
  'x-codex-primary-window-minutes': '300',
  'x-codex-primary-reset-after-seconds': '3600',
});

export const rateLimitsEvent = (): SimEvent => ({
  type: 'codex.rate_limits',
  plan_type: 'pro',
  rate_limits: {
    allowed: true,
    limit_reached: false,
    primary: { used_percent: 1, window_minutes: 300, reset_after_seconds: 3_600 },
    secondary: null,
  },
});

/**
 * Returns whether an event is a signal outside the response: it has no sequence number and may precede
 * `response.created`.
 */
export const isSignal = ({ type }: SimEvent): boolean =>
  type.startsWith('codex.') || type.startsWith('responsesapi.') || type === 'response.metadata';

/**
 * Returns the signals before `response.created` of a turn. The metadata event has one of its two names, or is left out.
 */
export function signalsBefore(seed: number, turn: number, model: unknown, timing: boolean): SimEvent[] {
  const events = [rateLimitsEvent()];
  const name = ['response.metadata', 'codex.response.metadata'][Math.floor(chance(seed, 'metadata', turn) * 3)];
  if (name) events.push({ type: name, headers: { 'openai-model': model } });
  if (timing)
    events.push({
      type: 'responsesapi.websocket_timing',
      timing_metrics: { responses_duration_excl_engine_and_client_tool_time_ms: 1 },
    });
  return events;
}

/** Upstream error, independent of the shape in which it is sent. */
export interface ErrorSpec {
  status: number;
  type?: string;
  code?: string | null;
  message: string;
  param?: string | null;
  /** In seconds. Sent as the Retry-After header over HTTP, and in `headers` of a nested error frame over WebSocket. */
  retryAfter?: number;
  /** Additional members of the `error` object, for example `resets_at`. */
  extra?: Record<string, unknown>;
}

/**
 * Shapes in which clients may receive one upstream error:
 *
 * - `nested`: the documented frame, `{type:'error', status, error:{type, code, message, param}}`
 * - `top_level`: the typed stream event, `{type:'error', code, message, param}`
 * - `code_in_type`: nested, with the code only in `error.type`
 * - `terse`: only a message, "Invalid `previous_response_id`." for a lost anchor
 * - `bare`: an `error` object without the frame's `type`
 * - `multi_line`: nested, with the message wrapped over several lines
 */
export type ErrorShape = 'nested' | 'top_level' | 'code_in_type' | 'terse' | 'bare' | 'multi_line';

/** Returns the `error` object of an HTTP body or a nested frame. */
export function errorObject(error: ErrorSpec): Record<string, unknown> {
  const type = error.type ?? (error.status >= 500 ? 'server_error' : 'invalid_request_error');
  return { type, code: error.code ?? null, message: error.message, param: error.param ?? null, ...error.extra };
}

/** Returns the frame or SSE event for an error. Only `top_level` has a sequence number, like the typed event. */
export function errorFrame(error: ErrorSpec, shape: ErrorShape, sequence: number): Record<string, unknown> {
  const nested = errorObject(error);
  const status = error.status;
  const headers = error.retryAfter === undefined ? {} : { headers: { 'retry-after': String(error.retryAfter) } };
  switch (shape) {
    case 'nested':
      return { type: 'error', status, error: nested, ...headers };
    case 'top_level': {
      const { code, message, param } = nested;
      return { type: 'error', code, message, param, sequence_number: sequence };
    }
    case 'code_in_type':
      return { type: 'error', status, error: { type: error.code ?? nested.type, message: error.message } };
    case 'terse': {
      const lostAnchor = error.code === 'previous_response_not_found';
      return { type: 'error', error: { message: lostAnchor ? 'Invalid `previous_response_id`.' : error.message } };
    }
    case 'bare':
      return { status, error: nested };
    case 'multi_line':
      return { type: 'error', status, error: { ...nested, message: error.message.replaceAll(' ', '\n') } };
  }
}

export const previousResponseNotFound = (id: string): ErrorSpec => ({
  status: 400,
  code: 'previous_response_not_found',
  message: `Previous response with id '${id}' not found.`,
  param: 'previous_response_id',
});

export const connectionLimitReached: ErrorSpec = {
  status: 400,
  code: 'websocket_connection_limit_reached',
  message: 'Responses websocket connection limit reached (60 minutes). Create a new websocket connection to continue.',
};

export const invalidEncryptedContent: ErrorSpec = {
  status: 400,
  code: 'invalid_encrypted_content',
  message: 'The encrypted content could not be verified.',
  param: 'input',
};

export const missingApiKey: ErrorSpec = {
  status: 401,
  code: 'invalid_api_key',
  message: 'Incorrect or missing API key.',
};

export const invalidRequest = (message: string, param: string | null = null): ErrorSpec => ({
  status: 400,
  message,
  param,
});

export const notFound = (message: string): ErrorSpec => ({ status: 404, message });

/** Thrown while a request is validated, to refuse its turn with an upstream error. */
export class Refusal extends Error {
  override readonly name = 'Refusal';
  readonly error: ErrorSpec;

  constructor(error: ErrorSpec) {
    super(error.message);
    this.error = error;
  }
}

/** Return path to one client for one turn. */
export interface Wire {
  readonly transport: 'websocket' | 'http';
  /** Aborted once the peer has disconnected. */
  readonly gone: AbortSignal;
  /**
   * Sends an event. Returns a promise when frames of another turn may be sent in between; the turn continues when it
   * resolves.
   */
  send(event: SimEvent): void | Promise<void>;
  /** Sends a text unchanged, whether or not it is JSON. */
  raw(text: string): void;
  /** Sends an error frame; over HTTP, a status as long as nothing was sent. */
  refuse(error: ErrorSpec, shape: ErrorShape, sequence: number): void;
  respond(status: number, headers: Record<string, string>, body: unknown): void;
  /** Closes the WebSocket, or ends the HTTP answer cleanly. */
  close(code: number, reason: string): void;
  /** Resets the TCP connection. */
  reset(): void;
  /** Called when the turn has nothing more to send. */
  finish(): void;
  /**
   * Resolves when another turn of the same connection arrives, or has sent `response.created`. Never resolves over
   * HTTP.
   */
  next(what: 'create' | 'created'): Promise<void>;
}
