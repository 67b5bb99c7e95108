import { REQUEST_ID_HEADER, RETRY_AFTER_HEADER, SHOULD_RETRY_HEADER } from '../headers.ts';
import { isFields, parseBounded } from '../json.ts';
import { systemClock } from '../system.ts';
import {
  type FailureKind,
  MOST_FRAME_LEVELS,
  type Unreachable,
  type UpstreamAnswer,
  type UpstreamError,
} from './port.ts';

/**
 * Reads an upstream error of any shape: an `UpstreamAnswer`, a parsed or unparsed frame, a `response.failed` event, an HTTP
 * envelope, a bare error object, text, HTML, or a thrown value. Never throws.
 *
 * @param now wall clock in milliseconds, for waits given as a date
 */
export function normaliseError(given: unknown, now: number = systemClock.wall()): UpstreamError {
  const layer =
    typeof given === 'string'
      ? ofText(given, now, 0)
      : given instanceof Error
        ? layerOf({ message: text(given.message) })
        : isFields(given)
          ? isAnswer(given)
            ? ofAnswer(given as unknown as UpstreamAnswer, now)
            : ofFields(given, now, 0)
          : layerOf({ raw: given ?? null });
  const code = canonicalCode(layer);
  const httpStatus = layer.status ?? statusFor(code, layer.type) ?? 502;
  const message = layer.message ?? `The upstream answered with an error (${httpStatus}).`;
  return {
    status: httpStatus,
    type: layer.type ?? typeFor(httpStatus),
    code,
    message,
    param: layer.param,
    retryAfterSeconds: layer.retryAfter ?? retryAfterFromMessage(message),
    raw: layer.raw,
  };
}

/**
 * Converts an error frame to the HTTP answer that a client would have got: the error object as received, in OpenAI's
 * envelope. Missing fields are added, above all the canonical code that clients act on; existing fields are not changed.
 */
export function upstreamAnswerOf(error: UpstreamError): UpstreamAnswer {
  const raw: Record<string, unknown> = isFields(error.raw) ? { ...error.raw } : {};
  // A frame that is itself the error mixes the frame's members with those of the error.
  if (raw.type === 'error') for (const name of ['type', 'sequence_number', 'status', 'headers']) delete raw[name];
  const body = {
    ...raw,
    message: raw.message ?? error.message,
    type: raw.type ?? error.type,
    param: raw.param ?? error.param,
    code: raw.code ?? error.code,
  };
  const { retryAfterSeconds: seconds } = error;
  const retryAfter: Record<string, string> =
    seconds === null ? {} : { [RETRY_AFTER_HEADER]: String(Math.ceil(seconds)) };
  const headers = { 'content-type': 'application/json', ...retryAfter };
  return { status: error.status, headers, body: Buffer.from(JSON.stringify({ error: body })) };
}

/**
 * Meaning of a refused upgrade: relay it to the client, continue over HTTP because the server has no WebSocket, or retry
 * because the failure may be transient.
 */
type RefusalMeaning = 'relay' | 'no_websocket' | 'retry';

/** Returns whether a body is an error of the API, not a page of an intermediary or empty. */
export function isApiError({ status, body }: Pick<UpstreamAnswer, 'status' | 'body'>): boolean {
  let value: unknown;
  try {
    value = parseBounded(body.toString('utf8'), MOST_FRAME_LEVELS);
  } catch {
    return false;
  }
  if (typeof value !== 'object' || value === null) return false;
  const { error, detail } = value as { error?: unknown; detail?: unknown };
  if (typeof error === 'object' && error !== null) return true;
  if (typeof error === 'string' && error !== '') return true;
  // Python services also send `detail` for a missing route; but only the API refuses a credential or a quota.
  return (status === 401 || status === 429) && detail !== undefined && detail !== null;
}

/**
 * Classifies the answer that a provider gave in place of a WebSocket upgrade.
 *
 * 404, 405, 426, 501 and every 2xx mean that the server has no WebSocket, whatever the body. 5xx may be transient. Any
 * other status (400, 401, 403 and 429 above all) is the provider's verdict on this request and credential if the body is an
 * error of the API: a retry would only delay the client. Without such a body it comes from an intermediary without support
 * for upgrades (a challenge page, a proxy that drops the header, a server that has the route for POST only).
 */
