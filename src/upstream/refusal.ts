import type { UpstreamAnswer } from './port.ts';

/** What a refused upgrade means: hand it to the client, go on over HTTP, or try again until the deadline. */
export type RefusalMeaning = 'relay' | 'no_websocket' | 'retry';

/**
 * Classifies the answer a provider gave in place of a WebSocket upgrade.
 *
 * 404, 405, 426, 501 and every 2xx say that nothing there speaks WebSocket. 5xx may pass. All else (400, 401, 403 and
 * 429 above all) is the provider's word on this request and credential: repeating it here would only delay the client.
 */
export function classifyRefusal(answer: Pick<UpstreamAnswer, 'status'>): RefusalMeaning {
  const { status } = answer;
  if (status === 404 || status === 405 || status === 426 || status === 501) return 'no_websocket';
  if (status >= 200 && status < 300) return 'no_websocket';
  return status >= 500 ? 'retry' : 'relay';
}
