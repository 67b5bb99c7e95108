import { contextFingerprint, prefixesOf } from './fingerprint.ts';
import { normaliseInput, typeOf } from './items.ts';
import type { Continuation, Item, LineEnd, RequestBody } from './types.ts';

/** Server-listed tools live in the context: a delta cannot change the tools beside them. Equal context fields ensure it. */
function deltaRefusal(body: RequestBody, left: readonly Item[], line: LineEnd): string | null {
  if (left.length === 0) return 'nothing new is left';
  if (line.responseId === null) return 'the line has no response id';
  if (contextFingerprint(body) !== line.contextFp) return 'a context field changed';
  if (left.some((item) => typeOf(item) === 'item_reference')) return 'an item reference may point outside the line';
  return null;
}

/**
 * The longest of several known line ends whose transcript is the start of these items: the deepest known ancestor.
 * One pass over the items, whatever the number of candidates.
 */
export function deepestMatch(items: readonly Item[], candidates: readonly LineEnd[]): LineEnd | null {
  const prefixes = prefixesOf(items);
  let deepest: LineEnd | null = null;
  for (const candidate of candidates) {
    if (candidate.itemCount === 0 || prefixes[candidate.itemCount] !== candidate.transcriptFp) continue;
    if (!deepest || candidate.itemCount > deepest.itemCount) deepest = candidate;
  }
  return deepest;
}

/**
 * Where a request continues and what it adds. An anchored request adds its input to the anchor; an unanchored one is
 * compared with the head: if the head's transcript is exactly the start of its input, only what is left over is new.
 * Anything else is a root of its own, sent as the client sent it.
 *
 * @param input.anchor the anchor's line, for a request that is anchored to a known turn
 * @param input.head the lane's head, for a request without an anchor
 */
export function continuationOf(input: { body: RequestBody; anchored: boolean; head: LineEnd | null }): Continuation {
  const { body, anchored, head } = input;
  const items = normaliseInput(body.input);
  if (anchored) return { kind: 'anchored', items };
  const match = head && deepestMatch(items, [head]);
  if (!match) return { kind: 'root', items };
  const left = items.slice(match.itemCount);
  const reason = deltaRefusal(body, left, match);
  return { kind: 'extends', items: left, deltaAllowed: reason === null, reason };
}