export function classifyRefusal(answer: Pick<UpstreamAnswer, 'status' | 'body'>): RefusalMeaning {
  const { status } = answer;
  if (status === 404 || status === 405 || status === 426 || status === 501) return 'no_websocket';
  if (status >= 200 && status < 300) return 'no_websocket';
  if (status >= 500) return 'retry';
  return isApiError(answer) ? 'relay' : 'no_websocket';
}

const aboutParameter =
  /unsupported|not (?:currently |yet )?(?:supported|implemented|available|enabled)|unknown|unrecogni[sz]ed|unexpected|not (?:allowed|permitted)|extra_forbidden|does(?: not|n't) (?:support|allow|accept)|stateless|zero data retention/i;
/** Matches errors where the parameter is supported, but wrong in this combination or for this one response. */
const aboutCombination =
  /mutually|(?:used|combined|specified|provided|set) (?:together|with|alongside|in combination|at the same time)|only one of|not found|does not exist|no longer exists|(?:supported|allowed|permitted) (?:together |in combination )?(?:with|alongside) .{0,24}conversation/i;

/** Returns whether an error refuses the parameter `previous_response_id` itself, whatever response it names. */
export function refusesAnchors(error: UpstreamError): boolean {
  if (![400, 422, 501].includes(error.status)) return false;
  if (error.code === 'previous_response_not_found') return false;
  const described =
    `${error.param ?? ''} ${error.code ?? ''} ${error.message} ${JSON.stringify(error.raw) ?? ''}`.slice(0, 4_096);
  return /previous_response_id/.test(described) && aboutParameter.test(described) && !aboutCombination.test(described);
}

/** Returns whether the turn could be sent again without its anchor after this error. */
export function refusesAnchor(error: UpstreamError): boolean {
  return error.code === 'previous_response_not_found' || refusesAnchors(error);
}

const kept = [RETRY_AFTER_HEADER, 'retry-after-ms', REQUEST_ID_HEADER, SHOULD_RETRY_HEADER];

/** Converts a refusal over HTTP to the `error` frame that a WebSocket would have carried. */
export function refusalFrame(answer: UpstreamAnswer): string {
  const error = normaliseError(answer);
  const { type, code, message, param, raw } = error;
  const body = typeof raw === 'object' && raw !== null ? raw : { type, code, message, param };
  const headers = Object.fromEntries(Object.entries(answer.headers).filter(([name]) => kept.includes(name)));
  return JSON.stringify({ type: 'error', status: error.status, error: body, headers });
}

type Fields = Readonly<Record<string, unknown>>;

/** Fields of one layer of an error. Layers are merged from the inside out: the most specific value wins. */
interface Layer {
  status: number | null;
  type: string | null;
  code: string | null;
  message: string | null;
  param: string | null;
  retryAfter: number | null;
  raw: unknown;
}

const LONGEST_TEXT = 2000;
const DEEPEST = 4;

const text = (value: unknown): string | null => (typeof value === 'string' && value.trim() !== '' ? value : null);
const isAnswer = (value: Fields): boolean => typeof value.status === 'number' && Buffer.isBuffer(value.body);

/** Parses an error's status. A number outside 400-599 is no error status, whichever field holds it. */
const status = (value: unknown): number | null => {
  const parsed = typeof value === 'string' && /^\d{3}$/.test(value) ? Number(value) : value;
  return typeof parsed === 'number' && Number.isInteger(parsed) && parsed >= 400 && parsed <= 599 ? parsed : null;
};

const layerOf = (given: Partial<Layer>): Layer => ({
  status: null,
  type: null,
  code: null,
  message: null,
  param: null,
  retryAfter: null,
  raw: null,
  ...given,
});

const over = (inner: Layer, outer: Layer): Layer => ({
  status: inner.status ?? outer.status,
  type: inner.type ?? outer.type,
  code: inner.code ?? outer.code,
  message: inner.message ?? outer.message,
  param: inner.param ?? outer.param,
  retryAfter: outer.retryAfter ?? inner.retryAfter,
  raw: inner.raw ?? outer.raw,
});

/**
 * Parses the JSON object that a text is or contains, as in an SSE body or a message that quotes a body. An object nested
 * too deeply to be serialised again is treated as plain text.
 */
function embeddedObject(value: string): Fields | null {
  const from = value.indexOf('{');
  const to = value.lastIndexOf('}');
  if (from < 0 || to < from) return null;
  try {
    const parsed = parseBounded(value.slice(from, to + 1), MOST_FRAME_LEVELS);
    return isFields(parsed) ? parsed : null;
  } catch {
    return null;
  }
}

function ofText(value: string, now: number, depth: number): Layer {
  const body = embeddedObject(value);
  if (body) {
    const found = ofFields(body, now, depth + 1);
    if (found.message !== null || found.code !== null) return found;
  }
  if (/^\s*<(?:!doctype|html|head|body|\?xml)/i.test(value)) {
    const title = /<title[^>]*>([^<]{1,300})/i.exec(value)?.[1];
    const words = title ?? value.slice(0, 8192).replace(/<(style|script)[\s\S]*?<\/\1>|<[^>]*>/gi, ' ');
    return layerOf({ message: text(words.replace(/\s+/g, ' ').trim().slice(0, LONGEST_TEXT)), raw: value });
  }
  return layerOf({ message: text(value.trim().slice(0, LONGEST_TEXT)), raw: text(value) });
}

/** Joins the messages of `{detail: [{loc, msg}]}`, the answer of Python services to an invalid body. */
const ofList = (list: readonly unknown[]): string | null =>
  text(
    list
      .map((entry) => (isFields(entry) ? text(entry.msg ?? entry.message) : text(entry)))
      .filter((entry) => entry !== null)
      .join('; '),
  );

/** Returns the error object inside a frame, an envelope or a response; null when the fields themselves are the error. */
function inside(value: Fields): unknown {
  if (isFields(value.error)) return value.error;
  if (isFields(value.response) && isFields(value.response.error)) return value.response.error;
  if (isFields(value.detail)) return value.detail;
  if (Array.isArray(value.errors) && isFields(value.errors[0])) return value.errors[0];
  return null;
}

function ofFields(value: Fields, now: number, depth: number): Layer {
  if (depth > DEEPEST) return layerOf({});
  const inner = inside(value);
  const isFrame = value.type === 'error' || (typeof value.type === 'string' && value.type.startsWith('response.'));
  const named = text(value.error);
  const described = text(value.message) ?? text(value.error_description) ?? text(value.detail);
  const code = text(value.code) ?? (described !== null ? named : null);
  const message = described ?? named ?? (Array.isArray(value.detail) ? ofList(value.detail) : null);
  const headers = isFields(value.headers) ? retryAfterFromHeaders(value.headers, now) : null;
  const own = layerOf({
    status: status(value.status) ?? status(value.status_code) ?? status(value.code),
    type: isFrame ? null : text(value.type),
    code: code !== null && !/^\d+$/.test(code) ? code : null,
    message,
    param: text(value.param),
    retryAfter: headers ?? retryAfterFromError(value, now),
    raw: value,
  });
  if (inner !== null) return over(ofFields(inner as Fields, now, depth + 1), own);
  const quoted = message !== null && own.code === null ? embeddedObject(message) : null;
  if (!quoted) return own;
  const { raw: _quotedRaw, ...found } = ofFields(quoted, now, depth + 1);
  return over(layerOf(found), own);
}

function ofAnswer(answer: UpstreamAnswer, now: number): Layer {
  const found = ofText(answer.body.toString('utf8'), now, 0);
  const fromHeaders = retryAfterFromHeaders(answer.headers, now);
  // The status line is reliable; a status inside the body may come from a server further upstream.
  return { ...found, status: status(answer.status) ?? found.status, retryAfter: fromHeaders ?? found.retryAfter };
}

/** HTTP status of the error codes that providers use. Also the list of codes recognised in a `type` field. */
const statusOfCode = new Map(
  Object.entries({
    previous_response_not_found: 400,
    websocket_connection_limit_reached: 400,
    websocket_stream_limit_reached: 400,
    context_length_exceeded: 400,
    invalid_prompt: 400,
    invalid_encrypted_content: 400,
    invalid_value: 400,
    invalid_json: 400,
    unsupported_parameter: 400,
    unsupported_value: 400,
    missing_required_parameter: 400,
    cyber_policy: 400,
    invalid_api_key: 401,
    token_expired: 401,
    usage_not_included: 403,
    unsupported_country_region_territory: 403,
    model_not_found: 404,
    rate_limit_exceeded: 429,
    usage_limit_reached: 429,
    insufficient_quota: 429,
    server_is_overloaded: 503,
    slow_down: 503,
  }),
);

const statusOfType = new Map(
  Object.entries({
    invalid_request_error: 400,
    invalid_request: 400,
    bad_request_error: 400,
    authentication_error: 401,
    permission_error: 403,
    not_found_error: 404,
    rate_limit_error: 429,
    too_many_requests: 429,
    tokens: 429,
    requests: 429,
    server_error: 500,
    internal_server_error: 500,
    api_error: 500,
    overloaded_error: 503,
    service_unavailable_error: 503,
  }),
);

/** Codes less specific than the message or the parameter beside them. */
const generic = new Set([
  'invalid_request_error',
  'invalid_request',
  'bad_request',
  'bad_request_error',
  'invalid_value',
  'invalid_parameter',
  'not_found',
  'not_found_error',
  'server_error',
  'internal_error',
  'internal_server_error',
  'rate_limit_error',
  'error',
  'unknown',
  'unknown_error',
]);

/** Messages seen without a code. Each run of white space in the text is matched as one blank. */
const wordings: readonly (readonly [RegExp, string])[] = [
  // Servers without storage report a missing anchor in the same words as a missing response.
  [/(?:previous |^)response with id \S+ (?:was )?not found/i, 'previous_response_not_found'],
  [/\binvalid [`'"]?previous_response_id[`'"]?/i, 'previous_response_not_found'],
  [
    /\bprevious_response_id\b\S* .{0,120}\b(?:not found|does not exist|no longer exists)/i,
    'previous_response_not_found',
  ],
  [/\bwebsocket connection limit reached/i, 'websocket_connection_limit_reached'],
  [/\busage limit (?:has been )?reached/i, 'usage_limit_reached'],
  [
    /\bservers? (?:is|are) (?:currently )?overloaded|\bmodel is (?:currently )?(?:at capacity|overloaded)/i,
    'server_is_overloaded',
  ],
  [/^rate limit reached\b/i, 'rate_limit_exceeded'],
];

/** Complaints about the parameter that do not concern the response it names. */
const otherComplaint = /unsupported|not supported|not allowed|cannot be used|mutually|together|conversation/i;

interface Described {
  code: string | null;
  type: string | null;
  message: string | null;
  param: string | null;
  status: number | null;
}

/**
 * Returns the canonical code of an error, whichever field holds it; null when none can be derived. A specific code of the
 * provider is never replaced by a guess.
 */
function canonicalCode(error: Described): string | null {
  const { code, type, param, status } = error;
  if (code !== null && !generic.has(code)) return code;
  if (type !== null && !generic.has(type) && statusOfCode.has(type)) return type;
  const message = (error.message ?? '').slice(0, 4096).replace(/\s+/g, ' ').trim();
  for (const [wording, meaning] of wordings) if (wording.test(message)) return meaning;
  const badRequest = status === null || status === 400 || status === 404;
  if (param === 'previous_response_id' && badRequest && !otherComplaint.test(message))
    return 'previous_response_not_found';
  return code;
}

/** Returns whether a `type` is an error's code or class, as in frames that are a bare error object. */
export function namesError(type: string): boolean {
  return statusOfCode.has(type) || statusOfType.has(type);
}

/** Returns whether OpenAI's API is known to use a code. Such a code reveals nothing about an account. */
export const namesCode = (code: string | null): code is string => statusOfCode.has(code as string);

/** Returns the status of a code or, failing that, of a type; null when neither is known. */
function statusFor(code: string | null, type: string | null): number | null {
  return statusOfCode.get(code ?? '') ?? statusOfType.get(type ?? '') ?? statusOfType.get(code ?? '') ?? null;
}

/** Returns OpenAI's error type for a status. */
function typeFor(status: number): string {
  if (status === 401) return 'authentication_error';
  if (status === 403) return 'permission_error';
  if (status === 429) return 'rate_limit_error';
  return status >= 400 && status < 500 ? 'invalid_request_error' : 'server_error';
}

/**
 * Readers for the places where providers state a wait. All results are seconds from `now` (wall clock, milliseconds), never
 * negative, and null when there is none.
 */

const number = (value: unknown): number | null => {
  if (typeof value === 'string' && value.trim() === '') return null;
  const parsed = typeof value === 'string' || typeof value === 'number' ? Number(value) : Number.NaN;
  return Number.isFinite(parsed) ? parsed : null;
};

const seconds = (value: number | null): number | null =>
  value === null || Number.isNaN(value) ? null : Math.max(0, Math.round(value * 1000) / 1000);

/**
 * Reads `retry-after-ms`, or `retry-after` as seconds or as an HTTP date. Names may be in any case; of a list the first
 * value counts.
 */
function retryAfterFromHeaders(headers: Readonly<Record<string, unknown>>, now: number): number | null {
  const first = (value: unknown): unknown => (Array.isArray(value) ? value[0] : value);
  const found = new Map(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), first(value)]));
  const ms = number(found.get('retry-after-ms'));
  if (ms !== null) return seconds(ms / 1000);
  const value = found.get(RETRY_AFTER_HEADER);
  const plain = number(value);
  if (plain !== null) return seconds(plain);
  return typeof value === 'string' ? seconds((Date.parse(value) - now) / 1000) : null;
}

