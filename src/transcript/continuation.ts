import type { Written } from '../json.ts';
import { contextFingerprint } from './fingerprint.ts';
import type { Continuation, Item, KnownEnd, RequestBody } from './types.ts';

/** Server-listed tools live in the context: a delta cannot change the tools beside them. Equal context fields ensure it. */
function deltaRefusal(body: RequestBody, left: readonly Written<Item>[], end: KnownEnd): string | null {
  if (left.length === 0) return 'nothing new is left';
  if (end.responseId === null) return 'the line has no response id';
  if (contextFingerprint(body) !== end.contextFp) return 'a context field changed';
  return null;
}

/** An anchored request adds its input to the anchor. */
export function continueAnchor(items: readonly Written<Item>[]): Continuation {
  return { kind: 'anchored', items };
}

/**
 * Where an unanchored request continues and what it adds: if a known line is exactly the start of its input, only what is
 * left over is new. Anything else is a root of its own. Either way it may be sent as the client sent it.
 *
 * @param match the deepest turn that the request continues, and how many of its items belong to that turn's line
 */
export function continueLine(
  body: RequestBody,
  items: readonly Written<Item>[],
  match: { end: KnownEnd; count: number } | null,
): Continuation {
  if (!match) return { kind: 'root', items };
  const left = items.slice(match.count);
  const reason = deltaRefusal(body, left, match.end);
  return { kind: 'extends', items: left, deltaAllowed: reason === null, reason };
}
