import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import type { AttemptFact, Decision } from '../resolve/types.ts';
import type { SessionStore } from '../store/port.ts';
import type { HopTarget, Peers } from './peers.ts';
import type { Rest } from './rest.ts';
import type { Turn } from './turn.ts';

export interface ElsewhereOptions {
  store: SessionStore;
  clock: Clock;
  deadlines: Config['deadlines'];
  peers: Peers;
  rest: Rest;
  /** Another worker took the request: what bounds its placing ends, what is left is the stream's. */
  onAccepted(turn: Turn): void;
}

/** `done`: the client has its answer, or has gone. `again`: nothing was learned, the rows have to be read again. */
export type WentElsewhere = 'done' | 'again' | AttemptFact;

/** What concerns other workers: handing requests over, waiting for silent owners, leaving. */
export function createElsewhere({ store, clock, deadlines, peers, rest, onAccepted }: ElsewhereOptions) {
  const outgoing = new Map<Turn, AbortController>();

  const ownerLost = (turn: Turn): 'done' => {
    turn.fail(new BridgeError('bridge_owner_lost'));
    return 'done';
  };

  /**
   * Hands the request to a worker. A hop that fails says nothing of that worker: while it may be running the turn it is
   * asked again by the turn's id, so that it takes up what it has begun and begins what it has not.
   */
  async function hop(turn: Turn, target: Omit<HopTarget, 'attempt' | 'turnId'>): Promise<WentElsewhere> {
    const { sink } = turn.stream;
    const { workerId, sessionId } = target;
    const patience = peers.patience(workerId);
    const wanted = new AbortController();
    outgoing.set(turn, wanted);
    try {
      for (;;) {
        const attempt = turn.hops;
        turn.hops += 1;
        const result = await peers.forward({ ...target, turnId: turn.id, attempt }, turn.request, sink, {
          patience,
          signal: wanted.signal,
          onAccepted() {
            turn.awaitedSince = null;
            onAccepted(turn);
          },
        });
        switch (result.kind) {
          case 'served':
            turn.served(result.terminal);
            return 'done';
          case 'client_gone':
            turn.fail(new BridgeError('bridge_turn_cancelled'));
            return 'done';
          case 'not_owner':
            return { kind: 'not_owner', sessionId: sessionId ?? '', workerId };
        }
        if (result.kind === 'broken' || result.sent) turn.maybeAt = target;
        // What was shown cannot be taken back.
        if (sink.committed) return ownerLost(turn);
        const again = result.again && (await patience.ask()) === 'slow' && (await rest(turn));
        if (turn.stream.finished) return 'done';
        if (again) continue;
        if (await hasStarted(turn)) return ownerLost(turn);
        return { kind: 'unreachable', workerId };
      }
    } finally {
      outgoing.delete(turn);
    }
  }

  /** Whether another worker has started this very turn. */
  async function hasStarted(turn: Turn): Promise<boolean> {
    return turn.maybeAt !== null && (await store.turn(turn.id)) !== null;
  }

  /** Nothing that was sent to that worker for that session can start any more. */
  async function isFenced({ workerId, sessionId, epoch }: NonNullable<Turn['maybeAt']>): Promise<boolean> {
    if (sessionId !== null) {
      const row = await store.session(sessionId);
      if (row?.ownerWorkerId !== workerId || row.epoch !== epoch) return true;
    }
    return (await peers.judge(workerId)) === 'dead';
  }

  return {
    /** Hands the request to the session's owner, naming the epoch. */
    async forward(turn: Turn, { session, workerId }: Extract<Decision, { do: 'forward' }>): Promise<WentElsewhere> {
      const url = await peers.address(workerId);
      if (url === null) return { kind: 'unreachable', workerId };
      return hop(turn, { workerId, url, mode: 'run', sessionId: session.id, epoch: session.epoch });
    },

    /** A worker that leaves gives what it would have to create or claim to one that stays; null when there is none. */
    async giveAway(turn: Turn): Promise<WentElsewhere | null> {
      const peer = await peers.serving();
      if (!peer) return null;
      return hop(turn, { ...peer, mode: 'resolve', sessionId: null, epoch: null });
    },

    /**
     * "Maybe delivered" becomes "not started" only once the worker that may have it is fenced, by its stored death or
     * because the session is not its own any more, and no turn of this id exists. A turn that does exist is never run
     * again.
     *
     * @returns `no`: the client has been answered. `unsure`: it has to be looked at again
     */
    async mayRunHere(turn: Turn, claimed: string | null): Promise<'yes' | 'no' | 'unsure'> {
      const at = turn.maybeAt;
      if (at === null) return 'yes';
      const fenced = (claimed !== null && claimed === at.sessionId) || (await isFenced(at));
      if (await hasStarted(turn)) {
        ownerLost(turn);
        return 'no';
      }
      if (!fenced) return 'unsure';
      turn.maybeAt = null;
      return 'yes';
    },

    /**
     * A session that only its silent owner can serve: one look at whether its death is, or can be made, a stored fact. If
     * not, what was learned of that owner is of the past by the next look: it is asked again.
     */
    async awaitOwner(turn: Turn, decision: Extract<Decision, { do: 'await_owner' }>): Promise<WentElsewhere> {
      const { workerId, retryAfterSeconds, session } = decision;
      turn.awaitedSince ??= clock.now();
      const until = Math.min(turn.awaitedSince + deadlines.ownerWait, turn.times.received + deadlines.requestHold);
      const judged = await peers.judge(workerId);
      if (judged !== 'dead' && clock.now() >= until) {
        turn.outcome = 'wrong_instance';
        throw new BridgeError('bridge_wrong_instance', { retryAfterSeconds });
      }
      turn.forget((fact) =>
        fact.kind === 'not_owner' || fact.kind === 'busy'
          ? fact.sessionId === session.id
          : fact.kind === 'unreachable' && fact.workerId === workerId,
      );
      return 'again';
    },

    /** The turn has ended: what another worker would answer is not wanted any more. */
    ended(turn: Turn): void {
      outgoing.get(turn)?.abort();
    },
  };
}
