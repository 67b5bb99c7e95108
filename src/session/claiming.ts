import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import type { AttemptFact, Decision } from '../resolve/types.ts';
import { type Answer, type SessionRow, type SessionStore, StoreUnavailable, type TurnRow } from '../store/port.ts';
import { bareResult } from './commits.ts';

export interface ClaimerOptions {
  store: SessionStore;
  clock: Clock;
  deadlines: Pick<Config['deadlines'], 'startWait'>;
  me(): string;
  /** The store says that this worker may not act: its row may be lost, which its next heartbeat shows and mends. */
  doubt(): void;
}

/** `fenced`: this worker may not claim now. */
export type Claimed = { row: SessionRow; head: TurnRow | null } | AttemptFact | 'fenced';

/** Milliseconds between two repetitions of an unanswered call. */
const REPEAT = 100;

/** Takes over a session: a new epoch under a new nonce, or the fact that somebody else was there. */
export function createClaimer({ store, clock, deadlines, me, doubt }: ClaimerOptions) {
  /** Repeats a call, unchanged, until the store answers it or the start wait is over. */
  async function answered<V extends object>(
    call: () => Promise<Answer<V>>,
  ): Promise<Exclude<Answer<V>, { verdict: 'unknown' }>> {
    const until = clock.now() + deadlines.startWait;
    for (;;) {
      const answer = await call();
      if (!('verdict' in answer) || answer.verdict !== 'unknown')
        return answer as Exclude<Answer<V>, { verdict: 'unknown' }>;
      if (clock.now() >= until) throw new StoreUnavailable('no answer to a claim');
      await new Promise<void>((again) => clock.after(REPEAT, again));
    }
  }

  /** Its owner is this worker, alive, and yet nobody here runs the active turn: only its owner can end it. */
  async function endOrphan(row: SessionRow): Promise<SessionRow> {
    await answered(() =>
      store.settle({
        me: me(),
        nonce: row.ownerNonce!,
        epoch: row.epoch,
        sessionId: row.id,
        turnId: row.activeTurnId!,
        result: bareResult('lost', null),
        face: { state: 'stale', snapshot: row.snapshot, machineVersion: row.machineVersion },
      }),
    );
    return (await store.session(row.id)) ?? row;
  }

  /** The turn that the row names as its head; null where there is none of that name in the session's scope. */
  async function headOf({ headTurnId, scope }: SessionRow): Promise<TurnRow | null> {
    const head = headTurnId === null ? null : await store.turn(headTurnId);
    return head?.scope === scope ? head : null;
  }

  async function claim(decision: Extract<Decision, { do: 'claim' }>, nonce: string): Promise<Claimed> {
    const read = decision.session;
    const row = decision.ownOrphan && read.activeTurnId && read.ownerNonce ? await endOrphan(read) : read;
    const answer = await answered(() =>
      store.claim({ me: me(), nonce, sessionId: row.id, epochRead: row.epoch, revisionRead: row.revision }),
    );
    switch (answer.verdict) {
      case 'row':
        return { row: answer.row, head: await headOf(answer.row) };
      case 'busy':
        return { kind: 'busy', sessionId: row.id };
      case 'lost_race':
        return { kind: 'lost_race', sessionId: row.id };
      case 'fenced':
        doubt();
        return 'fenced';
      case 'rejected':
        throw new BridgeError('bridge_store_rejected', { cause: answer.reason });
    }
  }

  return {
    /** Throws `BridgeError` when the store refuses the call, `StoreUnavailable` when the store does not answer. */
    claim,
    /**
     * This worker is asked for a session that it owns and does not run. Before it says so, a turn that is active there
     * is ended: as long as its owner lives nobody else can, and whoever asked could only wait. Throws `StoreUnavailable`.
     */
    async disown(sessionId: string, epoch: number): Promise<void> {
      const row = await store.session(sessionId);
      if (row?.ownerWorkerId === me() && row.epoch === epoch && row.activeTurnId !== null) await endOrphan(row);
    },
  };
}
