import type { Response } from 'express';
import type { BridgeError } from '../errors.ts';
import type { AnswerHead } from '../session/port.ts';

/** Header in which Codex keeps the turn-state token of its user turn. */
const TURN_STATE_HEADER = 'x-codex-turn-state';

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
  res.json(error.envelope());
}
