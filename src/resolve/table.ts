import type { KeyRef, TurnRow } from '../store/port.ts';
import {
  type Candidate,
  isStreaming,
  leaseSeconds,
  mayBeParent,
  mayReattach,
  type OwnerStanding,
  remoteRepeat,
  type Situation,
  sameIdempotencyKey,
  survey,
  tellsRepeats,
} from './situation.ts';
import type { Decision, Evidence, Facts, LocalSession, Outcome } from './types.ts';

/** One row of the resolution table. */
export interface Row {
  /** Stable name for the log and the documentation. */
  id: string;
  /**
   * Outcome that is reported to the client. If a session serves a request that must go over plain HTTP,
   * `passed_through` is reported instead.
   */
  outcome: Outcome;
  /** Condition of the row, as a sentence. */
  when: string;
  /** Action of the row, as a sentence. */
  does: string;
  /** Returns the decision, or null if the row does not match. Pure. */
  decide(situation: Situation): Decision | null;
}

type CreateOutcome = Extract<Decision, { do: 'create' }>['outcome'];

/** Refusal of a request whose continuity is lost. */
export const expired: Decision = { do: 'refuse', outcome: 'expired_continuity', code: 'bridge_session_expired' };

/**
 * Returns the decision to create a session.
 *
 * @param parent turn at which the session starts
 */
export function create(
  { evidence }: Situation,
  outcome: CreateOutcome,
  keys: readonly KeyRef[],
  parent: TurnRow | null,
): Decision {
  return { do: 'create', outcome: evidence.passThrough === null ? outcome : 'passed_through', keys, parent };
}

/**
 * Returns the decision to create a session that starts at the anchor, or an explicit error if the anchor's context is
 * not available.
 */
export function fork(situation: Situation): Decision {
  return situation.answerable ? create(situation, 'forked', [], situation.anchor) : expired;
}

/**
 * Returns the decision to create a parallel session beside one that cannot serve the request now. It has no keys, so
 * that it is never found in place of the other one.
 */
export function parallelLane(situation: Situation): Decision {
  return create(situation, 'parallel_lane', [], situation.prefixTurn);
}

/** Returns the decision to create a session, under the hard key if no open session has it. */
export function fresh(situation: Situation): Decision {
  const { evidence, facts } = situation;
  // The key stays with the conversation that already has it.
  const keys = evidence.hardKey && facts.apart !== true ? [evidence.hardKey] : [];
  return create(situation, 'created', keys, situation.prefixTurn);
}

/** Returns the decision to queue behind the session's current turn, or to refuse if its queue is full. */
export function queueBehind({ sessionId, epoch, queueFull }: LocalSession): Decision {
  if (queueFull) return { do: 'refuse', outcome: 'refused', code: 'bridge_queue_full' };
  return { do: 'queue', outcome: 'live_reuse', sessionId, epoch };
}

/** Returns the decision to use a session that is idle here. */
export function use({ evidence, anchor }: Situation, { sessionId, epoch }: LocalSession): Decision {
  const outcome = evidence.passThrough === null ? 'live_reuse' : 'passed_through';
  return { do: 'use', outcome, sessionId, epoch, anchor };
}

/** Returns the decision to claim a session. */
export function claim({ evidence, anchor }: Situation, { session, owner }: Candidate): Decision {
  const outcome = evidence.passThrough === null ? 'stale_recovery' : 'passed_through';
  const ownOrphan = owner === 'me' && session.activeTurnId !== null;
  return { do: 'claim', outcome, session, anchor, ownOrphan };
}

/**
 * Returns the decision to forward to the owner; under the instance policy `reject`, a refusal for the sticky router in
 * front.
 */
export function askOwner({ facts }: Situation, { session }: Candidate): Decision {
  const workerId = session.ownerWorkerId!;
  if (facts.instancePolicy === 'forward') return { do: 'forward', outcome: 'forwarded', session, workerId };
  const retryAfterSeconds = leaseSeconds(facts.rows.owners.get(workerId)?.leaseLeftMs);
  return { do: 'refuse', outcome: 'wrong_instance', code: 'bridge_wrong_instance', retryAfterSeconds };
}

