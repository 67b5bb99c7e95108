import { ACTIONS, type Action, type ActionName } from './actions.ts';
import { type Bounds, FAULTS } from './bounds.ts';
import { createCopies } from './copies.ts';
import {
  ACTOR,
  BIT,
  canonical,
  ENDING,
  FLAG,
  type Layout,
  layoutOf,
  REQUEST,
  ROW,
  ROWS,
  STAGE,
  TOLD,
  TURN,
  TURN_STATE,
  WORKER,
} from './layout.ts';
import { EVENT, type LocalMachine, localMachine } from './local.ts';
import { Beyond } from './mailbox.ts';
import { createResolver, type Resolver } from './placing.ts';
import { createPossible } from './possible.ts';
import { createRequests } from './requests.ts';
import { type Broken, createRows, type Hand } from './rows.ts';
import { createSessions } from './sessions.ts';
import type { Weakness } from './weakness.ts';

/** World of workers, one conversation, its rows and its upstream: the states, and the steps possible in each. */
export interface World {
  readonly layout: Layout;
  readonly weakness: Weakness | null;
  readonly machine: LocalMachine;
  readonly resolver: Resolver;
  initial(): Uint8Array;
  /** Calls `visit` for every step possible in `from`. During the call, `next` holds the resulting state. */
  steps(from: Uint8Array, visit: (name: ActionName, a: number, b: number) => void): void;
  readonly next: Uint8Array;
  /** Property violated by the step in `next`. */
  readonly broken: Broken | null;
  /** Number of steps that led beyond the bounds. */
  readonly beyond: number;
  /**
   * Takes one step.
   *
   * @throws {Error} when it is not possible
   */
  take(from: Uint8Array, action: Action): { state: Uint8Array; broken: Broken | null };
  /** Returns whether every request made so far has ended. */
  isQuiet(s: Uint8Array): boolean;
  /** Returns whether no turn is active, so that any worker can serve the next request. */
  isServable(s: Uint8Array): boolean;
  hasMore(s: Uint8Array): boolean;
}

/**
 * Creates the world within the given bounds.
 *
 * @param weak the check that is left out, or null
 */
