import type { KeyRef, TurnRow } from '../../store/port.ts';
import { type Candidate, leaseSeconds, type OwnerStanding, type Situation } from '../situation.ts';
import type { Decision, LocalSession, Outcome } from '../types.ts';

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
export function lane(situation: Situation): Decision {
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
  return !busy || owner === 'nobody' || owner === 'me' || owner === 'dead';
}