/** Returns the decision to wait until a silent owner answers or is declared dead. */
export function awaitOwner({ facts }: Situation, { session }: Candidate): Decision {
  const workerId = session.ownerWorkerId!;
  const retryAfterSeconds = leaseSeconds(facts.rows.owners.get(workerId)?.leaseLeftMs);
  return { do: 'await_owner', outcome: 'stale_recovery', session, workerId, retryAfterSeconds };
}

/**
 * Returns whether it will soon be known if the owner is alive: its heartbeat is overdue, or its death is about to be
 * stored.
 */
export const isLate = (owner: OwnerStanding): boolean => owner === 'overdue' || owner === 'unrecorded';

/** Returns whether the owner is another worker that cannot be asked now and whose death is not stored. */
export const isUnsure = (owner: OwnerStanding): boolean => owner === 'silent' || owner === 'denies' || isLate(owner);

/** Returns the candidate if stronger evidence than the transcript led to it. */
export function strong({ candidate }: Situation): Candidate | null {
  return candidate && candidate.by !== 'prefix' ? candidate : null;
}

/**
 * Returns the candidate if only its transcript led to it. A candidate that is merely similar to the request is used
 * only if it is idle and the similarity reaches its head: then no other conversation is affected.
 */
export function weak({ candidate, onlyLike }: Situation): Candidate | null {
  if (candidate?.by !== 'prefix') return null;
  return onlyLike && (candidate.busy || !candidate.atHead) ? null : candidate;
}

/**
 * Returns whether the session may be claimed because no live worker can be running it. A busy session may be claimed
 * only if it has no owner, this worker owns it, or its owner is dead. An idle one also if its owner denies it or cannot
 * be reached, but never if the owner's heartbeat is merely overdue.
 */
export function isClaimable({ owner, live, busy }: Candidate): boolean {
  if (live || owner === 'answers' || isLate(owner)) return false;
  return !busy || owner === 'none' || owner === 'me' || owner === 'dead';
}

/** Returns the actor of this scope that has shown this response id and is waiting for the answer to its settle. */
function unsettledAt({ evidence: { anchor, scope }, facts }: Situation): LocalSession | null {
  for (const actor of facts.local.values()) {
    // Compatible providers reuse ids: an equal id in another scope means nothing.
    if (actor.scope === scope && actor.unsettledResponseIds.includes(anchor!)) return actor;
  }
  return null;
}

