import type { Written } from '../json.ts';
import { contextFingerprint } from './fingerprint.ts';
import { typeOf, writtenInput } from './items.ts';
import type { Continuation, Fingerprint, Item, LineEnd, RequestBody } from './types.ts';

/** Server-listed tools live in the context: a delta cannot change the tools beside them. Equal context fields ensure it. */
function deltaRefusal(body: RequestBody, left: readonly Written<Item>[], line: LineEnd): string | null {
  if (left.length === 0) return 'nothing new is left';
  if (line.responseId === null) return 'the line has no response id';
  if (contextFingerprint(body) !== line.contextFp) return 'a context field changed';
  if (left.some(({ value }) => typeOf(value) === 'item_reference'))
    return 'an item reference may point outside the line';
  return null;
}

/**
 * The longest of several known line ends whose transcript is the start of the items: the deepest known ancestor.
 *
 * @param chain fingerprints of every prefix of the items
 */
export function deepestMatch<L extends LineEnd>(chain: readonly Fingerprint[], candidates: readonly L[]): L | null {
  let deepest: L | null = null;
  for (const candidate of candidates) {
    if (candidate.itemCount === 0 || chain[candidate.itemCount] !== candidate.transcriptFp) continue;
    if (!deepest || candidate.itemCount > deepest.itemCount) deepest = candidate;
  }
  return deepest;
}

/** An anchored request adds its input to the anchor. */
export function continueAnchor(body: RequestBody, text: string): Continuation {
  return { kind: 'anchored', items: writtenInput(body, text) };
}

/**
 * Where an unanchored request continues and what it adds: if a known transcript is exactly the start of its input, only
 * what is left over is new. Anything else is a root of its own. Either way it may be sent as the client sent it.
 *
 * @param text the body's JSON text
 * @param match the deepest known ancestor, see `deepestMatch`
 */
export function continueLine(body: RequestBody, text: string, match: LineEnd | null): Continuation {
  const items = writtenInput(body, text);
  if (!match) return { kind: 'root', items };
  const left = items.slice(match.itemCount);
  const reason = deltaRefusal(body, left, match);
  return { kind: 'extends', items: left, deltaAllowed: reason === null, reason };
}
