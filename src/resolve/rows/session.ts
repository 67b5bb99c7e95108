import { isStreaming } from '../situation.ts';
import { claim, expired, fork, isClaimable, lane, queueBehind, type Row, strong, use } from './row.ts';

/** Rows for sessions that this worker owns or may claim: first while busy, then idle. */
export const sessionRows: readonly Row[] = [
  {
    id: 'queue_full',
    outcome: 'parallel_lane',
    when: 'As below, but its queue is full and the request names no anchor.',
    does: 'Runs beside it in a short-lived session without keys: nothing ties it to this socket.',
    decide(situation) {
      const live = strong(situation)?.live;
      if (!live?.queueFull || !strong(situation)?.busy || isStreaming(live)) return null;
      return situation.evidence.anchor === null ? lane(situation) : null;
    },
  },
  {
    id: 'queued',
    outcome: 'live_reuse',
    when: 'The session here waits for a socket, a start or a settle.',
    does: 'Queued until that is decided, then placed; refused with Retry-After when the queue is full.',
    decide(situation) {
      const found = strong(situation);
      return found?.live && found.busy && !isStreaming(found.live) ? queueBehind(found.live) : null;
    },
  },
  {
    id: 'busy_anchored',
    outcome: 'forked',
    when: 'The anchor is the head of a session here in which another turn is on the wire.',
    does: 'A session of its own starts at that turn if its context is exact or stored upstream; else fails closed.',
    decide({ candidate, ...rest }) {
      if (candidate?.by !== 'anchor' || !candidate.live || !candidate.busy) return null;
      return fork({ candidate, ...rest });
    },
  },
  {
    id: 'superseded',
    outcome: 'superseded',
    when: 'Token or hard key name a session here whose running turn no client reads any more.',
    does: 'That turn is cancelled, its socket retired, and this request runs.',
    decide(situation) {
      const found = strong(situation);
      if (!found?.live || !found.busy || found.live.clientAttached) return null;
      return { do: 'supersede', outcome: 'superseded', sessionId: found.live.sessionId, epoch: found.live.epoch };
    },
  },
  {
    id: 'parallel_lane',
    outcome: 'parallel_lane',
    when: 'Token or hard key name a session here whose running turn has a client.',
    does: 'Runs beside it in a short-lived session without keys.',
    decide(situation) {
      const found = strong(situation);
      return found?.live && found.busy ? lane(situation) : null;
    },
  },
  {
    id: 'live_reuse',
    outcome: 'live_reuse',
    when: 'The session is live and idle here; no anchor, or its socket holds it, or its context is exact or stored.',
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
    when: 'Nobody runs the session; no anchor, or its context is exact or stored upstream.',
    does: 'Claimed under a new epoch and reconnected; a turn that a dead owner left active becomes lost.',
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
    does: 'Fails closed: the client sends the whole conversation again.',
    decide: ({ candidate }) => (candidate?.by === 'anchor' ? expired : null),
  },
];