/** Reads `resets_in_seconds` or `resets_at` (seconds or milliseconds since the epoch, or a date) of an error object. */
function retryAfterFromError(error: Readonly<Record<string, unknown>>, now: number): number | null {
  const left = number(error.resets_in_seconds) ?? number(error.retry_after_seconds) ?? number(error.retry_after);
  if (left !== null) return seconds(left);
  const at = number(error.resets_at);
  if (at !== null) return seconds((at > 1e12 ? at - now : at * 1000 - now) / 1000);
  return typeof error.resets_at === 'string' ? seconds((Date.parse(error.resets_at) - now) / 1000) : null;
}

const unitSeconds = (unit: string): number => {
  if (/^(ms|milli)/i.test(unit)) return 0.001;
  return { s: 1, m: 60, h: 3600, d: 86_400 }[unit.charAt(0).toLowerCase() as 's' | 'm' | 'h' | 'd'];
};

const part = String.raw`(\d+(?:\.\d+)?)\s*(milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])`;
const phrase = new RegExp(String.raw`(?:try again|retry)\s+(?:in|after)\s+((?:${part}[\s,]*(?:and\s+)?)+)`, 'i');
const parts = new RegExp(part, 'gi');

/** Reads phrases such as "Please try again in 1.5s", "in 20ms", "in 6m0s" or "in 2 days 3 hours". */
function retryAfterFromMessage(message: string): number | null {
  const words = phrase.exec(message.slice(0, 4096))?.[1];
  if (words === undefined) return null;
  let total = 0;
  for (const [, amount, unit] of words.matchAll(parts)) total += Number(amount) * unitSeconds(unit!);
  return seconds(total);
}

