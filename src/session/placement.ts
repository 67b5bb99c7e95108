import type { TurnRow } from '../store/port.ts';
import { continuationOf } from '../transcript/continuation.ts';
import { planWire } from '../transcript/planner.ts';
import type { LineEnd, WireForm } from '../transcript/types.ts';
import type { Turn } from './turn.ts';

type WireInput = Extract<WireForm, { form: 'full' }>['input'];

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

/**
 * Admits a turn to a lane whose head is `head`: parent, expected head and continuation are fixed here and become part
 * of the fenced start. False: the turn is anchored to something that is not the head; it must be resolved again.
 */
export function place(turn: Turn, head: TurnRow | null): boolean {
  turn.expectedHead = head?.id ?? null;
  const { anchor } = turn.evidence;
  if (anchor !== null && turn.anchor !== null) {
    if (turn.anchor.id !== turn.expectedHead) return false;
    turn.parent = turn.anchor;
    turn.continuation = continuationOf({ body: turn.request.body, anchored: true, head: null });
    return true;
  }
  turn.continuation = continuationOf({ body: turn.request.body, anchored: false, head: lineEnd(head) });
  turn.parent = turn.continuation.kind === 'extends' ? head : null;
  return true;
}

/** The form this turn takes on a socket that can continue from `socketAnchor` (null: a fresh one). */
export function planFor(turn: Turn, socketAnchor: string | null): WireForm {
  const { anchor } = turn.evidence;
  if (anchor !== null && turn.parent === null) {
    // Not in our rows: only the provider can know it, and the credential is the client's own.
    return { form: 'delta', previousResponseId: anchor, input: turn.request.body.input as WireInput };
  }
  return planWire({
    body: turn.request.body,
    continuation: turn.continuation!,
    parentResponseId: turn.parent?.responseId ?? null,
    socketAnchor,
    anchorStored: anchorStored(turn),
    history: turn.history,
  });
}
