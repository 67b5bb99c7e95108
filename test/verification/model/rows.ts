import type { TurnEnd, TurnState } from '../../../src/store/port.ts';
import {
  type FencedSession,
  type FencedTurn,
  type Hold,
  holds,
  judgeClaim,
  judgeCreate,
  judgeRelease,
  judgeSettle,
  judgeStart,
  movesHead,
} from '../../../src/store/rules.ts';
import { BRANCHED, FLAG, type Layout, REQUEST, ROW, ROWS, STAGE, TURN, TURN_STATE, WORKER } from './layout.ts';
import type { Weakness } from './weakness.ts';

/** Bits of a request's facts that stand for unreachable workers; the others are answers about the session's epoch. */
const UNREACHABLE_FACTS = 15;

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
export type Caller = Hold<number>;

const STATES: readonly TurnState[] = ['active', 'active', 'completed', 'failed', 'cancelled', 'lost'];
/** Returns the end that a number of `TURN_STATE` stands for. */
const endOf = (state: number) => STATES[state & 7] as TurnEnd;

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
 * Creates the rows over the state in `hand`. Their decisions are those of `src/store/rules.ts`, on views of the bytes. A
 * weakness changes what a rule is given, or overrides its verdict.
 *
 * @param weak the check that is left out, or null
 * @param onWrite called before every write to the session's row
 */
