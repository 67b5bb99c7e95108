import type { Continuation, Fingerprint, KnownEnd, ReadItem } from './types.ts';

/**
 * Returns why the request cannot be sent as a delta; null when it can. Tools listed by a server are part of the context,
 * and a delta cannot change the tools beside them; equal context fields rule that out.
 */
function deltaRefusal(contextFp: Fingerprint, left: readonly ReadItem[], end: KnownEnd): string | null {
  if (left.length === 0) return 'nothing new is left';
  if (end.responseId === null) return 'the line has no response id';
  if (contextFp !== end.contextFp) return 'a context field changed';
  return null;
}

/** Returns the continuation of an anchored request: its input is added to the anchor. */
export function continueAnchor(items: readonly ReadItem[]): Continuation {
  return { kind: 'anchored', items };
}

/**
 * Returns where an unanchored request continues and what it adds. If a known line is exactly the start of its input, only
 * the remaining items are new. Otherwise it is a root of its own. In both cases it may be sent as the client sent it.
 *
 * @param contextFp the request's own context fingerprint
 * @param match deepest turn that the request continues, and how many of its items belong to that turn's line
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
