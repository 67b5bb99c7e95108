import type { KeyRef, TurnRow } from '../../store/port.ts';
import { type Candidate, leaseSeconds, type OwnerStanding, type Situation } from '../situation.ts';
import type { Decision, LocalSession, Outcome } from '../types.ts';

/** One row of the resolution table. */
export interface Row {
  /** Stable name, for the log and the documentation. */
  id: string;
  /** The outcome the client is told; requests that must go over plain HTTP read `passed_through` where a session serves. */
  outcome: Outcome;
  /** The situation, as a sentence. */
  when: string;
  /** What is done, as a sentence. */
  does: string;
  /** The decision, or null when the row does not match. Pure. */
  decide(situation: Situation): Decision | null;
}

type CreateOutcome = Extract<Decision, { do: 'create' }>['outcome'];

export const expired: Decision = { do: 'refuse', outcome: 'expired_continuity', code: 'bridge_session_expired' };

/** A session of its own; `parent` is the turn its head starts at. */
export function create(
  { evidence }: Situation,
  outcome: CreateOutcome,
  keys: readonly KeyRef[],
  parent: TurnRow | null,
): Decision {
  return { do: 'create', outcome: evidence.passThrough === null ? outcome : 'passed_through', keys, parent };
}

/** A session of its own whose head is the anchor, or an honest failure when that context cannot be had. */
export function fork(situation: Situation): Decision {
  return situation.answerable ? create(situation, 'forked', [], situation.anchor) : expired;
}

/** A session of its own beside one that cannot serve now. Without keys, it can never be taken for that one. */
export function lane(situation: Situation): Decision {
  return create(situation, 'parallel_lane', [], situation.prefixTurn);
}

/** A new session, under the hard key if that names no open session. */
export function fresh(situation: Situation): Decision {
  const { evidence, facts } = situation;
  // The key stays with the conversation that has it.
  const keys = evidence.hardKey && facts.apart !== true ? [evidence.hardKey] : [];
  return create(situation, 'created', keys, situation.prefixTurn);
}

export function queueBehind({ sessionId, epoch, queueFull }: LocalSession): Decision {
  if (queueFull) return { do: 'refuse', outcome: 'refused', code: 'bridge_queue_full' };
  return { do: 'queue', outcome: 'live_reuse', sessionId, epoch };
}

export function use({ evidence, anchor }: Situation, { sessionId, epoch }: LocalSession): Decision {
  const outcome = evidence.passThrough === null ? 'live_reuse' : 'passed_through';
  return { do: 'use', outcome, sessionId, epoch, anchor };
}

export function claim({ evidence, anchor }: Situation, { session, owner }: Candidate): Decision {
  const outcome = evidence.passThrough === null ? 'stale_recovery' : 'passed_through';
  const ownOrphan = owner === 'me' && session.activeTurnId !== null;
  return { do: 'claim', outcome, session, anchor, ownOrphan };
}

/** Asks the owner, or tells the router in front that it asked the wrong worker. */
export function askOwner({ facts }: Situation, { session }: Candidate): Decision {
  const workerId = session.ownerWorkerId!;
  if (facts.instancePolicy === 'forward') return { do: 'forward', outcome: 'forwarded', session, workerId };
  const retryAfterSeconds = leaseSeconds(facts.rows.owners.get(workerId)?.leaseLeftMs);
  return { do: 'refuse', outcome: 'wrong_instance', code: 'bridge_wrong_instance', retryAfterSeconds };
}

export function awaitOwner({ facts }: Situation, { session }: Candidate): Decision {
  const workerId = session.ownerWorkerId!;
  const retryAfterSeconds = leaseSeconds(facts.rows.owners.get(workerId)?.leaseLeftMs);
  return { do: 'await_owner', outcome: 'stale_recovery', session, workerId, retryAfterSeconds };
}

/** Whether this worker lives is not known yet, and will be: its heartbeat is due, or its death is about to be stored. */
export const isLate = (owner: OwnerStanding): boolean => owner === 'overdue' || owner === 'unrecorded';

/** Another worker that cannot be asked now, and whose death is not a stored fact. */
export const isUnsure = (owner: OwnerStanding): boolean => owner === 'silent' || owner === 'denies' || isLate(owner);

/** The candidate, when stronger evidence than a common beginning led to it. */
export function strong({ candidate }: Situation): Candidate | null {
  return candidate && candidate.by !== 'prefix' ? candidate : null;
}

/**
 * The candidate, when only its transcript led to it. One that is merely like the request serves only where it is free and
 * the likeness reaches its head: there it costs no conversation anything.
 */
export function weak({ candidate, onlyLike }: Situation): Candidate | null {
  if (candidate?.by !== 'prefix') return null;
  return onlyLike && (candidate.busy || !candidate.atHead) ? null : candidate;
}

/**
 * No live worker can be running the session: a busy one may be claimed from the dead only; an idle one also from an owner that
 * says it does not run it or that cannot be reached, but never from one that is merely late.
 */
export function isClaimable({ owner, live, busy }: Candidate): boolean {
  if (live || owner === 'answers' || isLate(owner)) return false;
  return !busy || owner === 'nobody' || owner === 'me' || owner === 'dead';
}
