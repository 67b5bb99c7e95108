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
  /** Called when the store answers `fenced`: this worker's row may be lost. The next heartbeat detects and repairs that. */
  doubt(): void;
}

/** Result of a claim. `fenced`: the store does not accept claims from this worker at the moment. */
export type Claimed = { row: SessionRow; head: TurnRow | null } | AttemptFact | 'fenced';

/** Pause between two attempts of an unanswered call, in milliseconds. */
const REPEAT = 100;

/** Claims sessions. A claim assigns a new epoch under a new nonce, or reports that another worker was first. */
export function createClaimer({ store, clock, deadlines, me, doubt }: ClaimerOptions) {
  /**
   * Repeats a call, unchanged, until the store answers it.
   *
   * @throws StoreUnavailable if there is no answer within `startWait`
   */
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

  /**
   * Settles as `lost` the active turn of a session that this worker owns without running it. No other worker can do so
   * while this one is alive.
   *
   * @returns the row after the settle
   */
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

  /** Loads the turn that the row names as its head. Returns null if that turn does not exist in the session's scope. */
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
    /**
     * Claims the session of the decision for this worker.
     *
     * @param nonce identifies this claim in its repetitions
     * @returns the claimed row and its head, the fact why the claim failed, or `fenced`
     * @throws BridgeError `bridge_store_rejected` if the store rejects the call
     * @throws StoreUnavailable if the store does not answer within `startWait`
     */
    claim,
    /**
     * Ends the active turn of a session that this worker owns at this epoch but does not run. Called before this worker
     * answers `not_owner`: while the owner is alive no other worker can end that turn, so the requester could only
     * wait.
     *
     * @throws StoreUnavailable if the store does not answer
     */
    async disown(sessionId: string, epoch: number): Promise<void> {
      const row = await store.session(sessionId);
      if (row?.ownerWorkerId === me() && row.epoch === epoch && row.activeTurnId !== null) await endOrphan(row);
    },
  };
}
