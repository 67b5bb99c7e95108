/**
 * Replaces what PostgreSQL's `text` cannot store: NUL, and lone surrogates, which UTF-8 does not allow. Clients and
 * providers may send both.
 */
export function text(value: string): string {
  return value.toWellFormed().replaceAll('\u0000', '\uFFFD');
}

export function optionalText(value: string | null): string | null {
  return value === null ? null : text(value);
}

/** Returns a value of any column but JSON as a parameter. */
export const storable = (value: unknown): unknown => (typeof value === 'string' ? text(value) : value);

/**
 * Returns the JSON text for a `json` or `jsonb` parameter.
 *
 * @throws TypeError for values that JSON cannot represent (cycles, bigint)
 */
export function json(value: unknown): string | null {
  return value === undefined || value === null ? null : JSON.stringify(value);
}
