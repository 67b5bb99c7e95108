import {
  ACTOR,
  BIT,
  ENDING,
  FLAG,
  freshNonce,
  type Layout,
  REQUEST,
  ROW,
  STAGE,
  TURN,
  TURN_STATE,
  WORKER,
} from './layout.ts';
import { Beyond } from './mailbox.ts';
import type { Placing, Resolver } from './placing.ts';
import type { Hand, Rows } from './rows.ts';
import type { Sessions } from './sessions.ts';
import type { Weakness } from './weakness.ts';

/** Placement of requests on sessions, as in `src/session/dispatcher.ts`. */
export interface Requests {
  resolve(r: number): void;
  clearOrphan(r: number): void;
  claim(r: number, answered: boolean): void;
  /** Handles a hop that did not reach its worker. `sent`: the request may still arrive. */
  unreachable(r: number, sent: boolean): void;
  /**
   * Handles a hop that was lost, with no information about its worker. The request is sent to the same worker again.
   */
  lose(r: number): void;
  /** Handles the loss of a hop's connection after it was accepted. */
  cut(r: number): void;
  /** Discards the facts about an owner that the request waits for. */
  lookAgain(r: number): void;
  arrive(r: number): void;
  /** Handles an accepted hop that ended without an answer. */
  broken(r: number): void;
  strayArrives(): void;
  depart(r: number): void;
  /** Removes a request from the queue when the queue's limit has expired. */
  withdraw(r: number, ending: number): void;
  /** Returns the actor that runs (`current`) or queues (`waiting`) the request for its client, or -1. */
  runs(r: number, where: 'current' | 'waiting'): number;
}

