import { isFields } from '../json.ts';

/**
 * Headers of a provider's answer (an upgrade, a 2xx, a refusal) that reach the client, and how long each one is valid. All
 * others concern only the provider's connection or this bridge.
 */

/**
 * - `connection`: valid for every turn on the connection opened with it.
 * - `quota`: the same, until newer telemetry on that connection replaces it.
 * - `answer`: about one answer only. Those of an upgrade belong to the first turn after it.
 * - `relayed`: sent only with an answer that is relayed whole.
 */
type HeaderLife = 'connection' | 'quota' | 'answer' | 'relayed';

const TURN_STATE = 'x-codex-turn-state';

/** The provider's request id. Clients get it under another name, because this one carries the bridge's own id. */
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
  // Codex compares it with `x-models-etag`. Without it, every such header makes Codex fetch the model list again.
  ['etag', 'relayed'],
  ['retry-after', 'relayed'],
  ['retry-after-ms', 'relayed'],
  ['x-should-retry', 'relayed'],
  ['www-authenticate', 'relayed'],
]);

const quota = /^x-codex-(?:.+-)?(?:primary|secondary|credits|promo|plan|limit|rate)(?:-|$)/;

/** Returns the lifetime of an answer's header at the client; null for a header that is not passed on. */
function lifeOf(name: string): HeaderLife | null {
  const lower = name.toLowerCase();
  const life = named.get(lower);
  if (life !== undefined) return life;
  if (lower.startsWith('x-codex-')) return lower === TURN_STATE ? null : quota.test(lower) ? 'quota' : 'connection';
  // Counters over a window of seconds. A connection lives for up to an hour, so only its first turn may show them.
  return lower.startsWith('x-ratelimit-') ? 'answer' : null;
}

/** Returns whether a header of a 2xx answer is relevant to the answer of a turn. */
export const concernsTurns = (name: string): boolean => ![null, 'relayed'].includes(lifeOf(name));

/**
 * Returns a header value as it can be written to a client, or null. Some readers decode values as UTF-8; the original bytes
 * are restored.
 */
function writable(value: string): string | null {
  const bytes = /[\u0100-\uffff]/.test(value) ? Buffer.from(value, 'utf8').toString('latin1') : value;
  return /^[\t\u0020-\u007e\u0080-\u00ff]*$/.test(bytes) ? bytes : null;
}

/** Returns an answer's headers that the client may get, under the names they have there. */
export function clientHeaders(headers: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(livingHeaders(headers).map(({ name, value }) => [name, value]));
}

/** Returns an answer's headers that the client may get, with their lifetimes. */
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

/**
 * Returns the header prefix of a limit: `x-codex` for the account's own, `x-codex-name` for a named one; null for other
 * names.
 */
function prefixOf(event: Fields): string | null {
  const given = event.metered_limit_name ?? event.limit_name ?? 'codex';
  const name = String(given).toLowerCase().replaceAll('_', '-');
  return /^codex(?:-[a-z0-9-]{1,60})?$/.test(name) ? `x-${name}` : null;
}

/**
 * Converts a `codex.rate_limits` event to the headers from which Codex reads the same data over HTTP, where it ignores the
 * event.
 *
 * @returns the headers of the limit, and the prefix of the known headers that they replace; null when the event concerns no
 *   limit that has headers
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