/** Rows that apply before any session is considered: the token, retries that identify themselves, and unknown anchors. */
export const admissionRows: readonly Row[] = [
  {
    id: 'token_invalid',
    outcome: 'token_invalid',
    when: 'The turn-state token claims to be issued here but does not verify, or was issued to another tenant.',
    does: 'Refused; nothing is opened.',
    decide: ({ evidence }) =>
      evidence.token.kind === 'invalid'
        ? { do: 'refuse', outcome: 'token_invalid', code: 'bridge_token_invalid' }
        : null,
  },
  {
    id: 'same_idempotency_key',
    outcome: 'reattached',
    when: 'A turn of this scope for the same request, with the same Idempotency-Key, runs on this worker or ended undelivered.',
    does: 'The stream is shown from its start, then live, without a second generation.',
    decide(situation) {
      const actor = situation.facts.idempotent;
      if (!actor || actor.scope !== situation.evidence.scope) return null;
      if (!sameIdempotencyKey(situation, actor) || !mayReattach(situation, actor)) return null;
      return { do: 'reattach', outcome: 'reattached', sessionId: actor.sessionId, epoch: actor.epoch };
    },
  },
  {
    id: 'repeat_unread',
    outcome: 'reattached',
    when: 'The request is marked as a repeat or names that session; the same request, with the same parent, runs on this worker or ended undelivered, its client has left, and its buffer is complete.',
    does: 'The stream is shown from its start, then live: a repeat costs no second generation.',
    decide(situation) {
      const actor = situation.facts.repeated;
      if (!actor || actor.scope !== situation.evidence.scope) return null;
      const named = strong(situation)?.session.id === actor.sessionId;
      if (!named && (actor.clientAttached || !tellsRepeats(situation.evidence))) return null;
      if (!mayReattach(situation, actor)) return null;
      return { do: 'reattach', outcome: 'reattached', sessionId: actor.sessionId, epoch: actor.epoch };
    },
  },
  {
    id: 'repeat_elsewhere',
    outcome: 'forwarded',
    when: 'As above, but the same request was started by another live worker; the instance policy is `forward`.',
    does: 'Forwarded to that worker, which alone knows whether the stream can be resumed.',
    decide(situation) {
      const { evidence, facts } = situation;
      const found = facts.instancePolicy === 'forward' ? remoteRepeat(situation) : null;
      if (!found) return null;
      const { turn, author } = found;
      if (!tellsRepeats(evidence) && strong(situation)?.session.id !== turn.sessionId) return null;
      const session = { id: turn.sessionId, scope: turn.scope, epoch: turn.epoch };
      return { do: 'forward', outcome: 'forwarded', session, workerId: author.id };
    },
  },
  {
    id: 'foreign_conversation',
    outcome: 'expired_continuity',
    when: 'The request names a provider-side conversation that the scope did not make, under a shared credential.',
    does: 'Fails closed: nothing shows that the conversation belongs to this scope.',
    decide({ evidence, facts }) {
      const isShared = evidence.passThrough === 'conversation' && !evidence.credentialIsClients;
      return isShared && facts.ownsConversation !== true ? expired : null;
    },
  },
  {
    id: 'foreign_object',
    outcome: 'refused',
    when: 'The request names an object at the provider that this scope did not create, under a shared credential.',
    does: 'Refused, with the path of the field: nothing shows that the object belongs to this scope.',
    decide({ evidence, facts }) {
      const param = evidence.foreign ?? facts.foreignReference ?? null;
      if (param === null || evidence.credentialIsClients) return null;
      return { do: 'refuse', outcome: 'refused', code: 'bridge_foreign_object', param };
    },
  },
  {
    id: 'anchor_unsettled',
    outcome: 'live_reuse',
    when: 'The anchor is the response of a turn on this worker whose settle is still unanswered.',
    does: 'Waits for that settle, then is resolved again; refused with Retry-After if the queue is full.',
    decide(situation) {
      const actor = situation.anchorUnknown ? unsettledAt(situation) : null;
      return actor && queueBehind(actor);
    },
  },
  {
    id: 'anchor_unknown_owner_busy',
    outcome: 'forwarded',
    when: 'The anchor is unknown, but the token or hard key names a session that is busy at another live worker.',
    does: 'Forwarded to that worker: the anchor may be a turn that has not settled yet.',
    decide(situation) {
      const busy = situation.bystanders.find(({ owner, busy }) => owner === 'answers' && busy);
      return busy ? askOwner(situation, busy) : null;
    },
  },
  {
    id: 'anchor_unknown_owner_awaited',
    outcome: 'stale_recovery',
    when: 'As above, but that worker does not answer and is not known to be dead.',
    does: 'Waits, for a limited time, until it answers or is declared dead: until then the anchor may still exist.',
    decide(situation) {
      const busy = situation.bystanders.find(({ owner, busy }) => busy && (owner === 'silent' || isLate(owner)));
      return busy ? awaitOwner(situation, busy) : null;
    },
  },
  {
    id: 'anchor_unknown_shared_credential',
    outcome: 'expired_continuity',
    when: 'The anchor is unknown in this scope and the upstream credential is shared.',
    does: 'Fails closed with the same bytes whether or not the id exists in another scope; nothing is sent upstream.',
    decide: ({ evidence, anchorUnknown }) => (anchorUnknown && !evidence.credentialIsClients ? expired : null),
  },
  {
    id: 'anchor_unknown_own_credential',
    outcome: 'created',
    when: "The anchor is unknown in this scope and the credential is the client's own.",
    does: 'Sent unchanged in a session without keys, because the provider may know the id; its answer is relayed.',
    decide: (situation) => (situation.anchorUnknown ? create(situation, 'created', [], null) : null),
  },
  {
    id: 'anchor_not_a_parent',
    outcome: 'expired_continuity',
    when: 'The anchor is a turn that failed, was cancelled or was lost.',
    does: 'Fails closed: such a turn cannot be continued.',
    decide: ({ anchor }) => (anchor && !mayBeParent(anchor) ? expired : null),
  },
  {
    id: 'anchor_without_session',
    outcome: 'forked',
    when: 'The anchor is known, but its session is closed or purged.',
    does: 'A new session starts at that turn if its context is exact or stored upstream; otherwise fails closed.',
    decide: (situation) => (situation.anchor && !situation.candidate ? fork(situation) : null),
  },
];

