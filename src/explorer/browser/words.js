/**
 * Shortens an id to its first eight characters, which are enough to distinguish ids on screen; for a response id, eight
 * after its prefix.
 */
export const short = (id) => (id ? id.slice(0, id.startsWith('resp_') ? 13 : 8) : '');

/** Formats milliseconds in a unit that keeps numbers short: `840 ms`, `12.4 s`, `3 min`, `5 h`. */
export function duration(ms) {
  if (ms === null || ms === undefined) return '';
  if (ms < 0) return `−${duration(-ms)}`;
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
  return `${(count / 1_000_000).toFixed(1)} MB`;
}

export const count = (number) => number.toLocaleString('en').replaceAll(',', ' ');
export const percent = (part, whole) => (whole > 0 ? `${Math.round((part / whole) * 100)} %` : '');

const two = (number) => String(number).padStart(2, '0');

/** Formats the local time of day, with milliseconds if `fine` is set. */
export function clock(t, fine = false) {
  const at = new Date(t);
  const text = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return fine ? `${text}.${String(at.getMilliseconds()).padStart(3, '0')}` : text;
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
