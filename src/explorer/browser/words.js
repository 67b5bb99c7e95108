/**
 * Shortens an id to its first eight characters, which are enough to distinguish ids on screen; for a response id, eight
 * after its prefix.
 */
export const short = (id) => (id ? id.slice(0, id.startsWith('resp_') ? 13 : 8) : '');

/** Formats milliseconds in a unit that keeps numbers short: `840 ms`, `12.4 s`, `3 min`, `5 h`. */
export function duration(ms) {
  if (ms === null || ms === undefined) return '';
  if (ms < 0) return `−${duration(-ms)}`;
  if (ms < 9.95 && !Number.isInteger(ms)) return `${ms.toFixed(1)} ms`;
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 100_000) return `${(ms / 1_000).toFixed(1)} s`;
  if (ms < 5_400_000) return `${Math.round(ms / 60_000)} min`;
  if (ms < 172_800_000) return `${Math.round(ms / 3_600_000)} h`;
  return `${Math.round(ms / 86_400_000)} d`;
}

export function bytes(count) {
  if (count === null || count === undefined) return '';
  if (Math.abs(count) < 1_000) return `${count} B`;
  if (Math.abs(count) < 1_000_000) return `${(count / 1_000).toFixed(1)} kB`;
  if (Math.abs(count) < 1_000_000_000) return `${(count / 1_000_000).toFixed(1)} MB`;
  return `${(count / 1_000_000_000).toFixed(1)} GB`;
}

export const count = (number) => number.toLocaleString('en').replaceAll(',', '\u00a0');
/** Formats a number of any size in at most four characters before its unit: `0.4`, `12`, `3.4 k`, `1.2 M`. */
export function rate(number) {
  if (number === 0) return '0';
  if (Math.abs(number) < 0.01) return '<0.01';
  if (Math.abs(number) < 10 && !Number.isInteger(number)) return number.toFixed(number < 1 ? 2 : 1);
  if (Math.abs(number) < 10_000) return String(Math.round(number));
  return Math.abs(number) < 1_000_000 ? `${(number / 1_000).toFixed(1)} k` : `${(number / 1_000_000).toFixed(1)} M`;
}

/** Formats a share between 0 and 1. */
export const share = (part) => `${part > 0 && part < 0.095 ? (part * 100).toFixed(1) : Math.round(part * 100)} %`;
/** Formats an amount in the currency of the prices. */
export const money = (amount) => amount.toFixed(amount < 10 ? 3 : 2);
export const percent = (part, whole) => (whole > 0 ? `${Math.round((part / whole) * 100)} %` : '');

const two = (number) => String(number).padStart(2, '0');

/** Formats the local time of day, with milliseconds if `fine` is set. */
export function clock(t, fine = false) {
  const at = new Date(t);
  const text = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return fine ? `${text}.${String(at.getMilliseconds()).padStart(3, '0')}` : text;
}

/**
 * Formats when something happened as one short line: the local time of day for today, otherwise the day and the minute. A list
 * that crosses midnight keeps the height of its rows.
 */
export function when(t, now = Date.now()) {
  const at = new Date(t);
  if (at.toDateString() === new Date(now).toDateString()) return clock(t);
  const day = `${at.getDate()} ${at.toLocaleString('en', { month: 'short' })}`;
  const isThisYear = at.getFullYear() === new Date(now).getFullYear();
  return isThisYear ? `${day} ${clock(t).slice(0, 5)}` : `${day} ${at.getFullYear()}`;
}

export function ago(iso, now = Date.now()) {
  const ms = now - Date.parse(iso);
  return ms < 1_000 ? 'now' : duration(ms);
}

export const full = (iso) => new Date(iso).toLocaleString();

/** Returns the token counts of a turn without other fields of its provider, or null when there are none. */
export function tokens(usage) {
  if (!usage || typeof usage.input_tokens !== 'number') return null;
  return {
    input: usage.input_tokens,
    cached: usage.input_tokens_details?.cached_tokens ?? 0,
    output: usage.output_tokens ?? 0,
  };
}

/** Returns the bytes saved on the upstream link, or null for a turn that was never sent. */
export const saved = ({ facts }) => (facts?.form ? facts.bytesFromClient - facts.bytesSent : null);
