import { ACTOR, BARE, BIT, COMMIT, COPY, type Layout, SIZES, TURN_STATE } from './layout.ts';
import type { Hand, Rows } from './rows.ts';
import type { Sessions } from './sessions.ts';

/**
 * Store calls in flight without a waiting caller: copies of calls that were given up, and `release` calls, which are
 * never awaited.
 */
export interface Copies {
  canMake(actor: number): boolean;
  make(actor: number): void;
  /** Executes the call at the store. Its answer is discarded. */
  arrive(copy: number): void;
}

/** Creates the store calls in flight over the state in `hand`. */
export function createCopies(layout: Layout, hand: Hand, rows: Rows, sessions: Sessions): Copies {
  const actor = (i: number, field: number) => hand.s[layout.actor(i) + field]!;
  const commit = (i: number) => actor(i, ACTOR.pending) & 15;
  const orphan = (i: number) => actor(i, ACTOR.pending) >> 4;

  const free = () => {
    for (let j = 0; j < layout.bounds.copies; j += 1) if (hand.s[layout.copy(j)] === 0) return j;
    return -1;
  };

  /** Returns the call's last argument: the expected head, or the end. */
  function argument(i: number): number {
    switch (commit(i)) {
      case COMMIT.create:
        return 0;
      case COMMIT.start:
        return actor(i, ACTOR.head);
      case COMMIT.orphan:
        return TURN_STATE.lost;
      default:
        return (actor(i, ACTOR.bits) & BIT.ending || TURN_STATE.lost) | (commit(i) === COMMIT.bareSettle ? BARE : 0);
    }
  }

  return {
    canMake: (i) => free() >= 0 && !(commit(i) === COMMIT.orphan && orphan(i) === 0),

    make(i) {
      const { me, nonce, epoch } = sessions.caller(i);
      const turn = commit(i) === COMMIT.orphan ? orphan(i) : actor(i, ACTOR.current);
      const c = layout.copy(free());
      hand.s[c + COPY.kind] = commit(i);
      hand.s[c + COPY.worker] = me + 1;
      hand.s[c + COPY.nonce] = nonce;
      hand.s[c + COPY.epoch] = epoch;
      hand.s[c + COPY.turn] = turn;
      hand.s[c + COPY.argument] = argument(i);
    },

    arrive(j) {
      const c = layout.copy(j);
      const [kind, worker, nonce, epoch, turn, last] = hand.s.slice(c, c + SIZES.copy) as unknown as number[];
      hand.s.fill(0, c, c + SIZES.copy);
      const caller = { me: worker! - 1, nonce: nonce!, epoch: epoch! };
      switch (kind) {
        case COMMIT.create:
          return void rows.create(caller, turn! - 1);
        case COMMIT.start:
          return void rows.start(caller, turn! - 1, last!);
        case COMMIT.release:
          return void rows.release(caller);
        default:
          return void rows.settle(caller, turn! - 1, last!);
      }
    },
  };
}