/**
 * Rows for sessions that another worker owns, and for facts that must be known before a busy session of this worker is
 * considered.
 */
export const ownershipRows: readonly Row[] = [
  {
    id: 'passed_through_aside',
    outcome: 'passed_through',
    when: 'The request must go over plain HTTP and another worker owns its session.',
    does: 'Runs in a new session on this worker if its context is exact or stored upstream; otherwise fails closed.',
    decide(situation) {
      const found = strong(situation);
      const { evidence, anchor, answerable, prefixTurn } = situation;
      if (evidence.passThrough === null || !found || found.live || isClaimable(found)) return null;
      return anchor && !answerable ? expired : create(situation, 'passed_through', [], anchor ?? prefixTurn);
    },
  },
  {
    id: 'wrong_instance',
    outcome: 'wrong_instance',
    when: 'Another live worker owns the session and the instance policy is `reject`.',
    does: 'Refused at once with Retry-After, for the sticky router in front.',
    decide(situation) {
      const found = strong(situation);
      if (found?.owner !== 'answers' || situation.facts.instancePolicy !== 'reject') return null;
      return askOwner(situation, found);
    },
  },
  {
    id: 'forwarded',
    outcome: 'forwarded',
    when: 'Another live worker owns the session.',
    does: 'Proxied to the owner in one hop; the owner applies the rest of this table.',
    decide(situation) {
      const found = strong(situation);
      return found?.owner === 'answers' ? askOwner(situation, found) : null;
    },
  },
  {
    id: 'reattached',
    outcome: 'reattached',
    when: 'The same request, with the same parent, runs on this worker or ended undelivered; its client has left and its buffer is complete.',
    does: 'The stream is shown from its start, then live, without a second generation.',
    decide(situation) {
      const live = strong(situation)?.live;
      if (!live || !mayReattach(situation, live)) return null;
      return { do: 'reattach', outcome: 'reattached', sessionId: live.sessionId, epoch: live.epoch };
    },
  },
  {
    id: 'anchor_not_head',
    outcome: 'forked',
    when: "The anchor is an older turn than its session's head.",
    does: 'A new session starts at that turn if its context is exact or stored upstream; otherwise fails closed.',
    decide: (situation) =>
      situation.candidate?.by === 'anchor' && !situation.candidate.atHead ? fork(situation) : null,
  },
  {
    id: 'anchor_lost',
    outcome: 'expired_continuity',
    when: 'The anchor is the head of a session, and that head cannot be continued.',
    does: 'Fails closed.',
    decide: ({ candidate }) => (candidate?.by === 'anchor' && candidate.session.anchorLost ? expired : null),
  },
  {
    id: 'owner_awaited',
    outcome: 'stale_recovery',
    when: 'A turn is active at a worker that does not answer and is not known to be dead; or the owner, busy or idle, has an overdue heartbeat or lost its row in a failover.',
    does: 'Waits, for a limited time, until that worker answers or is declared dead; then 409 with the rest of its lease as Retry-After.',
    decide(situation) {
      const found = strong(situation);
      if (!found) return null;
      return (found.busy && isUnsure(found.owner)) || isLate(found.owner) ? awaitOwner(situation, found) : null;
    },
  },
  {
    id: 'anchor_held_elsewhere',
    outcome: 'stale_recovery',
    when: 'Only a socket can hold the anchor, and the worker of that socket does not answer and is not known to be dead.',
    does: 'Waits, for a limited time, until the owner answers or is declared dead: until then the continuity may not be lost.',
    decide(situation) {
      const { candidate, answerable, evidence } = situation;
      // An owner that denies the session holds no socket for it.
      if (candidate?.by !== 'anchor' || !isUnsure(candidate.owner) || candidate.owner === 'denies') return null;
      return answerable || evidence.passThrough !== null ? null : awaitOwner(situation, candidate);
    },
  },
];