/** Error codes by kind; the first match counts. */
const meanings: readonly [kind: FailureKind, codes: RegExp][] = [
  ['proxy', /^PROXY_ANSWERED_/],
  ['dns', /^(?:ENOTFOUND|ENODATA|ESERVFAIL|EBADNAME|EAI_[A-Z]+)$/],
  ['refused', /^ECONNREFUSED$/],
  ['tls', /CERT|SELF_SIGNED|UNABLE_TO_|HOSTNAME_MISMATCH|CRL_|^ERR_SSL_|^ERR_TLS_|^EPROTO$/],
  ['timeout', /TIMEOUT|^ETIMEDOUT$| within \d+ ms$/],
  ['network', /^(?:EHOSTUNREACH|ENETUNREACH|EHOSTDOWN|ENETDOWN|EADDRNOTAVAIL)$/],
  ['reset', /^(?:ECONNRESET|ECONNABORTED|EPIPE|UND_ERR_SOCKET|closed during the upgrade)$/],
];

/** Codes of failures that a retry within seconds cannot change. */
const final = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EHOSTUNREACH', 'ENETUNREACH']);
const CERTIFICATE = /CERT|SELF_SIGNED|UNABLE_TO_|HOSTNAME_MISMATCH|CRL_/;

/** Prefix of the code of a refusal by the proxy; its status follows. */
export const BY_PROXY = 'PROXY_ANSWERED_';

