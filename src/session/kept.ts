import { isFields, MOST_LEVELS, nestsDeeperThan, parseExact, type Written } from '../json.ts';
import type { Item } from '../transcript/types.ts';
import type { UpstreamError } from '../upstream/port.ts';

/**
 * Functions that reduce a provider's answer to the part that is kept: remembered, compared, stored or logged. A
 * provider may send anything, and its client gets it unchanged. The kept part has a known shape and size, so that later
 * steps cannot fail on it.
 */

/** Longest response id that is kept, in UTF-16 units; providers pack state into their ids. */
const LONGEST_ID = 8_192;
/** Longest code, type or parameter name of an error that is kept, in UTF-16 units. */
const LONGEST_WORD = 100;
/** Maximum number of counters kept of a usage object; real ones have a few dozen. */
const MOST_COUNTERS = 64;
const USAGE_LEVELS = 3;

/**
 * Returns an output item in the form in which it is kept. Returns null if it is not an object, or nests too deeply:
 * comparison is recursive, and a client could not send such an item back.
 */
export function keptItem(json: string): Written<Item> | null {
  if (nestsDeeperThan(json, MOST_LEVELS)) return null;
  const value = parseExact(json);
  return isFields(value) ? { value: value as Item, json } : null;
}

/** Returns whether the item is `null` and can be left out without loss. */
export const saysNothing = (json: string): boolean => json.trim() === 'null';

/**
 * Returns a response id in the form in which it is kept; null if it is missing, empty or too long to be looked up
 * later.
 */
export function keptId(id: string | null): string | null {
  return id === null || id === '' || id.length > LONGEST_ID ? null : id;
}

/** Returns a short identifier unchanged; null for anything that may hold content. */
const word = (value: unknown): string | null =>
  typeof value === 'string' && value.length <= LONGEST_WORD && /^[\w.:/[\]-]+$/.test(value) ? value : null;

/** Returns the counters of a usage object: numbers, flags and short names, in objects. Null if `usage` is not an object. */
export function keptUsage(usage: unknown): Record<string, unknown> | null {
  let left = MOST_COUNTERS;
  const copy = (value: unknown, levels: number): unknown => {
    if (typeof value === 'number' || typeof value === 'boolean' || value === null) return value;
    if (typeof value === 'string') return word(value) ?? undefined;
    if (!isFields(value) || levels === 0) return undefined;
    const kept = new Map<string, unknown>();
    for (const [name, each] of Object.entries(value)) {
      if (left === 0) break;
      const counter = word(name) === null ? undefined : copy(each, levels - 1);
      if (counter === undefined) continue;
      left -= 1;
      kept.set(name, counter);
    }
    return Object.fromEntries(kept);
  };
  return isFields(usage) ? (copy(usage, USAGE_LEVELS) as Record<string, unknown>) : null;
}

/**
 * Returns the part of an upstream error that is stored: identifiers only. Its message may echo user content and is only
 * sent to the client.
 */
export function keptError({ status, type, code, param }: UpstreamError): Record<string, unknown> {
  return { status, type: word(type), code: word(code), param: word(param) };
}
