import { BRANCHED, FLAG, type Layout, REQUEST, ROW, ROWS, STAGE, TURN, TURN_STATE, WORKER } from './layout.ts';
import type { Weakness } from './weakness.ts';

/** The state that a step changes, and the first safety property that the step violated. */
export interface Hand {
  s: Uint8Array;
  broken: Broken | null;
}

/** Name of a safety property of the design. */
export type Broken = keyof typeof promises;
export const promises = {
  oneActive: 'At most one turn of a session is active, and it is the one its row names.',
  fencedStart: 'A fenced writer starts nothing.',
  fencedHead: 'A fenced writer moves no head.',
  headKnown: 'A turn starts from the head that its starter knows.',
  oneLine: 'A head follows the head that its request named: no silent fork.',
  deadActs: 'A worker that is stored as dead starts and claims nothing.',
  epochRises: 'Every claim makes an epoch that never was.',
  notRobbed: 'The turn of a worker that is not declared dead ends under the fence.',
  endsOnce: 'A turn ends once; only its author replaces what others recorded as lost.',
  committedFirst: 'No frame leaves before its turn is committed.',
  leaseHeld: 'No frame leaves under a lapsed lease.',
  twoCreates: 'At most two creates a turn.',
  unseenResend: 'The second create leaves only while nothing of the first was shown.',
  anchorHeld: 'An anchor goes only to the socket that holds it.',
  oneTerminal: 'A request gets one terminal.',
  noDesertion: 'A living worker does not hand a committed turn back to be placed again.',
  slowKeeps:
    'A session is claimed only from an owner that is dead, has gone, or does not run it: never from one that is slow.',
} as const;

export type CreateAnswer = 'ok' | 'already' | 'key_taken' | 'fenced' | 'rejected';
export type StartAnswer = 'ok' | 'already' | 'ended' | 'busy' | 'head_moved' | 'fenced';
export type SettleAnswer = 'ok' | 'already' | 'branch';
export type ClaimAnswer = 'row' | 'busy' | 'lost_race' | 'fenced';
export type ReleaseAnswer = 'ok' | 'already' | 'busy' | 'fenced';

/** Caller of a store operation, with its hold on the session. Indices of workers and turns count from 0. */
export interface Caller {
  me: number;
  nonce: number;
  epoch: number;
}

/** The fence over one session's row, as in `src/store/port.ts`. `test/model` compares it with the in-memory store. */
export interface Rows {
  create(caller: Caller, turn: number): CreateAnswer;
  start(caller: Caller, turn: number, expectedHead: number): StartAnswer;
  /**
   * Records the end of a turn.
   *
   * @param end a turn state, with `BARE` when its content is not stored
   */
  settle(caller: Caller, turn: number, end: number): SettleAnswer;
  /**
   * Claims the session.
   *
   * @param unchanged whether the row was not written since the caller read it; stands for the comparison of revisions
   */
  claim(caller: Omit<Caller, 'epoch'>, epochRead: number, unchanged: boolean): ClaimAnswer;
  release(caller: Caller): ReleaseAnswer;
  isDead(worker: number): boolean;
}

/**
 * Creates the rows over the state in `hand`.
 *
 * @param weak the check that is left out, or null
 * @param onWrite called before every write to the session's row
 */