const kindOf = (code: string): FailureKind => meanings.find(([, codes]) => codes.test(code))?.[0] ?? 'other';
const isFinal = (code: string): boolean => final.has(code) || kindOf(code) === 'tls';

/** Returns the kind of an HTTP answer received in place of a connection. */
export const kindOfStatus = (status: number): FailureKind =>
  status >= 500 ? 'http_5xx' : status >= 400 ? 'http_4xx' : 'other';

/** Returns a code of Node, OpenSSL or undici. A message may quote an address with its path; a code never does. */
function codeOf(error: unknown, depth = 0): string | null {
  if (!(error instanceof Error) || depth > 4) return null;
  if (error instanceof AggregateError) {
    // One error per address of the host: a transient one takes precedence.
    const codes = error.errors.flatMap((each) => codeOf(each, depth + 1) ?? []);
    const found = codes.find((code) => !isFinal(code)) ?? codes[0];
    if (found !== undefined) return found;
  }
  // undici reports a refusal by the proxy only in a message.
  const refused = /^Proxy (?:response|Authentication Required) \((\d{3})\)/.exec(error.message)?.[1];
  if (refused !== undefined) return `${BY_PROXY}${refused}`;
  const inner = codeOf(error.cause, depth + 1);
  const { code } = error as NodeJS.ErrnoException;
  return inner ?? (typeof code === 'string' && /^[A-Z][A-Z0-9_]{2,60}$/.test(code) ? code : null);
}

