import { normaliseError } from './errors.ts';
import type { UpstreamAnswer } from './port.ts';

const kept = ['retry-after', 'retry-after-ms', 'x-request-id', 'x-should-retry'];

/** Converts a refusal over HTTP to the `error` frame that a WebSocket would have carried. */
export function refusalFrame(answer: UpstreamAnswer): string {
  const error = normaliseError(answer);
  const { type, code, message, param, raw } = error;
  const body = typeof raw === 'object' && raw !== null ? raw : { type, code, message, param };
  const headers = Object.fromEntries(Object.entries(answer.headers).filter(([name]) => kept.includes(name)));
  return JSON.stringify({ type: 'error', status: error.status, error: body, headers });
}
