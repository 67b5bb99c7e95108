import { parseBounded } from '../json.ts';
import { MOST_FRAME_LEVELS } from './limits.ts';
import type { UpstreamAnswer, UpstreamError } from './port.ts';

/**
 * Meaning of a refused upgrade: relay it to the client, continue over HTTP because the server has no WebSocket, or retry
 * because the failure may be transient.
 */
export type RefusalMeaning = 'relay' | 'no_websocket' | 'retry';

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
  const said = `${error.param ?? ''} ${error.code ?? ''} ${error.message} ${JSON.stringify(error.raw) ?? ''}`.slice(
    0,
    4_096,
  );
  return /previous_response_id/.test(said) && aboutParameter.test(said) && !aboutCombination.test(said);
}

/** Returns whether the turn could be sent again without its anchor after this error. */
export function refusesAnchor(error: UpstreamError): boolean {
  return error.code === 'previous_response_not_found' || refusesAnchors(error);
}
