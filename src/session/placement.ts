import { continueAnchor, continueLine } from '../transcript/continuation.ts';
import { continuedBy, relate } from '../transcript/line.ts';
import { inputAsSent, planWire } from '../transcript/planner.ts';
import type { WireForm } from '../transcript/types.ts';
import type { Lane } from './lane.ts';
import type { KnownTurn, Turn } from './turn.ts';

/** Returns whether the provider stores the parent's response and accepts it as an anchor from this credential. */
export function anchorStored(turn: Turn): boolean {
  return (
    !turn.anchorRefused &&
    turn.parent !== null &&
    turn.parent.storedUpstream &&
    turn.parent.credentialFp === turn.evidence.credentialFp
  );
}

/**
 * Admits a turn to a lane: fixes parent, expected head and continuation, which become part of the fenced start. If the
 * lane's line is not known, no request can be shown to continue it.
 *
 * @returns false if the turn is anchored to another turn than the head and must be resolved again
 */
export function place(turn: Turn, { headId, head, line }: Pick<Lane, 'headId' | 'head' | 'line'>): boolean {
  const { items } = turn;
  turn.expectedHead = headId;
  const { anchor } = turn.evidence;
  if (anchor !== null) {
    turn.continuation = continueAnchor(items.list);
    // Unknown anchor: pass it through without a parent.
    turn.parent = turn.anchor;
    return turn.anchor === null || turn.anchor.id === turn.expectedHead;
  }
  // The head, or the deepest known ancestor. Using an ancestor that is not the head only avoids storing its items
  // again.
  let match: (KnownTurn & { count: number }) | null = null;
  for (const known of [head && line && { row: head, line }, turn.ancestor]) {
    const count = known ? continuedBy(known.line, items) : null;
    if (known && count !== null && (match === null || count > match.count)) match = { ...known, count };
  }
  const { responseId = null, contextFp = '' } = match?.row ?? {};
  const from = match && { end: { responseId, contextFp }, count: match.count };
  turn.continuation = continueLine(turn.evidence.contextFp, items.list, from);
  turn.parent = match?.row ?? null;
  turn.parentLine = match?.line ?? null;
  return true;
}

/**
 * Returns the form in which this turn is sent on a socket that can continue from `socketAnchor`.
 *
 * @param socketAnchor response id from which the socket can continue; null for a fresh socket
 */
export function planFor(turn: Turn, socketAnchor: string | null): WireForm {
  const { anchor } = turn.evidence;
  const { request } = turn;
  if (anchor !== null && turn.parent === null) {
    // Unknown anchor: only the provider may know it, and the credential is the client's own. Send it unchanged.
    return { form: 'delta', previousResponseId: anchor, ...inputAsSent(request) };
  }
  return planWire({
    request,
    continuation: turn.continuation!,
    parentResponseId: turn.parent?.responseId ?? null,
    // A socket can only continue the head. Providers may reuse ids, so an equal id does not prove that another turn is
    // held.
    socketAnchor: turn.parent?.id === turn.expectedHead ? socketAnchor : null,
    anchorStored: anchorStored(turn),
    history: turn.history,
    contents: turn.contents,
  });
}

/** Returns whether one list of hashes is a non-empty prefix of the other. */
function shareBeginning(one: readonly string[], other: readonly string[]): boolean {
  const length = Math.min(one.length, other.length);
  return length > 0 && one.slice(0, length).every((hash, index) => hash === other[index]);
}

/**
 * Returns whether a request under a shared session header belongs to the conversation of this lane: it repeats or
 * extends a running, waiting or undelivered turn, carries the same client turn id, or its items continue the lane's
 * line or end within it.
 */
export function isRelated(turn: Turn, lane: Lane): boolean {
  for (const other of [lane.current ?? lane.undelivered, ...lane.waiting]) {
    if (!other) continue;
    const { requestFp, clientTurnId } = other.evidence;
    if (requestFp === turn.evidence.requestFp) return true;
    if (clientTurnId !== null && clientTurnId === turn.evidence.clientTurnId) return true;
    if (other.evidence.anchor === null && shareBeginning(other.items.hashes, turn.items.hashes)) return true;
  }
  return lane.line !== null && relate(lane.line, turn.items) !== null;
}
