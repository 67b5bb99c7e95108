import { typeOf } from './items.ts';
import type { Fingerprint, Item } from './types.ts';

/** A beginning of a request's items, by their count and chain fingerprint. */
export interface Beginning {
  itemCount: number;
  transcriptFp: Fingerprint;
}

/** More are never asked for: the deepest match wins, so the longest come first. */
const MOST = 256;

const clientRoles = new Set(['user', 'system', 'developer']);

/** An item that a client adds; a known turn's transcript ends before it, with something the model said. */
function isFromClient(item: Item): boolean {
  const type = typeOf(item);
  if (type === 'message') return clientRoles.has(String(item.role));
  return type.endsWith('_output') || type.endsWith('_response');
}

/**
 * Where in these items a known turn may have ended: after something the model said, or at the very end of what was there
 * before the newest item (a warm-up says nothing).
 *
 * @param chain fingerprints of every prefix; entry n covers the first n items
 */
export function plausibleBeginnings(items: readonly Item[], chain: readonly Fingerprint[]): Beginning[] {
  const found: Beginning[] = [];
  for (let count = items.length; count > 0 && found.length < MOST; count -= 1) {
    if (count < items.length - 1 && isFromClient(items[count - 1]!)) continue;
    found.push({ itemCount: count, transcriptFp: chain[count]! });
  }
  return found;
}
