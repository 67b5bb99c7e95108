import type { SessionReads, TurnItems } from '../store/port.ts';
import { buildReplay } from '../transcript/replay.ts';
import type { Item } from '../transcript/types.ts';
import type { Turn } from './turn.ts';

const parse = (json: string) => JSON.parse(json) as Item[];

/**
 * The exact items of a lineage, root first, ready to be sent in front of new ones. Null when any of them is missing or
 * cannot be said again exactly: then there is no approximation.
 */
export function itemsOf(turns: readonly TurnItems[]): readonly Item[] | null {
  // A line that begins below its root has lost ancestors: what is left would pass for the whole.
  if (turns[0]?.turn.parentTurnId !== null) return null;
  const parts = [];
  for (const { turn, input, output } of turns) {
    if (input === null || output === null) return null;
    parts.push({
      input: parse(input),
      output: parse(output),
      replay: turn.replay,
      storedUpstream: turn.storedUpstream,
    });
  }
  const replay = buildReplay(parts, []);
  return replay.kind === 'exact' ? replay.items : null;
}

/** Loads the lineage of the turn's parent. Throws `StoreUnavailable`. */
export async function loadHistory(store: SessionReads, turn: Turn): Promise<readonly Item[] | null> {
  return turn.parent === null ? null : itemsOf(await store.lineage(turn.evidence.scope, turn.parent.id));
}