/** Creates the placement of requests over the state in `hand`. */
export function createRequests(
  layout: Layout,
  hand: Hand,
  resolver: Resolver,
  rows: Rows,
  sessions: Sessions,
  weak: Weakness | null,
): Requests {
  const get = (r: number, field: number) => hand.s[layout.request(r) + field]!;
  const set = (r: number, field: number, value: number) => {
    hand.s[layout.request(r) + field] = value;
  };
  const actor = (i: number, field: number) => hand.s[layout.actor(i) + field]!;
  const flag = (r: number, bit: number) => (get(r, REQUEST.flags) & bit) !== 0;
  const worker = (w: number) => hand.s[layout.worker(w)]!;
  const fail = (r: number) => sessions.tell(r, ENDING.failed);
  const hasRow = (r: number) => hand.s[layout.turn(r) + TURN.state] !== TURN_STATE.none;

  const again = (r: number, fact = 0) => {
    // The worker that held the client's connection crashed, so a handed-back request has no recipient.
    if (worker(get(r, REQUEST.holder) - 1) & WORKER.crashed) return sessions.tell(r, ENDING.gone);
    set(r, REQUEST.facts, get(r, REQUEST.facts) | fact);
    if (fact !== 0) uncount(r);
    set(r, REQUEST.stage, STAGE.resolving);
    set(r, REQUEST.target, 0);
    set(r, REQUEST.nonce, 0);
    set(r, REQUEST.epoch, 0);
    set(r, REQUEST.flags, get(r, REQUEST.flags) & ~FLAG.dirty);
  };
  /**
   * Does not count the current resolution against the limit. Only conflicts count; waiting for another worker does not.
   */
  function uncount(r: number): void {
    if ((get(r, REQUEST.flags) & FLAG.resolutions) !== 0)
      set(r, REQUEST.flags, get(r, REQUEST.flags) - FLAG.resolution);
  }
  const denies = (w: number) => 16 << w;

  /** Returns the actor of that worker that runs the request after losing its client, or -1. */
  function runsForNobody(r: number, w: number): number {
    for (let i = 0; i < layout.actors; i += 1) {
      const mine = actor(i, ACTOR.worker) === w + 1 && actor(i, ACTOR.current) === r + 1;
      if (mine && actor(i, ACTOR.bits) & BIT.stray) return i;
    }
    return -1;
  }

  /**
   * Handles a retried hop for a turn that the owner may already have started. The owner resumes it or starts it, never
   * twice. Returns false when the turn has not started.
   */
  function takeUp(r: number, w: number): boolean {
    // Ignore a copy of an earlier hop that arrives later.
    if (hand.s[layout.stray + 1] === r + 1) {
      hand.s[layout.stray] = 0;
      hand.s[layout.stray + 1] = 0;
    }
    const i = runsForNobody(r, w);
    if (i < 0) {
      if (!hasRow(r)) return false;
      fail(r);
      return true;
    }
    if (actor(i, ACTOR.bits) & BIT.told) {
      fail(r);
      return true;
    }
    hand.s[layout.actor(i) + ACTOR.bits] = actor(i, ACTOR.bits) & ~BIT.stray;
    set(r, REQUEST.stage, STAGE.placed);
    set(r, REQUEST.target, 0);
    set(r, REQUEST.epoch, 0);
    sessions.send(i, 'clientBack');
    return true;
  }

  /** Sends the request to the owner again. */
  function hopAgain(r: number, w: number, epoch: number): void {
    set(r, REQUEST.flags, get(r, REQUEST.flags) | FLAG.maybe);
    set(r, REQUEST.stage, STAGE.hopping);
    set(r, REQUEST.target, w + 1);
    set(r, REQUEST.epoch, epoch);
  }

  function runs(r: number, where: 'current' | 'waiting'): number {
    for (let i = 0; i < layout.actors; i += 1) {
      if (actor(i, ACTOR.worker) === 0 || actor(i, ACTOR[where]) !== r + 1) continue;
      if (where === 'waiting' || (actor(i, ACTOR.bits) & BIT.stray) === 0) return i;
    }
    return -1;
  }

  /** Places a request on the worker that runs the session, for the remaining decisions. */
  function runOn(r: number, w: number, i: number, placing: Placing): void {
    if (i < 0) return again(r, denies(w));
    if (flag(r, FLAG.maybe) && hasRow(r)) return fail(r);
    if (placing.do === 'supersede') {
      sessions.send(i, 'cancelled');
      return sessions.submit(i, r);
    }
    if (placing.do !== 'reattach') return sessions.submit(i, r);
    const bits = actor(i, ACTOR.bits);
    const running = actor(i, ACTOR.current) - 1;
    if (bits & BIT.stray) throw new Beyond();
    if (running < 0 || bits & BIT.told) return again(r);
    set(running, REQUEST.flags, get(running, REQUEST.flags) & ~FLAG.gone);
    sessions.tell(r, ENDING.reattached);
    sessions.send(i, 'clientBack');
  }

  function beginClaim(r: number, ownOrphan: boolean): void {
    const { s } = hand;
    if (ownOrphan && weak !== 'noSelfClaim') {
      set(r, REQUEST.stage, STAGE.clearing);
      set(r, REQUEST.nonce, s[ROW.nonce]!);
      set(r, REQUEST.epoch, s[ROW.epoch]!);
      set(r, REQUEST.target, s[ROW.active]!);
      return;
    }
    set(r, REQUEST.stage, STAGE.claiming);
    set(r, REQUEST.nonce, freshNonce(layout, s));
    set(r, REQUEST.epoch, s[ROW.epoch]!);
    set(r, REQUEST.target, weak === 'oldHead' ? s[ROW.head]! : 0);
    set(r, REQUEST.flags, get(r, REQUEST.flags) & ~FLAG.dirty);
  }

  /** Returns whether that worker runs the session at that epoch. */
  function runsSession(w: number, epoch: number): boolean {
    const i = sessions.find(w);
    return i >= 0 && actor(i, ACTOR.epoch) === epoch;
  }

  /** Returns a worker that stays. A draining worker passes requests that need a create or a claim to it. */
  function peerOf(w: number): number {
    for (let other = 0; other < layout.bounds.workers; other += 1) {
      const out = WORKER.crashed | WORKER.paused | WORKER.dead | WORKER.draining;
      if (other !== w && (worker(other) & out) === 0) return other;
    }
    return -1;
  }

  return {
    runs,

    resolve(r) {
      const w = get(r, REQUEST.holder) - 1;
      const flags = get(r, REQUEST.flags);
      if (worker(w) & WORKER.knows) return fail(r);
      if ((flags & FLAG.resolutions) === FLAG.resolutions) return fail(r);
      set(r, REQUEST.flags, flags + FLAG.resolution);
      const i = sessions.find(w);
      const placing = resolver.place(hand.s, r, w, i);
      const leaves = (worker(w) & WORKER.draining) !== 0 && (placing.do === 'create' || placing.do === 'claim');
      const peer = leaves ? peerOf(w) : -1;
      if (peer >= 0) {
        set(r, REQUEST.holder, peer + 1);
        return set(r, REQUEST.flags, flags & ~FLAG.resolutions);
      }
      switch (placing.do) {
        case 'refuse':
          return fail(r);
        case 'create':
          if (flags & FLAG.maybe) return fail(r);
          return placing.keyed ? sessions.open(w, r) : sessions.tell(r, ENDING.elsewhere);
        case 'claim':
          return beginClaim(r, placing.ownOrphan);
        case 'forward':
          set(r, REQUEST.stage, STAGE.hopping);
          set(r, REQUEST.target, placing.worker + 1);
          return set(r, REQUEST.epoch, hand.s[ROW.epoch]!);
        case 'await_owner':
          set(r, REQUEST.stage, STAGE.awaiting);
          return set(r, REQUEST.target, placing.worker + 1);
        default:
          return runOn(r, w, i, placing);
      }
    },

    clearOrphan(r) {
      const caller = { me: get(r, REQUEST.holder) - 1, nonce: get(r, REQUEST.nonce), epoch: get(r, REQUEST.epoch) };
      rows.settle(caller, get(r, REQUEST.target) - 1, TURN_STATE.lost);
      // Read the row again and claim it in its current state.
      beginClaim(r, false);
    },

    claim(r, answered) {
      const me = get(r, REQUEST.holder) - 1;
      const nonce = get(r, REQUEST.nonce);
      const read = get(r, REQUEST.epoch);
      const oldHead = get(r, REQUEST.target);
      const owner = hand.s[ROW.owner]! - 1;
      const ran = owner >= 0 && owner !== me && hand.s[ROW.epoch] === read ? runsSession(owner, read) : false;
      const answer = rows.claim({ me, nonce }, read, !flag(r, FLAG.dirty));
      if (answer === 'row' && ran && !(worker(owner) & (WORKER.dead | WORKER.crashed))) hand.broken ??= 'slowKeeps';
      if (!answered) return;
      if (flag(r, FLAG.gone)) return sessions.tell(r, ENDING.gone);
      if (answer === 'fenced') {
        if (rows.isDead(me)) return fail(r);
        uncount(r);
        return again(r);
      }
      if (answer !== 'row') return again(r);
      if (flag(r, FLAG.maybe) && hasRow(r)) return fail(r);
      const head = weak === 'oldHead' ? oldHead : hand.s[ROW.head]!;
      again(r);
      sessions.takeOver(me, r, { nonce, epoch: hand.s[ROW.epoch]!, head });
    },

    unreachable(r, sent) {
      const target = get(r, REQUEST.target) - 1;
      if (sent) {
        set(r, REQUEST.flags, get(r, REQUEST.flags) | FLAG.maybe);
        if (hand.s[layout.stray] === 0) {
          hand.s[layout.stray] = target + 1;
          hand.s[layout.stray + 1] = r + 1;
        }
        if (hasRow(r)) return fail(r);
      }
      again(r, 1 << target);
    },

    lose(r) {
      const target = get(r, REQUEST.target) - 1;
      if (hand.s[layout.stray] === 0) {
        hand.s[layout.stray] = target + 1;
        hand.s[layout.stray + 1] = r + 1;
      }
      set(r, REQUEST.flags, get(r, REQUEST.flags) | FLAG.maybe);
    },

    cut(r) {
      const i = runs(r, 'current');
      const queued = runs(r, 'waiting');
      const at = i >= 0 ? i : queued;
      const w = actor(at, ACTOR.worker) - 1;
      const epoch = actor(at, ACTOR.epoch);
      // From the owner's point of view the client has disconnected.
      if (queued >= 0) hand.s[layout.actor(queued) + ACTOR.waiting] = 0;
      if (i >= 0) {
        const shown = (actor(i, ACTOR.bits) & BIT.shown) !== 0;
        hand.s[layout.actor(i) + ACTOR.bits] = actor(i, ACTOR.bits) | BIT.stray;
        if (shown) fail(r);
        else hopAgain(r, w, epoch);
        return sessions.send(i, 'clientGone');
      }
      hopAgain(r, w, epoch);
    },

    lookAgain(r) {
      const w = get(r, REQUEST.target) - 1;
      set(r, REQUEST.facts, get(r, REQUEST.facts) & ~((1 << w) | denies(w)));
      uncount(r);
      again(r);
    },

    arrive(r) {
      const w = get(r, REQUEST.target) - 1;
      const i = sessions.find(w);
      if (i < 0 || (get(r, REQUEST.epoch) !== 0 && actor(i, ACTOR.epoch) !== get(r, REQUEST.epoch))) {
        // An answer about an epoch that is over is no fact about the current one.
        const isCurrent = get(r, REQUEST.epoch) === 0 || get(r, REQUEST.epoch) === hand.s[ROW.epoch];
        if (isCurrent) return again(r, denies(w));
        uncount(r);
        return again(r);
      }
      if (flag(r, FLAG.maybe) && takeUp(r, w)) return;
      // The owner resolves the request as its own, without the sender's facts about earlier attempts.
      const facts = get(r, REQUEST.facts);
      const flags = get(r, REQUEST.flags);
      set(r, REQUEST.facts, 0);
      set(r, REQUEST.flags, (flags & ~FLAG.resolutions) | FLAG.resolution);
      const placing = resolver.place(hand.s, r, w, i);
      set(r, REQUEST.facts, facts);
      set(r, REQUEST.flags, flags);
      switch (placing.do) {
        case 'refuse':
          return fail(r);
        case 'create':
          return placing.keyed ? again(r, denies(w)) : sessions.tell(r, ENDING.elsewhere);
        case 'claim':
        case 'forward':
        case 'await_owner':
          return again(r, denies(w));
        default:
          set(r, REQUEST.target, 0);
          set(r, REQUEST.epoch, 0);
          return runOn(r, w, i, placing);
      }
    },

    broken(r) {
      const i = runs(r, 'current');
      const queued = runs(r, 'waiting');
      const w = actor(i >= 0 ? i : queued, ACTOR.worker) - 1;
      const shown = i >= 0 && (actor(i, ACTOR.bits) & BIT.shown) !== 0;
      if (queued >= 0) hand.s[layout.actor(queued) + ACTOR.waiting] = 0;
      set(r, REQUEST.flags, get(r, REQUEST.flags) | FLAG.maybe);
      if (i >= 0) {
        if (weak !== 'strayIsHeard') hand.s[layout.actor(i) + ACTOR.bits] = actor(i, ACTOR.bits) | BIT.stray;
        if (!(worker(w) & WORKER.crashed)) sessions.send(i, 'clientGone');
      }
      if (shown || hasRow(r)) return fail(r);
      again(r, 1 << w);
    },

    strayArrives() {
      const w = hand.s[layout.stray]! - 1;
      const r = hand.s[layout.stray + 1]! - 1;
      hand.s[layout.stray] = 0;
      hand.s[layout.stray + 1] = 0;
      const i = sessions.find(w);
      if (i >= 0) sessions.submitStray(i, r);
    },

    depart(r) {
      const stage = get(r, REQUEST.stage);
      if (stage === STAGE.clearing || stage === STAGE.claiming || stage === STAGE.placed) {
        const i = stage === STAGE.placed ? runs(r, 'current') : -1;
        const queued = stage === STAGE.placed ? runs(r, 'waiting') : -1;
        if (queued >= 0) return this.withdraw(r, ENDING.gone);
        set(r, REQUEST.flags, get(r, REQUEST.flags) | FLAG.gone);
        if (i >= 0) sessions.send(i, 'clientGone');
        return;
      }
      sessions.tell(r, ENDING.gone);
    },

    withdraw(r, ending) {
      const i = runs(r, 'waiting');
      hand.s[layout.actor(i) + ACTOR.waiting] = 0;
      sessions.tell(r, ending);
    },
  };
}
