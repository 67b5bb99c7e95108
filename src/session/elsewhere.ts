import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import type { AttemptFact, Decision } from '../resolve/types.ts';
import type { SessionStore } from '../store/port.ts';
import type { HopTarget, Peers } from './peers.ts';
import type { Turn } from './turn.ts';

export interface ElsewhereOptions {
  store: SessionStore;
  clock: Clock;
  deadlines: Config['deadlines'];
  peers: Peers;
  /** Another worker took the request: what bounds its placing ends, what is left is the stream's. */
  onAccepted(turn: Turn): void;
}

/** `done`: the client has its answer, or has gone. */
export type WentElsewhere = 'done' | AttemptFact;

/** What concerns other workers: handing requests over, waiting for silent owners, leaving. */
export function createElsewhere({ store, clock, deadlines, peers, onAccepted }: ElsewhereOptions) {
  const ownerLost = (turn: Turn): 'done' => {
    turn.fail(new BridgeError('bridge_owner_lost'));
    return 'done';
  };

  async function hop(turn: Turn, target: HopTarget): Promise<WentElsewhere> {
    const sink = turn.stream.sink;
    let accepted = false;
    const result = await peers.forward(target, turn.request, sink, () => {
      accepted = true;
      onAccepted(turn);
    });
    switch (result.kind) {
      case 'served':
        turn.served();
        return 'done';
      case 'client_gone':
        turn.fail(new BridgeError('bridge_turn_cancelled'));
        return 'done';
      case 'not_owner':
        return { kind: 'not_owner', sessionId: target.sessionId ?? '', workerId: target.workerId };
      case 'unreachable':
      case 'broken':
        turn.maybeStarted ||= accepted || result.kind === 'broken' || result.sent;
        // What was shown cannot be taken back, and what was started must not be run again.
        if (sink.committed || (await hasStarted(turn))) return ownerLost(turn);
        return { kind: 'unreachable', workerId: target.workerId };
    }
  }

  /** Whether another worker has started this very turn. */
  async function hasStarted(turn: Turn): Promise<boolean> {
    return turn.maybeStarted && (await store.turn(turn.id)) !== null;
  }

  return {
    /** Hands the request to the session's owner, naming the epoch. */
    async forward(turn: Turn, { session, workerId }: Extract<Decision, { do: 'forward' }>): Promise<WentElsewhere> {
      const url = await peers.address(workerId);
      if (url === null) return { kind: 'unreachable', workerId };
      const { id: sessionId, epoch } = session;
      return hop(turn, { workerId, url, mode: 'run', sessionId, epoch, turnId: turn.id });
    },

    /** A worker that leaves gives what it would have to create or claim to one that stays; null when there is none. */
    async giveAway(turn: Turn): Promise<WentElsewhere | null> {
      const peer = await peers.serving();
      if (!peer) return null;
      return hop(turn, { ...peer, mode: 'resolve', sessionId: null, epoch: null, turnId: turn.id });
    },

    /**
     * "Maybe delivered" becomes "not started" only once this worker owns the session, so that the former owner is
     * fenced, and no turn of this id exists. A turn that does exist is never run again.
     */
    async mayRunHere(turn: Turn, decision: Decision): Promise<boolean> {
      if (!turn.maybeStarted) return true;
      if (decision.do === 'create' || (await hasStarted(turn))) {
        ownerLost(turn);
        return false;
      }
      return true;
    },

    /** A busy session of a silent owner: wait, bounded, until its death is a stored fact. */
    async awaitOwner(turn: Turn, decision: Extract<Decision, { do: 'await_owner' }>): Promise<WentElsewhere> {
      const { workerId, retryAfterSeconds } = decision;
      const held = turn.times.received + deadlines.requestHold - clock.now();
      const until = clock.now() + Math.min(deadlines.ownerWait, held);
      while (!turn.stream.finished) {
        if ((await peers.judge(workerId)) !== 'alive') break;
        if (clock.now() >= until) {
          turn.outcome = 'wrong_instance';
          throw new BridgeError('bridge_wrong_instance', { retryAfterSeconds });
        }
        await new Promise<void>((again) => clock.after(deadlines.ownerPoll, again));
      }
      // Waiting is no resolution: the row is simply read again.
      turn.resolutions -= 1;
      return { kind: 'unreachable', workerId };
    },
  };
}