export function createRows(layout: Layout, hand: Hand, weak: Weakness | null, onWrite = () => {}): Rows {
  const { turns } = layout.bounds;
  const isDead = (w: number) => (hand.s[layout.worker(w)]! & WORKER.dead) !== 0;
  /** A worker without a row may start nothing either. */
  const isFenced = (w: number) => (hand.s[layout.worker(w)]! & (WORKER.dead | WORKER.unrecorded)) !== 0;

  const owns = (s: Uint8Array, { me, nonce, epoch }: Caller) =>
    s[ROW.epoch] === epoch && s[ROW.owner] === me + 1 && s[ROW.nonce] === nonce;

  /** Returns whether the fence accepts the caller. A weakness may skip part of this check. */
  const holds = (s: Uint8Array, caller: Caller) => {
    if (weak === 'startIgnoresEpoch') return s[ROW.owner] === caller.me + 1;
    if (weak === 'startIgnoresOwner') return s[ROW.epoch] === caller.epoch;
    return owns(s, caller);
  };

  const breaks = (promise: Broken) => {
    hand.broken ??= promise;
  };

  /** Saves the rows before a write, so that a failover can restore them. */
  function keep(): void {
    const { s } = hand;
    if (layout.previous !== null) s.copyWithin(layout.previous, ROWS.start, ROWS.start + ROWS.length(layout));
  }

  /** Prepares a write to the session's row: marks the earlier reads of all claiming requests as outdated. */
  function write(): void {
    onWrite();
    keep();
    const { s } = hand;
    for (let r = 0; r < turns; r += 1) {
      const q = layout.request(r);
      if (s[q + REQUEST.stage] === STAGE.claiming) s[q + REQUEST.flags] = s[q + REQUEST.flags]! | FLAG.dirty;
    }
  }

  function insertTurn(turn: number, { me, epoch }: Caller): void {
    const t = layout.turn(turn);
    hand.s[t + TURN.state] = TURN_STATE.active;
    hand.s[t + TURN.author] = me + 1;
    hand.s[t + TURN.epoch] = epoch;
  }

  return {
    isDead,

    create(caller, turn) {
      const { s } = hand;
      if (isFenced(caller.me)) return 'fenced';
      if (s[ROW.epoch] !== 0 && s[ROW.sid] === caller.nonce) {
        if (weak === 'createNotIdempotent') return 'key_taken';
        return holds(s, { ...caller, epoch: 1 }) && s[ROW.active] === turn + 1 ? 'already' : 'fenced';
      }
      if (s[ROW.epoch] !== 0) return 'key_taken';
      if (s[layout.turn(turn) + TURN.state] !== TURN_STATE.none) return 'rejected';
      write();
      s[ROW.epoch] = 1;
      s[ROW.owner] = caller.me + 1;
      s[ROW.nonce] = s[ROW.sid] = caller.nonce;
      s[ROW.active] = turn + 1;
      s[ROW.head] = 0;
      insertTurn(turn, { ...caller, epoch: 1 });
      return 'ok';
    },

    start(caller, turn, expectedHead) {
      const { s } = hand;
      if (s[ROW.epoch] === 0 || !holds(s, caller)) return 'fenced';
      if (isFenced(caller.me) && weak !== 'startIgnoresDeath') return 'fenced';
      const known = s[layout.turn(turn) + TURN.state]! & 7;
      if (known !== TURN_STATE.none) {
        if (s[ROW.active] === turn + 1) return 'already';
        if (weak !== 'startRevivesTurn') return 'ended';
      }
      if (s[ROW.active] !== 0 && weak !== 'startIgnoresBusy') return 'busy';
      const asksHead = weak !== 'startIgnoresHead' && weak !== 'oldHead';
      if (s[ROW.head] !== expectedHead && asksHead) return 'head_moved';
      if (!owns(s, caller)) breaks('fencedStart');
      if (isDead(caller.me)) breaks('deadActs');
      if (known !== TURN_STATE.none) breaks('endsOnce');
      if (s[ROW.head] !== expectedHead) breaks('headKnown');
      write();
      insertTurn(turn, caller);
      s[ROW.active] = turn + 1;
      return 'ok';
    },

    settle(caller, turn, end) {
      const { s } = hand;
      const t = layout.turn(turn);
      const recorded = s[t + TURN.state]!;
      if (s[ROW.epoch] === 0 || recorded === TURN_STATE.none) return 'branch';
      if (s[t + TURN.author] !== caller.me + 1 || s[t + TURN.epoch] !== caller.epoch) return 'branch';
      const state = recorded & 7;
      const isOver = state !== TURN_STATE.active && (state !== TURN_STATE.lost || (end & 7) === TURN_STATE.lost);
      if (isOver && weak !== 'settleOverwrites') return recorded & BRANCHED ? 'branch' : 'already';
      if (isOver && state !== (end & 7)) breaks('endsOnce');
      const underFence = (holds(s, caller) && s[ROW.active] === turn + 1) || weak === 'settleUnfenced';
      if (underFence) write();
      else keep();
      s[t + TURN.state] = end | (underFence ? 0 : BRANCHED);
      if (!underFence) return 'branch';
      if (!owns(s, caller) || s[ROW.active] !== turn + 1) breaks('fencedHead');
      s[ROW.active] = 0;
      if ((end & 7) === TURN_STATE.completed) s[ROW.head] = turn + 1;
      return 'ok';
    },

    claim({ me, nonce }, epochRead, unchanged) {
      const { s } = hand;
      if (s[ROW.epoch] === 0) return 'lost_race';
      if (isFenced(me) && weak !== 'claimByTheDead') return 'fenced';
      if (owns(s, { me, nonce, epoch: epochRead + 1 })) return 'row';
      if (s[ROW.epoch] !== epochRead) return 'lost_race';
      if (!unchanged && weak !== 'oldHead') return 'lost_race';
      const active = s[ROW.active]!;
      const owner = s[ROW.owner]!;
      if (active !== 0 && (owner === 0 || !isDead(owner - 1)) && weak !== 'claimRobsTheLiving') return 'busy';
      if (isDead(me)) breaks('deadActs');
      write();
      if (active !== 0 && weak !== 'claimForgetsTheLost') {
        const t = layout.turn(active - 1);
        if (s[t + TURN.state] === TURN_STATE.active) s[t + TURN.state] = TURN_STATE.lost | BRANCHED;
      }
      s[ROW.owner] = me + 1;
      s[ROW.nonce] = nonce;
      if (weak !== 'claimKeepsEpoch') s[ROW.epoch] = epochRead + 1;
      if (s[ROW.epoch] !== epochRead + 1) breaks('epochRises');
      s[ROW.active] = 0;
      return 'row';
    },

    release(caller) {
      const { s } = hand;
      if (weak !== 'releaseUnfenced') {
        if (s[ROW.epoch] === 0 || s[ROW.epoch] !== caller.epoch) return 'fenced';
        if (s[ROW.owner] === 0) return 'already';
        if (!owns(s, caller)) return 'fenced';
      } else if (s[ROW.epoch] === 0) return 'fenced';
      if (s[ROW.active] !== 0 && weak !== 'releaseBusy' && weak !== 'releaseUnfenced') return 'busy';
      write();
      s[ROW.owner] = 0;
      s[ROW.nonce] = 0;
      return 'ok';
    },
  };
}
