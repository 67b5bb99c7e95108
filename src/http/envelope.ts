import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Response } from 'express';
import type { BridgeError } from '../errors.ts';
import { headHeaders, OUTCOME_HEADER, RETRY_AFTER_HEADER, SHOULD_RETRY_HEADER } from '../headers.ts';
import type { AnswerHead } from '../session/port.ts';
import { bareResponse } from '../transcript/items.ts';
import { clientHeaders } from '../upstream/headers.ts';
import type { UpstreamAnswer } from '../upstream/port.ts';

/** Limits of reading on after a refused request was answered: time in milliseconds, and number of bytes discarded. */
const LINGER_MS = 10_000;
const LINGER_BYTES = 64 * 1024 * 1024;

/** Returns the headers that tell a client whether and when to retry. */
export function retryHeaders(error: BridgeError): Record<string, string> {
  return {
    ...error.headers,
    ...(error.entry.retry ? {} : { [SHOULD_RETRY_HEADER]: 'false' }),
    ...(error.retryAfterSeconds === null ? {} : { [RETRY_AFTER_HEADER]: String(error.retryAfterSeconds) }),
    ...(error.outcome ? { [OUTCOME_HEADER]: error.outcome } : {}),
  };
}

/**
 * Sends the error's status and OpenAI's error envelope. Does nothing when the response headers have already been sent.
 */
export function sendError(res: Response, error: BridgeError, requestId: string, head: AnswerHead | null = null): void {
  if (res.headersSent || res.destroyed) return;
  res.status(error.status).set({ ...headHeaders(requestId, head), ...retryHeaders(error) });
  endWithJson(res, error.envelope());
}

/**
 * Ends a response whose status and other headers are set. If part of the request has not arrived, the whole answer is
 * sent at once, but the connection stays open until the rest was read and discarded, within limits: closing a socket
 * with unread data resets it, and the client would see a broken connection instead of the answer.
 */
export function endWithJson(res: ServerResponse, body: object): void {
  const text = JSON.stringify(body);
  const { req } = res;
  const unread = hasBody(req) && !req.complete;
  res.setHeader('content-type', 'application/json; charset=utf-8');
  res.setHeader('content-length', Buffer.byteLength(text));
  if (!unread) return void res.end(text);
  res.setHeader('connection', 'close');
  if (req.method === 'HEAD') res.flushHeaders();
  else res.write(text);
  discard(req, () => {
    res.end();
    // The rest exceeds the limits: drop the connection.
    if (!req.complete) req.destroy();
  });
}

/**
 * Returns whether the headers announce a body. `req.complete` is not enough: for a request without a body it becomes
 * true only after the request listeners have run.
 */
export const hasBody = ({ headers }: IncomingMessage) =>
  headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;

/**
 * Reads and discards the rest of a stream within `LINGER_MS` and `LINGER_BYTES`.
 *
 * @param over called once, when the stream has ended or a limit is reached
 */
export function discard(stream: NodeJS.ReadableStream, over: () => void): void {
  let bytes = 0;
  let ended = false;
  const end = () => {
    if (ended) return;
    ended = true;
    clearTimeout(timer);
    stream.off('data', count);
    over();
  };
  const count = (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > LINGER_BYTES) end();
  };
  // Uses real time, not the injected clock: the peer sends in real time.
  const timer = setTimeout(end, LINGER_MS);
  timer.unref();
  for (const event of ['end', 'close', 'error']) stream.once(event, end);
  stream.on('data', count);
  stream.resume();
}

/**
 * Relays an upstream answer with its status and body unchanged. Headers of the answer itself override those of its
 * upstream connection.
 */
export function relayAnswer(res: Response, answer: UpstreamAnswer, requestId: string, head: AnswerHead | null): void {
  const { status, headers, body } = answer;
  res.writeHead(status >= 200 && status < 600 ? status : 502, {
    ...head?.headers,
    'content-type': 'application/json',
    ...clientHeaders(headers),
    ...headHeaders(requestId, head && { ...head, headers: undefined }),
  });
  res.end(body);
}

/** Extracts the `sequence_number` of an event without parsing it. Every typed event has it as a top-level number. */
export function sequenceOf(json: string): number | null {
  const match = /"sequence_number":\s*(\d+)/.exec(json);
  return match ? Number(match[1]) : null;
}

interface FailedEventInput {
  error: { code: string; message: string; bridge_code?: string };
  requestId: string;
  /** Id of the response whose beginning was sent to the client. OpenAI's SDK accepts no other id after it. */
  responseId: string | null;
  /** Model named in the request, or null when it named none. */
  model: string | null;
  /** Wall-clock time, in milliseconds. */
  now: number;
  /** True when the client has received the beginning of its response. */
  begun: boolean;
  /** Last sequence number that was sent, or -1. */
  sequence: number;
}

/**
 * Builds the events that end a failed stream. They begin with `response.created` when the client has received no
 * beginning of a response, because clients accept nothing before it.
 */
export function failedEvent(input: FailedEventInput): { type: string; json: string }[] {
  const { error, requestId, model, begun, sequence } = input;
  const id = input.responseId ?? `resp_holdfast_${requestId.replaceAll('-', '')}`;
  const response = bareResponse({ id, model, now: input.now });
  const events: { type: string; json: string }[] = [];
  const add = (type: string, body: object) => {
    const sequence_number = sequence + 1 + events.length;
    events.push({ type, json: JSON.stringify({ type, sequence_number, response: { ...response, ...body } }) });
  };
  if (!begun) add('response.created', {});
  add('response.failed', { status: 'failed', error });
  return events;
}
