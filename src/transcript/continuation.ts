import type { Continuation, Fingerprint, KnownEnd, ReadItem } from './types.ts';

/** Server-listed tools live in the context: a delta cannot change the tools beside them. Equal context fields ensure it. */
function deltaRefusal(contextFp: Fingerprint, left: readonly ReadItem[], end: KnownEnd): string | null {
  if (left.length === 0) return 'nothing new is left';
  if (end.responseId === null) return 'the line has no response id';
  if (contextFp !== end.contextFp) return 'a context field changed';
  return null;
}

/** An anchored request adds its input to the anchor. */
export function continueAnchor(items: readonly ReadItem[]): Continuation {
  return { kind: 'anchored', items };
}

/**
 * Where an unanchored request continues and what it adds: if a known line is exactly the start of its input, only what is
 * left over is new. Anything else is a root of its own. Either way it may be sent as the client sent it.
 *
 * @param contextFp the request's own
 * @param match the deepest turn that the request continues, and how many of its items belong to that turn's line
 */
export function continueLine(
  contextFp: Fingerprint,
  items: readonly ReadItem[],
  match: { end: KnownEnd; count: number } | null,
): Continuation {
  if (!match) return { kind: 'root', items };
  const left = items.slice(match.count);
  const reason = deltaRefusal(contextFp, left, match.end);
  return { kind: 'extends', items: left, deltaAllowed: reason === null, reason };
}