/** Rows for sessions that this worker owns or may claim: first while busy, then idle. */
export const sessionRows: readonly Row[] = [
  {
    id: 'queue_full',
    outcome: 'parallel_lane',
    when: 'As in the next row, but the queue is full and the request names no anchor.',
    does: 'Runs beside it in a short-lived session without keys: the request does not depend on this socket.',
    decide(situation) {
      const live = strong(situation)?.live;
      if (!live?.queueFull || !strong(situation)?.busy || isStreaming(live)) return null;
      return situation.evidence.anchor === null ? parallelLane(situation) : null;
    },
  },
  {
    id: 'queued',
    outcome: 'live_reuse',
    when: 'The session runs on this worker and waits for a socket, a start or a settle.',
    does: 'Queued until that wait is over, then placed; refused with Retry-After if the queue is full.',
    decide(situation) {
      const found = strong(situation);
      return found?.live && found.busy && !isStreaming(found.live) ? queueBehind(found.live) : null;
    },
  },
  {
    id: 'busy_anchored',
    outcome: 'forked',
    when: 'The anchor is the head of a session on this worker in which another turn is on the wire.',
    does: 'A new session starts at that turn if its context is exact or stored upstream; otherwise fails closed.',
    decide({ candidate, ...rest }) {
      if (candidate?.by !== 'anchor' || !candidate.live || !candidate.busy) return null;
      return fork({ candidate, ...rest });
    },
  },
  {
    id: 'superseded',
    outcome: 'superseded',
    when: 'The token or hard key names a session on this worker whose running turn has lost its client.',
    does: 'That turn is cancelled, its socket is closed, and this request runs.',
    decide(situation) {
      const found = strong(situation);
      if (!found?.live || !found.busy || found.live.clientAttached) return null;
      return { do: 'supersede', outcome: 'superseded', sessionId: found.live.sessionId, epoch: found.live.epoch };
    },
  },
  {
    id: 'parallel_lane',
    outcome: 'parallel_lane',
    when: 'The token or hard key names a session on this worker whose running turn has a client.',
    does: 'Runs beside it in a short-lived session without keys.',
    decide(situation) {
      const found = strong(situation);
      return found?.live && found.busy ? parallelLane(situation) : null;
    },
  },
  {
    id: 'live_reuse',
    outcome: 'live_reuse',
    when: 'The session is live and idle on this worker; the request has no anchor, or the socket holds it, or its context is exact or stored upstream.',
    does: 'The same socket is used.',
    decide(situation) {
      const live = strong(situation)?.live;
      const { evidence, anchor, answerable } = situation;
      if (!live) return null;
      // A turn over plain HTTP does not use the socket, so it cannot use context that only the socket holds.
      const held = evidence.passThrough === null && live.socketAnchor === evidence.anchor;
      return anchor === null || held || answerable ? use(situation, live) : null;
    },
  },
  {
    id: 'stale_recovery',
    outcome: 'stale_recovery',
    when: 'No worker runs the session; the request has no anchor, or its context is exact or stored upstream.',
    does: 'Claimed under a new epoch and reconnected; a turn that a dead owner left active is settled as lost.',
    decide(situation) {
      const found = strong(situation);
      if (!found || !isClaimable(found)) return null;
      return situation.anchor === null || situation.answerable ? claim(situation, found) : null;
    },
  },
  {
    id: 'anchor_expired',
    outcome: 'expired_continuity',
    when: 'No socket holds the anchor, it is not stored upstream, and its context cannot be rebuilt exactly.',
    does: 'Fails closed: the client has to send the whole conversation again.',
    decide: ({ candidate }) => (candidate?.by === 'anchor' ? expired : null),
  },
];

/**
 * Rows for requests that only their transcript connects with a session. It may be continued at its head; no running
 * turn is cancelled or delayed for it.
 */
