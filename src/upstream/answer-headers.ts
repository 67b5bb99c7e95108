import { isFields } from '../json.ts';

/**
 * Which headers of a provider's answer (an upgrade, a 2xx, a refusal) reach the client, and for how long each is true.
 * Everything that is not named here belongs to the provider's connection or to this bridge.
 */

/**
 * - `connection`: true for every turn on the connection that was opened with it.
 * - `quota`: the same until newer telemetry on that connection replaces it.
 * - `answer`: about one answer only; an upgrade's belong to the first turn after it.
 * - `relayed`: goes only with an answer that is relayed whole.
 */
type HeaderLife = 'connection' | 'quota' | 'answer' | 'relayed';

const TURN_STATE = 'x-codex-turn-state';

/** The client knows the bridge's own request id by the provider's name for it. */
const REQUEST_ID = 'x-request-id';
export const UPSTREAM_REQUEST_ID = 'x-upstream-request-id';

const named = new Map<string, HeaderLife>([
  ['x-reasoning-included', 'connection'],
  ['x-models-etag', 'connection'],
  ['openai-model', 'connection'],
  ['openai-version', 'connection'],
  ['openai-processing-ms', 'answer'],
  [REQUEST_ID, 'answer'],
  ['openai-organization', 'relayed'],
  ['content-type', 'relayed'],
  // Codex compares it with `x-models-etag`: without it every such header makes it fetch the list again.
  ['etag', 'relayed'],
  ['retry-after', 'relayed'],
  ['retry-after-ms', 'relayed'],
  ['x-should-retry', 'relayed'],
  ['www-authenticate', 'relayed'],
]);

const quota = /^x-codex-(?:.+-)?(?:primary|secondary|credits|promo|plan|limit|rate)(?:-|$)/;

/** The life of an answer's header at the client, or null for one that stays here. */
function lifeOf(name: string): HeaderLife | null {
  const lower = name.toLowerCase();
  const life = named.get(lower);
  if (life !== undefined) return life;
  if (lower.startsWith('x-codex-')) return lower === TURN_STATE ? null : quota.test(lower) ? 'quota' : 'connection';
  // Counters of a window of seconds: on a connection that lives for an hour only the first turn may show them.
  return lower.startsWith('x-ratelimit-') ? 'answer' : null;
}

/** Whether a header of a 2xx answer has a part in the answer to a turn. */
export const concernsTurns = (name: string): boolean => ![null, 'relayed'].includes(lifeOf(name));

/** A value as it can be written to a client, or null. Some readers decode UTF-8: its bytes are restored. */
function writable(value: string): string | null {
  const bytes = /[\u0100-\uffff]/.test(value) ? Buffer.from(value, 'utf8').toString('latin1') : value;
  return /^[\t\u0020-\u007e\u0080-\u00ff]*$/.test(bytes) ? bytes : null;
}

/** An answer's headers that may go to the client, under the names they have there. */
export function clientHeaders(headers: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(livingHeaders(headers).map(({ name, value }) => [name, value]));
}

/** An answer's headers that may go to the client, with their lives. */
export function livingHeaders(
  headers: Readonly<Record<string, string>>,
): { name: string; value: string; life: HeaderLife }[] {
  return Object.entries(headers).flatMap(([given, text]) => {
    const life = lifeOf(given);
    const value = life === null ? null : writable(text);
    if (life === null || value === null) return [];
    const lower = given.toLowerCase();
    return [{ name: lower === REQUEST_ID ? UPSTREAM_REQUEST_ID : lower, value, life }];
  });
}

type Fields = Readonly<Record<string, unknown>>;
const LONGEST_VALUE = 256;

/** The prefix of a limit's headers: `x-codex` for the account's own, `x-codex-name` for a limit of its own. */
function prefixOf(event: Fields): string | null {
  const given = event.metered_limit_name ?? event.limit_name ?? 'codex';
  const name = String(given).toLowerCase().replaceAll('_', '-');
  return /^codex(?:-[a-z0-9-]{1,60})?$/.test(name) ? `x-${name}` : null;
}

/**
 * A `codex.rate_limits` event as the headers in which Codex reads the same over HTTP, where it ignores the event.
 *
 * @returns the headers of the limit it is about, and the prefix below which they replace what was known; null when the
 *   event is about no limit that has headers
 */
export function headersOfRateLimits(event: Fields): { prefix: string; headers: Map<string, string> } | null {
  const prefix = prefixOf(event);
  const limits = isFields(event.rate_limits) ? event.rate_limits : null;
  const headers = new Map<string, string>();
  const put = (name: string, value: unknown) => {
    if (!['string', 'number', 'boolean'].includes(typeof value)) return;
    const text = writable(String(value).slice(0, LONGEST_VALUE));
    if (text !== null) headers.set(name, text);
  };
  if (prefix === null) return null;
  for (const window of ['primary', 'secondary']) {
    const fields = limits?.[window];
    if (!isFields(fields)) continue;
    for (const name of ['used_percent', 'window_minutes', 'reset_at', 'reset_after_seconds'])
      put(`${prefix}-${window}-${name.replaceAll('_', '-')}`, fields[name]);
  }
  const credits = event.credits ?? limits?.credits;
  if (isFields(credits)) {
    for (const name of ['has_credits', 'unlimited', 'balance'])
      put(`${prefix}-credits-${name.replaceAll('_', '-')}`, credits[name]);
  }
  if (headers.size === 0) return null;
  put('x-codex-plan-type', event.plan_type);
  if (prefix !== 'x-codex') put(`${prefix}-limit-name`, event.limit_name ?? event.metered_limit_name);
  return { prefix, headers };
}
