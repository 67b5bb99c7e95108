import { isFields, MOST_LEVELS, nestsDeeperThan, parseExact, type Written } from '../json.ts';
import type { Item } from '../transcript/types.ts';
import type { UpstreamError } from '../upstream/port.ts';

/**
 * What of a provider's answer is kept: remembered, compared, stored or logged. A provider may send anything, and its
 * client gets it as it came; what is kept has a known shape and size from here on, so that nothing that is done with it
 * can fail.
 */

/** Longest id of a response that is kept, UTF-16 units; providers pack state into theirs. */
const LONGEST_ID = 8_192;
/** Longest code, type or name of a parameter that is kept of an error. */
const LONGEST_WORD = 100;
/** A usage object has some dozens of counters. */
const MOST_COUNTERS = 64;
const USAGE_LEVELS = 3;

/**
 * An output item as it is kept; null for what is no object, or nests too deeply: comparing descends, and a client could
 * not send it back.
 */
export function keptItem(json: string): Written<Item> | null {
  if (nestsDeeperThan(json, MOST_LEVELS)) return null;
  const value = parseExact(json);
  return isFields(value) ? { value: value as Item, json } : null;
}

/** Whether leaving this item out leaves nothing out: it says nothing. */
export const saysNothing = (json: string): boolean => json.trim() === 'null';

/** A response's id as it is kept; null for one that nothing could be found by. */
export function keptId(id: string | null): string | null {
  return id === null || id === '' || id.length > LONGEST_ID ? null : id;
}

/** A short name without content; null for anything else. */
const word = (value: unknown): string | null =>
  typeof value === 'string' && value.length <= LONGEST_WORD && /^[\w.:/[\]-]+$/.test(value) ? value : null;

/** The counters of a usage object: numbers, flags and short names, in objects. Null without any. */
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

/** What is stored of an upstream error. Its message may repeat what a client or a model said: only the client gets it. */
export function keptError({ status, type, code, param }: UpstreamError): Record<string, unknown> {
  return { status, type: word(type), code: word(code), param: word(param) };
}
