import {
  ACTOR,
  BARE,
  BIT,
  COMMIT,
  COPY,
  ENDING,
  FLAG,
  freshNonce,
  type Layout,
  REQUEST,
  ROW,
  SIZES,
  STAGE,
  TOLD,
  TURN,
  TURN_STATE,
  WORKER,
} from './layout.ts';
import { EVENT, type EventName, type LocalMachine } from './local.ts';
import { Beyond, createMailboxes, type Letter } from './mailbox.ts';
import type { Broken, Caller, Hand, Rows } from './rows.ts';
import type { Weakness } from './weakness.ts';

/** The actors of all workers. Each is one session machine, connected to its effects as in `src/session`. */
export interface Sessions {
  /** Creates a new session's actor. Throws `Beyond` when no slot is free. */
  open(worker: number, request: number): void;
  /** Creates the actor of a claimed session. Returns false when the request does not fit the session's head. */
  takeOver(worker: number, request: number, hold: { nonce: number; epoch: number; head: number }): boolean;
  submit(actor: number, request: number): void;
  /** Handles a hop that arrives although its sender has given it up: the turn starts, but without a client. */
  submitStray(actor: number, request: number): void;
  /** Posts an event, which waits while a commit is unanswered. */
  send(actor: number, letter: Letter): void;
  /**
   * Delivers an external event immediately. Allowed only while no commit is pending, except for deadlines of the
   * waiting state.
   */
  deliver(actor: number, event: number): void;
  /**
   * Executes the pending commit at the rows. With `answered` false it takes effect, but the actor receives no answer.
   */
  commit(actor: number, answered: boolean): void;
  reject(actor: number): void;
  /** Makes the pending commit throw at the worker, whether or not the store has executed it. */
  breakCommit(actor: number, carriedOut: boolean): void;
  /** Makes the handling of an incoming event throw. */
  breakHandler(actor: number): void;
  /** Makes the next effect other than a commit throw before it is performed. */
  breakNext(actor: number): void;
  /** Returns the actor that this worker's registry has for the row's session, or -1. */
  find(worker: number): number;
  caller(actor: number): Caller;
  /** Removes an actor and everything it holds. */
  drop(actor: number): void;
  /** Returns the request to the dispatcher that places it. */
  handBack(request: number, worker: number): void;
  tell(request: number, ending: number): void;
}