/** Returns an upstream's name for operators: host and port, without path, query or credential. */
export const hostOf = (baseUrl: string): string => URL.parse(baseUrl)?.host ?? 'an invalid address';

/**
 * Describes for people why a connection failed: code and host.
 *
 * @param given the thrown value, or a short text of our own
 * @param baseUrl address of the upstream; only host and port are shown
 * @param proxy proxy on the way, also shown by host and port only; null for none
 */
export function unreachable(given: unknown, baseUrl: string, proxy: URL | null): Unreachable {
  const code = typeof given === 'string' ? given : (codeOf(given) ?? 'no connection');
  const what = CERTIFICATE.test(code) ? `certificate not accepted (${code})` : code;
  const way = proxy === null ? '' : ` through the proxy ${proxy.host}`;
  return {
    text: `${what} at ${hostOf(baseUrl)}${way}`,
    kind: kindOf(code),
    byProxy: code.startsWith(BY_PROXY),
    final: isFinal(code),
  };
}

/** Collects a body up to a limit. The excess is dropped, and the answer then has no `content-length`. */
export interface AnswerCollector {
  /** Adds a chunk. Returns false once the limit is reached; nothing more is kept then. */
  push(chunk: Buffer): boolean;
  /**
   * Returns the answer as collected so far.
   *
   * @param complete false when the body was cut
   */
  answer(complete: boolean): UpstreamAnswer;
}

/**
 * Creates a collector.
 *
 * @param maxBytes most bytes kept of the body
 */
export function collectAnswer(status: number, headers: Record<string, string>, maxBytes: number): AnswerCollector {
  const chunks: Buffer[] = [];
  let bytes = 0;
  let cut = false;
  return {
    push(chunk) {
      const room = maxBytes - bytes;
      if (chunk.length > room) cut = true;
      const kept = cut ? chunk.subarray(0, room) : chunk;
      if (kept.length > 0) chunks.push(kept);
      bytes += kept.length;
      return !cut;
    },
    answer(complete) {
      const kept = { ...headers };
      if (cut || !complete) delete kept['content-length'];
      return { status, headers: kept, body: Buffer.concat(chunks) };
    },
  };
}

/** Returns a short reason for a failed connection. Never contains a header or a body. */
export function reasonOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return reasonOf(error.errors[0]);
  if (!(error instanceof Error)) return 'unknown';
  const { code } = error as NodeJS.ErrnoException;
  return error.message || code || error.name;
}
