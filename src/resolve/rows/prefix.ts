import { askOwner, claim, create, fresh, isClaimable, lane, queueBehind, type Row, use, weak } from './row.ts';

/**
 * Rows for requests that only their transcript connects with a session. It may be continued at its head; no running
 * turn is cancelled or delayed for it.
 */
export const prefixRows: readonly Row[] = [
  {
    id: 'prefix_settling',
    outcome: 'live_reuse',
    when: 'The input continues a transcript whose session here is settling a turn.',
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
    does: 'Runs beside it: a common beginning does not make two callers one.',
    decide(situation) {
      return weak(situation)?.busy ? lane(situation) : null;
    },
  },
  {
    id: 'prefix_elsewhere',
    outcome: 'forwarded',
    when: "The input continues another live worker's idle session at its head, or came under a session header; the instance policy is `forward`.",
    does: 'Forwarded there, where the socket is warm.',
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
    when: 'The input continues the head of a session that is idle here.',
    does: 'The same socket is used.',
    decide(situation) {
      const found = weak(situation);
      return found?.live && found.atHead ? use(situation, found.live) : null;
    },
  },
  {
    id: 'prefix_stale',
    outcome: 'stale_recovery',
    when: 'The input continues the head of a session that nobody runs.',
    does: 'Claimed under a new epoch and reconnected.',
    decide(situation) {
      const found = weak(situation);
      return found?.atHead && isClaimable(found) ? claim(situation, found) : null;
    },
  },
  {
    id: 'prefix_edited',
    outcome: 'live_reuse',
    when: 'The input continues an older turn of a session that is idle here, and came under a session header.',
    does: 'The same socket is used: its client has edited the conversation, and leaves no second session behind.',
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
    when: 'Nothing is known.',
    does: 'A new session, under the hard key if the request carries one.',
    decide: fresh,
  },
];