export const prefixRows: readonly Row[] = [
  {
    id: 'prefix_settling',
    outcome: 'live_reuse',
    when: 'The input continues a transcript whose session, on this worker, is settling a turn.',
    does: 'Queued: the turn being settled may be the one the input continues.',
    decide(situation) {
      const live = weak(situation)?.live;
      return live?.busy && live.state.includes('settling') && !live.queueFull ? queueBehind(live) : null;
    },
  },
  {
    id: 'prefix_busy',
    outcome: 'parallel_lane',
    when: 'The input continues a transcript whose session is busy.',
    does: 'Runs beside it: two callers may have conversations with the same beginning.',
    decide(situation) {
      return weak(situation)?.busy ? parallelLane(situation) : null;
    },
  },
  {
    id: 'prefix_elsewhere',
    outcome: 'forwarded',
    when: "The input continues another live worker's idle session, at its head or under a session header; the instance policy is `forward`.",
    does: 'Forwarded to that worker, which may have an open socket.',
    decide(situation) {
      const found = weak(situation);
      const { evidence, facts } = situation;
      if (found?.owner !== 'answers' || evidence.passThrough !== null) return null;
      // An edited conversation under a session header stays in its session, on whichever worker: it leaves no second
      // session behind.
      if (!found.atHead && evidence.hardKey === null) return null;
      return facts.instancePolicy === 'forward' ? askOwner(situation, found) : null;
    },
  },
  {
    id: 'prefix_live',
    outcome: 'live_reuse',
    when: 'The input continues the head of a session that is idle on this worker.',
    does: 'The same socket is used.',
    decide(situation) {
      const found = weak(situation);
      return found?.live && found.atHead ? use(situation, found.live) : null;
    },
  },
  {
    id: 'prefix_stale',
    outcome: 'stale_recovery',
    when: 'The input continues the head of a session that no worker runs.',
    does: 'Claimed under a new epoch and reconnected.',
    decide(situation) {
      const found = weak(situation);
      return found?.atHead && isClaimable(found) ? claim(situation, found) : null;
    },
  },
  {
    id: 'prefix_edited',
    outcome: 'live_reuse',
    when: 'The input continues an older turn of a session that is idle on this worker, under a session header.',
    does: 'The same socket is used: the client has edited the conversation, so a second session is not needed.',
    decide(situation) {
      const found = weak(situation);
      return found?.live && situation.evidence.hardKey !== null ? use(situation, found.live) : null;
    },
  },
  {
    id: 'prefix_older',
    outcome: 'forked',
    when: 'The input continues a turn that is not the head, or whose session belongs to another worker.',
    does: 'A session of its own starts at that turn.',
    decide: (situation) => (weak(situation) ? create(situation, 'forked', [], situation.prefixTurn) : null),
  },
  {
    id: 'created',
    outcome: 'created',
    when: 'No earlier row matches.',
    does: 'A new session is created, under the hard key if the request has one.',
    decide: fresh,
  },
];

/** The whole resolution table. The first row that matches decides. */
export const rows: readonly Row[] = [...admissionRows, ...ownershipRows, ...sessionRows, ...prefixRows];

/** A decision and the row that made it, for the log. */
export interface Resolution {
  row: Row;
  decision: Decision;
}

/**
 * Decides a request and names the row that decided. Pure, in one pass. Facts from failed attempts are passed in again,
 * and the caller bounds the number of attempts (three for one request, then `bridge_conflict`).
 *
 * An anchor is continued exactly or not at all: weaker evidence may select a worker, but never the parent.
 *
 * @throws Error if no row matches, which means that the last row was removed
 */
export function explain(evidence: Evidence, facts: Facts): Resolution {
  const situation = survey(evidence, facts);
  for (const row of rows) {
    const decision = row.decide(situation);
    if (decision) return { row, decision };
  }
  // The last row matches every request; this is only reached if it was removed.
  throw new Error('The resolution table has no row for this request.');
}

/** Decides a request from its evidence and the facts at hand. See `explain`. */
export function resolve(evidence: Evidence, facts: Facts): Decision {
  return explain(evidence, facts).decision;
}
