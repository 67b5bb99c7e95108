import type { TurnRow } from '../store/port.ts';
import { continueAnchor, continueLine, deepestMatch } from '../transcript/continuation.ts';
import { prefixesOf } from '../transcript/fingerprint.ts';
import { inputAsSent, normaliseInput } from '../transcript/items.ts';
import { planWire } from '../transcript/planner.ts';
import type { Fingerprint, LineEnd, WireForm } from '../transcript/types.ts';
import type { Turn } from './turn.ts';

/** The end of a lineage as the planner compares against it; null while the turn's content is not known. */
export function lineEnd(turn: TurnRow | null): LineEnd | null {
  if (!turn || turn.transcriptFp === null || turn.itemCount === null) return null;
  const { id: turnId, responseId, transcriptFp, itemCount, contextFp } = turn;
  return { turnId, responseId, transcriptFp, itemCount, contextFp };
}

/** The provider keeps this turn's response, and it was made with the credential that asks now. */
export function anchorStored(turn: Turn): boolean {
  return (
    !turn.anchorRefused &&
    turn.parent !== null &&
    turn.parent.storedUpstream &&
    turn.parent.credentialFp === turn.evidence.credentialFp
  );
}

/** Fingerprints of every prefix of the request's items; computed once a turn, since it reads every item. */
export function chainOf(turn: Turn): readonly Fingerprint[] {
  turn.chain ??= prefixesOf(normaliseInput(turn.request.body.input));
  return turn.chain;
}

/**
 * Admits a turn to a lane whose head is `head`: parent, expected head and continuation are fixed here and become part
 * of the fenced start. False: the turn is anchored to something that is not the head; it must be resolved again.
 */
export function place(turn: Turn, head: TurnRow | null): boolean {
  const { body, text } = turn.request;
  turn.expectedHead = head?.id ?? null;
  const { anchor } = turn.evidence;
  if (anchor !== null) {
    turn.continuation = continueAnchor(body, text);
    // An anchor nobody here knows stands for itself: its past is not ours to name.
    turn.parent = turn.anchor;
    return turn.anchor === null || turn.anchor.id === turn.expectedHead;
  }
  // The head, or else the deepest ancestor known anywhere: the latter only spares storing its items again.
  const rows = [head, turn.ancestor].filter((row) => row !== null);
  const ends = rows.flatMap((row) => {
    const end = lineEnd(row);
    return end ? [{ ...end, row }] : [];
  });
  const match = ends.length === 0 ? null : deepestMatch(chainOf(turn), ends);
  turn.continuation = continueLine(body, text, match);
  turn.parent = match?.row ?? null;
  return true;
}

/** The form this turn takes on a socket that can continue from `socketAnchor` (null: a fresh one). */
export function planFor(turn: Turn, socketAnchor: string | null): WireForm {
  const { anchor } = turn.evidence;
  const { body, text } = turn.request;
  if (anchor !== null && turn.parent === null) {
    // Not in our rows: only the provider can know it, and the credential is the client's own.
    return { form: 'delta', previousResponseId: anchor, ...inputAsSent(body, text) };
  }
  return planWire({
    body,
    text,
    continuation: turn.continuation!,
    parentResponseId: turn.parent?.responseId ?? null,
    socketAnchor,
    anchorStored: anchorStored(turn),
    history: turn.history,
  });
}
