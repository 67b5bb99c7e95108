import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Response } from 'express';
import type { BridgeError } from '../errors.ts';
import type { AnswerHead } from '../session/port.ts';

/** Header in which Codex keeps the turn-state token of its user turn. */
const TURN_STATE_HEADER = 'x-codex-turn-state';

/** How long a refused sender is read on after its answer, milliseconds, and how many bytes of it are discarded. */
const LINGER_MS = 10_000;
const LINGER_BYTES = 64 * 1024 * 1024;

/** The headers every answer of a turn carries. The token is there only when its row is durable. */
export function headHeaders(requestId: string, head: AnswerHead | null): Record<string, string> {
  return {
    ...head?.headers,
    'x-request-id': requestId,
    ...(head ? { 'x-holdfast-outcome': head.outcome } : {}),
    ...(head?.sessionId ? { 'x-holdfast-session': head.sessionId } : {}),
    ...(head?.token ? { [TURN_STATE_HEADER]: head.token } : {}),
  };
}

/** Headers that tell a client whether and when to try again. */
export function retryHeaders(error: BridgeError): Record<string, string> {
  return {
    ...error.headers,
    ...(error.entry.retry ? {} : { 'x-should-retry': 'false' }),
    ...(error.retryAfterSeconds === null ? {} : { 'retry-after': String(error.retryAfterSeconds) }),
    ...(error.outcome ? { 'x-holdfast-outcome': error.outcome } : {}),
  };
}

/** Answers with the error's status and OpenAI's envelope. Does nothing when the status has left already. */
export function sendError(res: Response, error: BridgeError, requestId: string, head: AnswerHead | null = null): void {
  if (res.headersSent || res.destroyed) return;
  res.status(error.status).set({ ...headHeaders(requestId, head), ...retryHeaders(error) });
  endWithJson(res, error.envelope());
}

/**
 * Ends an answer whose status and other headers are set. Where a part of the request has not arrived, the whole answer
 * leaves at once, but the connection stays until the rest was read and discarded, within bounds: one that is closed with
 * unread bytes in it is reset, and the client sees a broken connection in place of the answer.
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
    // Beyond the bounds nothing of it is wanted any more.
    if (!req.complete) req.destroy();
  });
}

/** Whether a request announces a body. One without is complete, but is so marked only after its listeners have run. */
const hasBody = ({ headers }: IncomingMessage) =>
  headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;

/** Reads a stream on without keeping anything, within the bounds of lingering; `over` is called once, at the end of it. */
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
  // On real time: what the other side does takes that, whatever clock deadlines run on.
  const timer = setTimeout(end, LINGER_MS);
  timer.unref();
  for (const event of ['end', 'close', 'error']) stream.once(event, end);
  stream.on('data', count);
  stream.resume();
}
