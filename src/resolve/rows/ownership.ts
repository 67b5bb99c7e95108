import { mayReattach } from '../situation.ts';
import { askOwner, awaitOwner, create, expired, fork, isClaimable, isLate, isUnsure, type Row, strong } from './row.ts';

/**
 * Rows for sessions that another worker owns, and for facts that must be known before a busy session of this worker is
 * considered.
 */
export const ownershipRows: readonly Row[] = [
  {
    id: 'passed_through_aside',
    outcome: 'passed_through',
    when: 'The request must go over plain HTTP and its session is in the hands of another worker.',
    does: 'Runs in a session of its own here, if its context is exact or stored upstream; else fails closed.',
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
    does: 'Reverse-proxied in one hop; the owner applies the rest of this table.',
    decide(situation) {
      const found = strong(situation);
      return found?.owner === 'answers' ? askOwner(situation, found) : null;
    },
  },
  {
    id: 'reattached',
    outcome: 'reattached',
    when: 'The same request, with the same parent, runs here or ended undelivered; its client is gone and its buffer complete.',
    does: 'The stream is shown from its start, then live; no second generation.',
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
    does: 'A session of its own starts at that turn if its context is exact or stored upstream; else fails closed.',
    decide: (situation) =>
      situation.candidate?.by === 'anchor' && !situation.candidate.atHead ? fork(situation) : null,
  },
  {
    id: 'anchor_lost',
    outcome: 'expired_continuity',
    when: 'The anchor is the head of a session whose head cannot be continued any more.',
    does: 'Fails closed.',
    decide: ({ candidate }) => (candidate?.by === 'anchor' && candidate.session.anchorLost ? expired : null),
  },
  {
    id: 'owner_awaited',
    outcome: 'stale_recovery',
    when: 'A turn is active at a worker that does not answer and is not known to be dead; or, idle too, its heartbeat is overdue, or a failover has lost its row.',
    does: 'Waits, bounded, until that worker answers or is declared dead; else 409 with the rest of its lease as Retry-After.',
    decide(situation) {
      const found = strong(situation);
      if (!found) return null;
      return (found.busy && isUnsure(found.owner)) || isLate(found.owner) ? awaitOwner(situation, found) : null;
    },
  },
  {
    id: 'anchor_held_elsewhere',
    outcome: 'stale_recovery',
    when: 'Only a socket can hold the anchor, and its worker does not answer but is not known to be dead.',
    does: 'Waits, bounded, for the owner’s death to be certain: until then the continuity is not known to be lost.',
    decide(situation) {
      const { candidate, answerable, evidence } = situation;
      // An owner that denies the session holds no socket for it.
      if (candidate?.by !== 'anchor' || !isUnsure(candidate.owner) || candidate.owner === 'denies') return null;
      return answerable || evidence.passThrough !== null ? null : awaitOwner(situation, candidate);
    },
  },
];
