import { systemClock } from '../clock.ts';
import { isFields, parseBounded } from '../json.ts';
import { canonicalCode, statusFor, typeFor } from './error-codes.ts';
import { MOST_FRAME_LEVELS } from './limits.ts';
import type { UpstreamAnswer, UpstreamError } from './port.ts';
import { retryAfterFromError, retryAfterFromHeaders, retryAfterFromMessage } from './retry-after.ts';

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

const says = (given: Partial<Layer>): Layer => ({
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
    return says({ message: text(words.replace(/\s+/g, ' ').trim().slice(0, LONGEST_TEXT)), raw: value });
  }
  return says({ message: text(value.trim().slice(0, LONGEST_TEXT)), raw: text(value) });
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
  if (depth > DEEPEST) return says({});
  const inner = inside(value);
  const isFrame = value.type === 'error' || (typeof value.type === 'string' && value.type.startsWith('response.'));
  const named = text(value.error);
  const described = text(value.message) ?? text(value.error_description) ?? text(value.detail);
  const code = text(value.code) ?? (described !== null ? named : null);
  const message = described ?? named ?? (Array.isArray(value.detail) ? ofList(value.detail) : null);
  const headers = isFields(value.headers) ? retryAfterFromHeaders(value.headers, now) : null;
  const own = says({
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
  return over(says(found), own);
}

function ofAnswer(answer: UpstreamAnswer, now: number): Layer {
  const found = ofText(answer.body.toString('utf8'), now, 0);
  const fromHeaders = retryAfterFromHeaders(answer.headers, now);
  // The status line is reliable; a status inside the body may come from a server further upstream.
  return { ...found, status: status(answer.status) ?? found.status, retryAfter: fromHeaders ?? found.retryAfter };
}

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
        ? says({ message: text(given.message) })
        : isFields(given)
          ? isAnswer(given)
            ? ofAnswer(given as unknown as UpstreamAnswer, now)
            : ofFields(given, now, 0)
          : says({ raw: given ?? null });
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
  const headers: Record<string, string> = { 'content-type': 'application/json' };
  if (error.retryAfterSeconds !== null) headers['retry-after'] = String(Math.ceil(error.retryAfterSeconds));
  return { status: error.status, headers, body: Buffer.from(JSON.stringify({ error: body })) };
}