export function createRows(layout: Layout, hand: Hand, weak: Weakness | null, onWrite = () => {}): Rows {
  const { turns } = layout.bounds;
  const isDead = (w: number) => (hand.s[layout.worker(w)]! & WORKER.dead) !== 0;
  /** A worker without a row may start nothing either. */
  const isFenced = (w: number) => (hand.s[layout.worker(w)]! & (WORKER.dead | WORKER.unrecorded)) !== 0;

  /** The session's row; ids of workers and turns count from 0. Reads the present state, so that no call makes an object. */
  const view: FencedSession<number> = {
    get ownerWorkerId() {
      return hand.s[ROW.owner]! === 0 ? null : hand.s[ROW.owner]! - 1;
    },
    get ownerNonce() {
      return hand.s[ROW.owner]! === 0 ? null : hand.s[ROW.nonce]!;
    },
    get epoch() {
      return hand.s[ROW.epoch]!;
    },
    get activeTurnId() {
      return hand.s[ROW.active]! === 0 ? null : hand.s[ROW.active]! - 1;
    },
    get headTurnId() {
      return hand.s[ROW.head]! === 0 ? null : hand.s[ROW.head]! - 1;
    },
    state: 'live',
  };
  const session = () => (hand.s[ROW.epoch] === 0 ? null : view);
  const isActive = (turn: number) => hand.s[ROW.active] === turn + 1;

  /** Returns the hold that the fence compares. A weakness replaces the parts that it does not compare by those of the row. */
  const compared = (caller: Caller): Caller => {
    const { ownerWorkerId, ownerNonce, epoch } = view as unknown as { [K in keyof typeof view]: number };
    if (weak === 'startIgnoresEpoch') return { me: caller.me, nonce: ownerNonce, epoch };
    if (weak === 'startIgnoresOwner') return { me: ownerWorkerId, nonce: ownerNonce, epoch: caller.epoch };
    return caller;
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
      const first = { ...caller, epoch: 1 };
      const exists = s[ROW.epoch] !== 0;
      const same = exists && s[ROW.sid] === caller.nonce;
      const verdict = judgeCreate(same ? view : null, compared(first), turn, !isFenced(caller.me), exists);
      if (same && weak === 'createNotIdempotent' && !isFenced(caller.me)) return 'key_taken';
      if (verdict !== 'ok') return verdict;
      if (s[layout.turn(turn) + TURN.state] !== TURN_STATE.none) return 'rejected';
      write();
      s[ROW.epoch] = 1;
      s[ROW.owner] = caller.me + 1;
      s[ROW.nonce] = s[ROW.sid] = caller.nonce;
      s[ROW.active] = turn + 1;
      s[ROW.head] = 0;
      insertTurn(turn, first);
      return 'ok';
    },

    start(caller, turn, expectedHead) {
      const { s } = hand;
      const isKnown = (s[layout.turn(turn) + TURN.state]! & 7) !== TURN_STATE.none;
      const counts = isKnown && (weak !== 'startRevivesTurn' || isActive(turn));
      const asksHead = weak !== 'startIgnoresHead' && weak !== 'oldHead';
      const head = asksHead ? (expectedHead === 0 ? null : expectedHead - 1) : view.headTurnId;
      const lives = !isFenced(caller.me) || weak === 'startIgnoresDeath';
      let verdict = judgeStart(session(), compared(caller), turn, counts, head, lives);
      if (verdict === 'busy' && weak === 'startIgnoresBusy') {
        verdict = asksHead && s[ROW.head] !== expectedHead ? 'head_moved' : 'ok';
      }
      if (verdict !== 'ok') return verdict;
      if (!holds(view, caller)) breaks('fencedStart');
      if (isDead(caller.me)) breaks('deadActs');
      if (isKnown) breaks('endsOnce');
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
      const exists = recorded !== TURN_STATE.none;
      const state = STATES[recorded & 7]!;
      const row: FencedTurn<number> | null = exists
        ? {
            authorWorkerId: s[t + TURN.author]! - 1,
            epoch: s[t + TURN.epoch]!,
            state,
            branched: (recorded & BRANCHED) !== 0,
          }
        : null;
      const overwrites = weak === 'settleOverwrites' && row !== null;
      const ending = overwrites ? { ...row, state: 'active' as const } : row;
      const verdict = judgeSettle(session(), ending, caller, turn, endOf(end));
      if (verdict === 'branch' || verdict === 'already') return verdict;
      const isOver = overwrites && judgeSettle(session(), row, caller, turn, endOf(end)) !== verdict;
      if (isOver && state !== endOf(end)) breaks('endsOnce');
      const underFence = (holds(view, compared(caller)) && isActive(turn)) || weak === 'settleUnfenced';
      if (underFence) write();
      else keep();
      s[t + TURN.state] = end | (underFence ? 0 : BRANCHED);
      if (!underFence) return 'branch';
      if (!holds(view, caller) || !isActive(turn)) breaks('fencedHead');
      s[ROW.active] = 0;
      if (movesHead(endOf(end))) s[ROW.head] = turn + 1;
      return 'ok';
    },

    claim(caller, epochRead, unchanged) {
      const { s } = hand;
      const { me, nonce } = caller;
      const lives = !isFenced(me) || weak === 'claimByTheDead';
      const isLost = (owner: number) => isDead(owner) || weak === 'claimRobsTheLiving';
      const verdict = judgeClaim(session(), caller, epochRead, unchanged || weak === 'oldHead', lives, isLost);
      if (verdict === 'again') return 'row';
      if (verdict !== 'ok') return verdict;
      if (isDead(me)) breaks('deadActs');
      const active = s[ROW.active]!;
      write();
      if (active !== 0 && weak !== 'claimForgetsTheLost') {
        const t = layout.turn(active - 1);
        if (s[t + TURN.state] === TURN_STATE.active) s[t + TURN.state] = TURN_STATE.lost | BRANCHED;
      }
      s[ROW.owner] = me + 1;
      s[ROW.nonce] = nonce;
      if (weak !== 'claimKeepsEpoch') s[ROW.epoch] = epochRead + 1;
      if (s[ROW.epoch] !== epochRead + 1) breaks('epochRises');
      // What workers answered about an earlier epoch says nothing about this one.
      for (let r = 0; r < layout.bounds.turns; r += 1) s[layout.request(r) + REQUEST.facts]! &= UNREACHABLE_FACTS;
      s[ROW.active] = 0;
      return 'row';
    },

    release(caller) {
      const { s } = hand;
      let verdict = judgeRelease(session(), caller);
      if (verdict === 'busy' && weak === 'releaseBusy') verdict = 'ok';
      if (weak === 'releaseUnfenced' && session() !== null) verdict = 'ok';
      if (verdict !== 'ok') return verdict;
      write();
      s[ROW.owner] = 0;
      s[ROW.nonce] = 0;
      return 'ok';
    },
  };
}
