/**
 * Readers for the places where providers state a wait. All results are seconds from `now` (wall clock, milliseconds), never
 * negative, and null when there is none.
 */

const number = (value: unknown): number | null => {
  if (typeof value === 'string' && value.trim() === '') return null;
  const parsed = typeof value === 'string' || typeof value === 'number' ? Number(value) : Number.NaN;
  return Number.isFinite(parsed) ? parsed : null;
};

const seconds = (value: number | null): number | null =>
  value === null || Number.isNaN(value) ? null : Math.max(0, Math.round(value * 1000) / 1000);

/**
 * Reads `retry-after-ms`, or `retry-after` as seconds or as an HTTP date. Names may be in any case; of a list the first
 * value counts.
 */
export function retryAfterFromHeaders(headers: Readonly<Record<string, unknown>>, now: number): number | null {
  const first = (value: unknown): unknown => (Array.isArray(value) ? value[0] : value);
  const found = new Map(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), first(value)]));
  const ms = number(found.get('retry-after-ms'));
  if (ms !== null) return seconds(ms / 1000);
  const value = found.get('retry-after');
  const plain = number(value);
  if (plain !== null) return seconds(plain);
  return typeof value === 'string' ? seconds((Date.parse(value) - now) / 1000) : null;
}

/** Reads `resets_in_seconds` or `resets_at` (seconds or milliseconds since the epoch, or a date) of an error object. */
export function retryAfterFromError(error: Readonly<Record<string, unknown>>, now: number): number | null {
  const left = number(error.resets_in_seconds) ?? number(error.retry_after_seconds) ?? number(error.retry_after);
  if (left !== null) return seconds(left);
  const at = number(error.resets_at);
  if (at !== null) return seconds((at > 1e12 ? at - now : at * 1000 - now) / 1000);
  return typeof error.resets_at === 'string' ? seconds((Date.parse(error.resets_at) - now) / 1000) : null;
}

const unitSeconds = (unit: string): number => {
  if (/^(ms|milli)/i.test(unit)) return 0.001;
  return { s: 1, m: 60, h: 3600, d: 86_400 }[unit.charAt(0).toLowerCase() as 's' | 'm' | 'h' | 'd'];
};

const part = String.raw`(\d+(?:\.\d+)?)\s*(milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])`;
const phrase = new RegExp(String.raw`(?:try again|retry)\s+(?:in|after)\s+((?:${part}[\s,]*(?:and\s+)?)+)`, 'i');
const parts = new RegExp(part, 'gi');

/** Reads phrases such as "Please try again in 1.5s", "in 20ms", "in 6m0s" or "in 2 days 3 hours". */
export function retryAfterFromMessage(message: string): number | null {
  const words = phrase.exec(message.slice(0, 4096))?.[1];
  if (words === undefined) return null;
  let total = 0;
  for (const [, amount, unit] of words.matchAll(parts)) total += Number(amount) * unitSeconds(unit!);
  return seconds(total);
}