export function createWorld(bounds: Bounds, weak: Weakness | null = null): World {
  const layout = layoutOf(bounds);
  const machine = localMachine();
  const resolver = createResolver(layout, machine, weak === 'claimRobsTheLiving', weak === 'lostRowRobs');
  const hand: Hand = { s: new Uint8Array(layout.stride), broken: null };
  const rows = createRows(layout, hand, weak);
  const sessions = createSessions(layout, hand, machine, rows, weak);
  const requests = createRequests(layout, hand, resolver, rows, sessions, weak);
  const copies = createCopies(layout, hand, rows, sessions);
  const { turns } = bounds;
  const base = new Uint8Array(layout.stride);
  let beyond = 0;

  const worker = (s: Uint8Array, w: number) => s[layout.worker(w)]!;
  const request = (s: Uint8Array, r: number, field: number) => s[layout.request(r) + field]!;
  const actor = (s: Uint8Array, i: number, field: number) => s[layout.actor(i) + field]!;
  const putActor = (i: number, field: number, value: number) => {
    hand.s[layout.actor(i) + field] = value;
  };
  const mark = (w: number, bits: number) => {
    hand.s[layout.worker(w)] = hand.s[layout.worker(w)]! | bits;
  };
  const unmark = (w: number, bits: number) => {
    hand.s[layout.worker(w)] = hand.s[layout.worker(w)]! & ~bits;
  };
  const each = (count: number, act: (index: number) => void) => {
    for (let index = 0; index < count; index += 1) act(index);
  };
  const actorsOf = (w: number) => {
    const found: number[] = [];
    each(layout.actors, (i) => {
      if (actor(hand.s, i, ACTOR.worker) === w + 1) found.push(i);
    });
    return found;
  };

  function ask(r: number, b: number): void {
    const q = layout.request(r);
    hand.s[q + REQUEST.stage] = STAGE.resolving;
    hand.s[q + REQUEST.holder] = (b >> 1) + 1;
    hand.s[q + REQUEST.named] = hand.s[TOLD]!;
    hand.s[q + REQUEST.flags] = b & 1 ? FLAG.anchored : 0;
  }

  function crash(w: number): void {
    const { s } = hand;
    // Requests of other workers' clients at this worker's actors: their senders notice the crash by the broken hop.
    each(turns, (r) => {
      if (request(s, r, REQUEST.stage) !== STAGE.placed || request(s, r, REQUEST.holder) === w + 1) return;
      const i = Math.max(requests.runs(r, 'current'), requests.runs(r, 'waiting'));
      if (i >= 0 && actor(s, i, ACTOR.worker) === w + 1) {
        mark(w, WORKER.crashed);
        requests.broken(r);
      }
    });
    mark(w, WORKER.crashed);
    unmark(w, WORKER.paused | WORKER.lapsed | WORKER.draining | WORKER.knows);
    for (const i of actorsOf(w)) sessions.drop(i);
    each(turns, (r) => {
      const lost = request(s, r, REQUEST.stage) === STAGE.hopping && request(s, r, REQUEST.target) === w + 1;
      const alone = (worker(s, request(s, r, REQUEST.holder) - 1) & WORKER.crashed) !== 0;
      if (lost && alone) sessions.tell(r, ENDING.gone);
    });
    each(turns, (r) => {
      const stage = request(s, r, REQUEST.stage);
      if (stage === STAGE.unborn || stage === STAGE.ended || request(s, r, REQUEST.holder) !== w + 1) return;
      const i = requests.runs(r, 'current');
      if (stage === STAGE.placed && i >= 0) {
        // The owner notices the disconnect, possibly while it handles another event.
        hand.s[layout.request(r) + REQUEST.flags] = request(s, r, REQUEST.flags) | FLAG.gone;
        sessions.send(i, 'clientGone');
      } else if (stage === STAGE.placed && requests.runs(r, 'waiting') >= 0) requests.withdraw(r, ENDING.gone);
      else sessions.tell(r, ENDING.gone);
    });
  }

  /** Applies the upstream's end of the sent turn. `how` is 0: completed, 1: failed, 2: refused before output began. */
  function upstreamEnds(i: number, how: number): void {
    const bits = actor(hand.s, i, ACTOR.bits);
    const ending = how === 0 ? TURN_STATE.completed : TURN_STATE.failed;
    if ((bits & BIT.ending) === 0) putActor(i, ACTOR.bits, bits | ending);
    const current = actor(hand.s, i, ACTOR.current);
    putActor(i, ACTOR.held, how === 0 ? current : 0);
    if (how === 0) putActor(i, ACTOR.socket, current + 1);
    else if (weak !== 'anchorOutlivesFailure') putActor(i, ACTOR.socket, 1);
    sessions.deliver(i, how === 1 ? EVENT.endedRetire : EVENT.endedKeep);
  }

  function loseSocket(i: number): void {
    const bits = actor(hand.s, i, ACTOR.bits);
    const local = machine.locals[actor(hand.s, i, ACTOR.local)]!;
    putActor(i, ACTOR.socket, 0);
    putActor(i, ACTOR.held, 0);
    const unseen = (bits & BIT.shown) === 0 || weak === 'resendsShown';
    const resendable = local.streaming && unseen && (bits & BIT.told) === 0 && mayBeSentInFull(i);
    sessions.send(i, resendable ? 'lostResendable' : 'lost');
  }

  function mayBeSentInFull(i: number): boolean {
    const q = layout.request(actor(hand.s, i, ACTOR.current) - 1);
    return bounds.exact || (hand.s[q + REQUEST.flags]! & FLAG.anchored) === 0;
  }

  function apply(name: ActionName, a: number, b: number): void {
    const { s } = hand;
    const kind = ACTIONS[name];
    if (kind !== 'own' && kind !== 'world') {
      const at = layout.budget(kind);
      s[at] = s[at]! - 1;
    }
    switch (name) {
      case 'asks':
        return ask(a, b);
      case 'resolves':
        return requests.resolve(a);
      case 'clearsOrphan':
        return requests.clearOrphan(a);
      case 'claims':
        return requests.claim(a, true);
      case 'claimUnheard':
        return requests.claim(a, false);
      case 'claimGivenUp':
      case 'ownerWaitOver':
        return sessions.tell(a, ENDING.failed);
      case 'looksAgain':
        return requests.lookAgain(a);
      case 'hopArrives':
        return requests.arrive(a);
      case 'hopFails':
        return requests.unreachable(a, b === 1);
      case 'hopLost':
        return requests.lose(a);
      case 'hopCut':
        return requests.cut(a);
      case 'hopBreaks':
        return requests.broken(a);
      case 'strayArrives':
        return requests.strayArrives();
      case 'queueWaitOver':
        return requests.withdraw(a, ENDING.failed);
      case 'answered':
        return sessions.commit(a, true);
      case 'unheard':
      case 'unheardByPaused':
        return sessions.commit(a, false);
      case 'rejected':
        return sessions.reject(a);
      case 'commitThrows':
        return sessions.breakCommit(a, b === 1);
      case 'throws':
        return b === 0 ? sessions.breakHandler(a) : sessions.breakNext(a);
      case 'copied':
        return copies.make(a);
      case 'copyArrives':
        return copies.arrive(a);
      case 'deadline':
        return sessions.deliver(a, b);
      case 'opens':
        putActor(a, ACTOR.socket, 1);
        return sessions.deliver(a, EVENT.opened);
      case 'dialFails':
        return sessions.deliver(a, EVENT.failed);
      case 'refuses':
        if ((actor(s, a, ACTOR.bits) & BIT.ending) === 0) {
          putActor(a, ACTOR.bits, actor(s, a, ACTOR.bits) | TURN_STATE.failed);
        }
        return sessions.deliver(a, EVENT.refused);
      case 'historyMissing':
        return sessions.deliver(a, EVENT.historyMissing);
      case 'begins':
        putActor(a, ACTOR.bits, actor(s, a, ACTOR.bits) | BIT.created);
        return sessions.deliver(a, EVENT.progress);
      case 'shows':
        return putActor(a, ACTOR.bits, actor(s, a, ACTOR.bits) | BIT.shown);
      case 'completes':
        return upstreamEnds(a, 0);
      case 'fails':
        return upstreamEnds(a, b);
      case 'refusesAnchor':
        putActor(a, ACTOR.socket, 1);
        putActor(a, ACTOR.held, 0);
        return sessions.deliver(a, EVENT.anchorRefused);
      case 'socketLost':
        return loseSocket(a);
      case 'departs':
        return requests.depart(a);
      case 'crashes':
        return crash(a);
      case 'pauses':
        return mark(a, WORKER.paused);
      case 'resumes':
        return unmark(a, WORKER.paused);
      case 'lapses':
        return mark(a, WORKER.lapsed);
      case 'beats':
        return unmark(a, WORKER.lapsed | WORKER.unrecorded);
      case 'losesRow':
        return mark(a, WORKER.unrecorded);
      case 'declaredDead':
        unmark(a, WORKER.unrecorded);
        return mark(a, WORKER.dead);
      case 'learnsDeath':
        mark(a, WORKER.knows);
        for (const i of actorsOf(a)) sessions.send(i, 'workerDead');
        return;
      case 'drains':
        mark(a, WORKER.draining);
        for (const i of actorsOf(a)) sessions.send(i, 'draining');
        return;
      case 'stops':
        crash(a);
        unmark(a, WORKER.unrecorded);
        return mark(a, WORKER.dead);
      case 'evicts':
        return sessions.send(a, 'release');
      case 'failsOver':
        if (layout.previous !== null) s.copyWithin(ROWS.start, layout.previous, layout.previous + ROWS.length(layout));
        return;
    }
  }

  /** Checks the invariants of the rows, independent of the step that led to them. */
  function inspect(s: Uint8Array): Broken | null {
    if (s[ROW.epoch] === 0) return null;
    let active = 0;
    let found = 0;
    each(turns, (r) => {
      if ((s[layout.turn(r) + TURN.state]! & 7) !== TURN_STATE.active) return;
      active += 1;
      found = r + 1;
    });
    if (active > 1 || s[ROW.active] !== found) return 'oneActive';
    const head = s[ROW.head]!;
    if (head !== base[ROW.head] && head !== 0 && base[ROW.epoch] !== 0) {
      const named = request(s, head - 1, REQUEST.named);
      const anchored = (request(s, head - 1, REQUEST.flags) & FLAG.anchored) !== 0;
      if (anchored && named !== base[ROW.head]) return 'oneLine';
    }
    if (s[ROW.epoch]! < base[ROW.epoch]!) return 'epochRises';
    return null;
  }

  const possible = createPossible({
    layout,
    machine,
    givesUp: weak === 'slowIsDead' ? WORKER.paused : 0,
    canCopy(s, i) {
      hand.s.set(s);
      return copies.canMake(i);
    },
    runsAt(s, r, where) {
      hand.s.set(s);
      return requests.runs(r, where);
    },
    onBeyond() {
      beyond += 1;
    },
  });

  let visitor: (name: ActionName, a: number, b: number) => void = () => {};
  function attempt(name: ActionName, a: number, b = 0): void {
    hand.s.set(base);
    hand.broken = null;
    try {
      apply(name, a, b);
    } catch (error) {
      if (!(error instanceof Beyond)) throw error;
      beyond += 1;
      return;
    }
    if (hand.broken === null && name !== 'failsOver') hand.broken = inspect(hand.s);
    canonical(layout, hand.s);
    visitor(name, a, b);
  }

  function steps(from: Uint8Array, visit: typeof visitor): void {
    base.set(from);
    visitor = visit;
    possible(base, attempt);
  }

  return {
    layout,
    weakness: weak,
    machine,
    resolver,
    next: hand.s,
    get broken() {
      return hand.broken;
    },
    get beyond() {
      return beyond;
    },
    initial() {
      const s = new Uint8Array(layout.stride);
      for (const fault of FAULTS) s[layout.budget(fault)] = bounds.faults[fault] ?? 0;
      return s;
    },
    steps,
    take(from, { name, a, b }) {
      let taken: { state: Uint8Array; broken: Broken | null } | null = null;
      steps(from, (each_, a_, b_) => {
        if (each_ === name && a_ === a && b_ === b) taken = { state: hand.s.slice(), broken: hand.broken };
      });
      if (taken === null) throw new Error(`"${name}" of ${a} (${b}) is not possible here.`);
      return taken;
    },
    isQuiet(s) {
      for (let r = 0; r < turns; r += 1) {
        const stage = request(s, r, REQUEST.stage);
        if (stage !== STAGE.unborn && stage !== STAGE.ended) return false;
      }
      return true;
    },
    isServable: (s) => s[ROW.active] === 0,
    hasMore: (s) => request(s, turns - 1, REQUEST.stage) === STAGE.unborn,
  };
}