/** Creates the actors of all workers over the state in `hand`. */
export function createSessions(
  layout: Layout,
  hand: Hand,
  machine: LocalMachine,
  rows: Rows,
  weak: Weakness | null,
): Sessions {
  const { bounds } = layout;
  const breaks = (promise: Broken) => {
    hand.broken ??= promise;
  };
  const byte = (i: number, field: number) => hand.s[layout.actor(i) + field]!;
  const mail = createMailboxes(layout, hand);
  const put = (i: number, field: number, value: number) => {
    hand.s[layout.actor(i) + field] = value;
  };
  const pending = (i: number) => byte(i, ACTOR.pending) & 15;
  const worker = (i: number) => byte(i, ACTOR.worker) - 1;
  const exists = (i: number) => byte(i, ACTOR.worker) !== 0;
  const current = (i: number) => byte(i, ACTOR.current);
  const request = (r: number, field: number) => hand.s[layout.request(r) + field]!;
  const set = (r: number, field: number, value: number) => {
    hand.s[layout.request(r) + field] = value;
  };
  const mayStart = (w: number) => (hand.s[layout.worker(w)]! & (WORKER.lapsed | WORKER.knows)) === 0;
  const caller = (i: number): Caller => ({ me: worker(i), nonce: byte(i, ACTOR.nonce), epoch: byte(i, ACTOR.epoch) });

  /**
   * Returns whether a failover has lost answered writes. Properties that rely on their durability are then not checked.
   */
  const failedOver = () => hand.s[layout.budget('failover')] !== (bounds.faults.failover ?? 0);

  const drop = (i: number) => {
    const at = layout.actor(i);
    hand.s.fill(0, at, at + SIZES.actor);
    if (layout.broken !== null && hand.s[layout.broken] === i + 1) hand.s[layout.broken] = 0;
  };

  function tell(r: number, ending: number): void {
    if (request(r, REQUEST.stage) === STAGE.ended) return breaks('oneTerminal');
    const gone = request(r, REQUEST.flags) & FLAG.gone;
    const at = layout.request(r);
    const kept = request(r, REQUEST.flags) & (FLAG.anchored | FLAG.creates);
    const named = request(r, REQUEST.named);
    const told = gone ? ENDING.gone : ending;
    hand.s.fill(0, at, at + SIZES.request);
    set(r, REQUEST.stage, STAGE.ended);
    set(r, REQUEST.named, named);
    set(r, REQUEST.flags, kept);
    set(r, REQUEST.target, told);
    if (told === ENDING.completed) hand.s[TOLD] = r + 1;
  }

  function tellCurrent(i: number, ending: number): void {
    const bits = byte(i, ACTOR.bits);
    if (current(i) === 0 || bits & BIT.told) return;
    put(i, ACTOR.bits, bits | BIT.told);
    if ((bits & BIT.stray) === 0) tell(current(i) - 1, ending);
  }

  /** Returns the request to its dispatcher: that of the client's own worker, or of the worker that received the hop. */
  function handBack(r: number, at: number): void {
    if (request(r, REQUEST.flags) & FLAG.gone) return tell(r, ENDING.gone);
    if (request(r, REQUEST.holder) === at + 1) set(r, REQUEST.stage, STAGE.resolving);
    else {
      set(r, REQUEST.stage, STAGE.hopping);
      set(r, REQUEST.target, at + 1);
    }
  }

  function giveBack(i: number): void {
    const turn = current(i);
    const bits = byte(i, ACTOR.bits);
    put(i, ACTOR.current, 0);
    put(i, ACTOR.bits, 0);
    if (turn === 0 || bits & (BIT.told | BIT.stray)) return;
    const t = layout.turn(turn - 1);
    const { me, epoch } = caller(i);
    const mine = hand.s[t + TURN.author] === me + 1 && hand.s[t + TURN.epoch] === epoch;
    if (mine && hand.s[t + TURN.state] === TURN_STATE.active && !rows.isDead(me) && !failedOver())
      breaks('noDesertion');
    handBack(turn - 1, me);
  }

  function finish(i: number): void {
    const turn = current(i);
    if (turn !== 0 && (byte(i, ACTOR.bits) & BIT.ending) === TURN_STATE.completed) put(i, ACTOR.head, turn);
    put(i, ACTOR.current, 0);
    put(i, ACTOR.bits, 0);
  }

  /** Returns whether the turn continues this lane's head and can be sent on some socket. */
  function fits(i: number, r: number): boolean {
    const named = request(r, REQUEST.named);
    if ((request(r, REQUEST.flags) & FLAG.anchored) === 0 || named === 0) return true;
    return named === byte(i, ACTOR.head) && (bounds.exact || byte(i, ACTOR.socket) === named + 1);
  }

  function admit(i: number, r: number): void {
    if (!fits(i, r)) {
      handBack(r, worker(i));
      return admitNext(i);
    }
    put(i, ACTOR.current, r + 1);
    put(i, ACTOR.bits, 0);
    mail.post(i, 'wanted');
  }

  function admitNext(i: number): void {
    finish(i);
    const state = hand.s[layout.worker(worker(i))]!;
    if (state & WORKER.knows) return mail.post(i, 'workerDead');
    const next = byte(i, ACTOR.waiting);
    put(i, ACTOR.waiting, 0);
    if (next !== 0) return admit(i, next - 1);
    if (state & WORKER.draining) mail.post(i, 'draining');
  }

  function end(i: number): void {
    const w = worker(i);
    const bits = byte(i, ACTOR.bits);
    // The request was admitted, but the actor ended before the machine processed it.
    const unbegun = bits & (BIT.told | BIT.stray | BIT.ending) || weak === 'forgetsAdmitted' ? 0 : current(i);
    finish(i);
    const waiting = byte(i, ACTOR.waiting);
    drop(i);
    for (const turn of [unbegun, waiting]) if (turn !== 0) handBack(turn - 1, w);
  }

  /** Sends the frame after the final checks: first the self-fence, then the socket. Then it counts as a create. */
  function sendFrame(i: number): void {
    const { s } = hand;
    const r = current(i) - 1;
    if (r < 0) return;
    const w = worker(i);
    // The client already has its answer, so nothing is sent.
    if (byte(i, ACTOR.bits) & BIT.told) return mail.post(i, 'notSentLease');
    if (!mayStart(w)) {
      if (weak !== 'sendWithoutLease') return mail.post(i, 'notSentLease');
      breaks('leaseHeld');
    }
    const named = request(r, REQUEST.named);
    const flags = request(r, REQUEST.flags);
    const bits = byte(i, ACTOR.bits);
    const delta = named !== 0 && byte(i, ACTOR.socket) === named + 1;
    if (!delta && named !== 0 && flags & FLAG.anchored && !bounds.exact) {
      if ((bits & BIT.ending) === 0) put(i, ACTOR.bits, bits | TURN_STATE.failed);
      return mail.post(i, 'endedRetire');
    }
    if (byte(i, ACTOR.socket) === 0) return mail.post(i, 'notSentSocket');
    const t = layout.turn(r);
    const own = s[t + TURN.author] === w + 1 && s[t + TURN.epoch] === byte(i, ACTOR.epoch);
    if ((s[t + TURN.state] === TURN_STATE.none || !own) && !failedOver()) breaks('committedFirst');
    const creates = flags & FLAG.creates;
    if (creates >= 2) return breaks('twoCreates');
    if (creates === 1 && bits & BIT.shown) breaks('unseenResend');
    if (delta && byte(i, ACTOR.held) !== named) breaks('anchorHeld');
    set(r, REQUEST.flags, flags + 1);
    put(i, ACTOR.bits, delta ? bits | BIT.delta : bits & ~BIT.delta);
  }

  /** Sends `release` without waiting for it. It may arrive at any later time, or never. */
  function release(i: number): void {
    if (byte(i, ACTOR.waiting) !== 0) return;
    for (let j = 0; j < bounds.copies; j += 1) {
      const c = layout.copy(j);
      if (hand.s[c + COPY.kind] !== 0) continue;
      hand.s[c + COPY.kind] = COMMIT.release;
      hand.s[c + COPY.worker] = worker(i) + 1;
      hand.s[c + COPY.nonce] = byte(i, ACTOR.nonce);
      hand.s[c + COPY.epoch] = byte(i, ACTOR.epoch);
      return;
    }
  }

  function ask(i: number, commit: number): void {
    put(i, ACTOR.pending, commit);
    if (weak === 'frameBeforeCommit' && (commit === COMMIT.create || commit === COMMIT.start)) sendFrame(i);
  }

  function perform(i: number, effect: string): void {
    switch (effect) {
      case 'dial':
      case 'closeSocket':
        put(i, ACTOR.socket, 0);
        put(i, ACTOR.held, 0);
        return mail.forgetLosses(i);
      case 'commitCreate':
        return ask(i, COMMIT.create);
      case 'commitStart':
        return ask(i, COMMIT.start);
      case 'commitOrphan':
        return ask(i, COMMIT.orphan);
      case 'commitSettle':
        return ask(i, COMMIT.settle);
      case 'commitBareSettle':
        return ask(i, COMMIT.bareSettle);
      case 'sendCreate':
      case 'sendFull':
        return sendFrame(i);
      case 'deliverTerminal':
        return tellCurrent(
          i,
          (byte(i, ACTOR.bits) & BIT.ending) === TURN_STATE.completed ? ENDING.completed : ENDING.failed,
        );
      case 'failTurn':
      case 'relayRefusal':
        return tellCurrent(i, ENDING.failed);
      case 'reresolve':
        return giveBack(i);
      case 'admitNext':
        return admitNext(i);
      case 'release':
        return release(i);
      case 'handBack':
        return end(i);
    }
    if (effect.startsWith('endTurn:')) {
      const bits = byte(i, ACTOR.bits);
      if ((bits & BIT.ending) === 0) put(i, ACTOR.bits, bits | Number(effect.slice(8)));
    }
  }

  function step(i: number, event: number): void {
    const { to, effects } = machine.step(byte(i, ACTOR.local), event);
    put(i, ACTOR.local, to);
    for (const effect of effects) {
      if (!exists(i)) continue;
      if (strikes(i, effect)) fail(i);
      else perform(i, effect);
    }
  }

  /**
   * Returns whether the planned failure hits this effect. Commits fail by their verdicts, and the parts of an actor's
   * end fail separately.
   */
  function strikes(i: number, effect: string): boolean {
    if (layout.broken === null || hand.s[layout.broken] !== i + 1) return false;
    if (effect.startsWith('commit') || effect === 'handBack') return false;
    hand.s[layout.broken] = 0;
    return true;
  }

  /**
   * Handles a thrown effect. The client is answered immediately, and the machine processes the failure before any other
   * event.
   */
  function fail(i: number): void {
    if (weak === 'forgetsThrown') return;
    if (current(i) !== 0 && (byte(i, ACTOR.bits) & BIT.told) === 0) {
      if ((byte(i, ACTOR.bits) & BIT.ending) === 0) put(i, ACTOR.bits, byte(i, ACTOR.bits) | TURN_STATE.failed);
      const completed = (byte(i, ACTOR.bits) & BIT.ending) === TURN_STATE.completed;
      tellCurrent(i, completed ? ENDING.completed : ENDING.failed);
    }
    mail.postFirst(i, 'effectFailed');
  }

  function drain(i: number): void {
    while (exists(i) && pending(i) === 0 && byte(i, ACTOR.mail) !== 0) {
      step(i, EVENT[mail.take(i)]);
    }
  }

  function deliver(i: number, event: number): void {
    step(i, event);
    drain(i);
  }

  function send(i: number, letter: Letter): void {
    if (!exists(i)) return;
    mail.post(i, letter);
    drain(i);
  }

  function slot(): number {
    for (let i = 0; i < layout.actors; i += 1) if (!exists(i)) return i;
    throw new Beyond();
  }

  function verdict(i: number, event: EventName): void {
    put(i, ACTOR.pending, 0);
    deliver(i, EVENT[event]);
  }

  /**
   * Returns whether the worker's own row was lost. The store's refusal may then be temporary: the next heartbeat
   * restores the row, and the call is repeated.
   */
  const isUnrecorded = (w: number) =>
    (hand.s[layout.worker(w)]! & (WORKER.unrecorded | WORKER.dead)) === WORKER.unrecorded;

  const started = (i: number): EventName | null => {
    if (!mayStart(worker(i)) && weak !== 'sendWithoutLease') {
      // Wait for a late heartbeat. A dead identity cannot be renewed.
      return hand.s[layout.worker(worker(i))]! & WORKER.knows ? 'startedNoLease' : null;
    }
    return byte(i, ACTOR.socket) === 0 ? 'startedNoSocket' : 'started';
  };

  const settled = (i: number): EventName => (byte(i, ACTOR.socket) === 0 ? 'settledClosed' : 'settledOpen');

  /**
   * Executes the pending commit and returns its verdict as the event that `src/session/commits.ts` produces. Null means
   * that there is no verdict yet and the commit is repeated.
   */
  function ofRows(i: number): EventName | null {
    const me = caller(i);
    const turn = current(i) - 1;
    switch (pending(i)) {
      case COMMIT.create:
        switch (rows.create(me, turn)) {
          case 'ok':
          case 'already':
            return started(i);
          case 'rejected':
            return 'rejectedNoRow';
          case 'fenced':
            return isUnrecorded(me.me) ? null : 'notCreated';
          default:
            return 'notCreated';
        }
      case COMMIT.start:
        switch (rows.start(me, turn, byte(i, ACTOR.head))) {
          case 'ok':
          case 'already':
            return started(i);
          case 'head_moved':
            return 'headMoved';
          case 'busy':
            return 'busy';
          case 'fenced':
            return isUnrecorded(me.me) ? null : 'fenced';
          default:
            return 'fenced';
        }
      case COMMIT.orphan: {
        const orphan = byte(i, ACTOR.pending) >> 4;
        if (orphan === 0) {
          const active = hand.s[ROW.active]!;
          if (active === 0) return 'cleared';
          put(i, ACTOR.pending, COMMIT.orphan | (active << 4));
          return null;
        }
        return rows.settle(me, orphan - 1, TURN_STATE.lost) === 'branch' ? 'fenced' : 'cleared';
      }
      default: {
        const ending = byte(i, ACTOR.bits) & BIT.ending || TURN_STATE.lost;
        const bare = pending(i) === COMMIT.bareSettle ? BARE : 0;
        if (rows.settle(me, turn, ending | bare) !== 'branch') return settled(i);
        if (!rows.isDead(me.me) && !failedOver()) breaks('notRobbed');
        return 'fenced';
      }
    }
  }

  return {
    open(w, r) {
      const i = slot();
      const nonce = freshNonce(layout, hand.s);
      put(i, ACTOR.worker, w + 1);
      put(i, ACTOR.local, machine.born);
      put(i, ACTOR.epoch, 1);
      put(i, ACTOR.nonce, nonce);
      put(i, ACTOR.current, r + 1);
      set(r, REQUEST.stage, STAGE.placed);
    },
    takeOver(w, r, { nonce, epoch, head }) {
      const i = slot();
      for (let other = 0; other < layout.actors; other += 1) {
        if (worker(other) === w && byte(other, ACTOR.epoch) < epoch && belongs(other)) send(other, 'workerDead');
      }
      put(i, ACTOR.worker, w + 1);
      put(i, ACTOR.local, machine.claimed);
      put(i, ACTOR.epoch, epoch);
      put(i, ACTOR.nonce, nonce);
      put(i, ACTOR.head, head);
      if (!fits(i, r)) {
        drop(i);
        return false;
      }
      put(i, ACTOR.current, r + 1);
      set(r, REQUEST.stage, STAGE.placed);
      send(i, 'wanted');
      return true;
    },
    submit(i, r) {
      set(r, REQUEST.stage, STAGE.placed);
      if (current(i) === 0 && machine.locals[byte(i, ACTOR.local)]!.idle) {
        admit(i, r);
        return drain(i);
      }
      if (byte(i, ACTOR.waiting) !== 0) throw new Beyond();
      put(i, ACTOR.waiting, r + 1);
    },
    submitStray(i, r) {
      if (current(i) !== 0 || !machine.locals[byte(i, ACTOR.local)]!.idle || !fits(i, r)) return;
      put(i, ACTOR.current, r + 1);
      put(i, ACTOR.bits, BIT.stray);
      send(i, 'wanted');
      send(i, 'clientGone');
    },
    send,
    deliver,
    commit(i, answered) {
      const event = ofRows(i);
      if (event === null) return;
      if (answered) return verdict(i, event);
      if (weak === 'silenceIsFenced') verdict(i, pending(i) === COMMIT.create ? 'notCreated' : 'fenced');
    },
    breakCommit(i, carriedOut) {
      if (carriedOut) ofRows(i);
      verdict(i, pending(i) === COMMIT.create ? 'rejectedNoRow' : 'rejected');
    },
    breakHandler(i) {
      fail(i);
      drain(i);
    },
    breakNext(i) {
      hand.s[layout.broken!] = i + 1;
    },
    reject: (i) => verdict(i, pending(i) === COMMIT.create ? 'rejectedNoRow' : 'rejected'),
    find(w) {
      let found = -1;
      for (let i = 0; i < layout.actors; i += 1) {
        if (worker(i) !== w || !belongs(i)) continue;
        if (found < 0 || byte(i, ACTOR.epoch) > byte(found, ACTOR.epoch)) found = i;
      }
      return found;
    },
    caller,
    drop,
    handBack,
    tell,
  };

  /** Returns whether the actor belongs to the row's session, and not to one that lost the race to be created. */
  function belongs(i: number): boolean {
    return exists(i) && (byte(i, ACTOR.epoch) > 1 || byte(i, ACTOR.nonce) === hand.s[ROW.sid]);
  }
}
