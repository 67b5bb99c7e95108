import type { TurnEnd } from '../../../src/store/port.ts';
import type { Bounds } from './bounds.ts';
import { layoutOf, ROW, TURN, TURN_STATE, WORKER } from './layout.ts';
import { type Caller, createRows, type Hand, type Rows, type SettleAnswer } from './rows.ts';

/** The rows without a world, for comparison with a store. */
export interface ModelRows {
  readonly rows: Rows;
  /** Number of writes so far. A row is unchanged while this number is. */
  readonly writes: number;
  settle(caller: Caller, turn: number, end: TurnEnd): SettleAnswer;
  /** Stores the worker's death. */
  die(worker: number): void;
  look(): {
    /** Nonce of the create that made the session, used as its id. */
    sid: number | null;
    row: {
      epoch: number;
      owner: number | null;
      nonce: number | null;
      active: number | null;
      head: number | null;
    } | null;
    turns: ({ state: string; author: number; epoch: number } | null)[];
    dead: readonly boolean[];
  };
}

const index = (id: number) => (id === 0 ? null : id - 1);
const STATES = Object.keys(TURN_STATE) as (keyof typeof TURN_STATE)[];

/** Creates empty rows within the given bounds. */
export function createModelRows(bounds: Bounds): ModelRows {
  const layout = layoutOf(bounds);
  const hand: Hand = { s: new Uint8Array(layout.stride), broken: null };
  let writes = 0;
  const rows = createRows(layout, hand, null, () => {
    writes += 1;
  });
  return {
    rows,
    get writes() {
      return writes;
    },
    settle: (caller, turn, end) => rows.settle(caller, turn, TURN_STATE[end === 'incomplete' ? 'completed' : end]),
    die(worker) {
      hand.s[layout.worker(worker)] = WORKER.dead;
    },
    look() {
      const { s } = hand;
      return {
        sid: s[ROW.sid] || null,
        row:
          s[ROW.epoch] === 0
            ? null
            : {
                epoch: s[ROW.epoch]!,
                owner: index(s[ROW.owner]!),
                nonce: s[ROW.nonce] || null,
                active: index(s[ROW.active]!),
                head: index(s[ROW.head]!),
              },
        turns: Array.from({ length: bounds.turns }, (_, r) => {
          const t = layout.turn(r);
          const state = STATES[s[t + TURN.state]! & 7]!;
          return state === 'none' ? null : { state, author: s[t + TURN.author]! - 1, epoch: s[t + TURN.epoch]! };
        }),
        dead: Array.from({ length: bounds.workers }, (_, w) => rows.isDead(w)),
      };
    },
  };
}
