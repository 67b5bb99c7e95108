import { parseBounded } from '../json.ts';
import { MOST_FRAME_LEVELS } from './limits.ts';
import type { UpstreamAnswer, UpstreamError } from './port.ts';

/**
 * What a refused upgrade means: hand it to the client, go on over HTTP because nothing there speaks WebSocket, or try
 * again because it may pass.
 */
export type RefusalMeaning = 'relay' | 'no_websocket' | 'retry';

/** Whether a body is an error of the API rather than a page of something on the way, or nothing. */
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
  // Python services say `detail` of a missing route too; a credential and a quota are refused by nothing but the API.
  return (status === 401 || status === 429) && detail !== undefined && detail !== null;
}

/**
 * Classifies the answer a provider gave in place of a WebSocket upgrade.
 *
 * 404, 405, 426, 501 and every 2xx say that nothing there speaks WebSocket, whatever their body. 5xx may pass. All else
 * (400, 401, 403 and 429 above all) is the provider's word on this request and credential if it is an error of the API:
 * repeating it would only delay the client. Without one it is the word of something on the way that knows no upgrades
 * (a challenge page, a proxy that drops the header, a server that has the route for POST only).
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
/** The parameter is known, and wrong in this combination; or this one response is. */
const aboutCombination =
  /mutually|(?:used|combined|specified|provided|set) (?:together|with|alongside|in combination|at the same time)|only one of|not found|does not exist|no longer exists|(?:supported|allowed|permitted) (?:together |in combination )?(?:with|alongside) .{0,24}conversation/i;

/** Whether an error refuses `previous_response_id` as such, whatever response it names. */
export function refusesAnchors(error: UpstreamError): boolean {
  if (![400, 422, 501].includes(error.status)) return false;
  if (error.code === 'previous_response_not_found') return false;
  const said = `${error.param ?? ''} ${error.code ?? ''} ${error.message} ${JSON.stringify(error.raw) ?? ''}`.slice(
    0,
    4_096,
  );
  return /previous_response_id/.test(said) && aboutParameter.test(said) && !aboutCombination.test(said);
}

/** Whether an error says that a turn could go out again without its anchor. */
export function refusesAnchor(error: UpstreamError): boolean {
  return error.code === 'previous_response_not_found' || refusesAnchors(error);
}
