import {
  type ForcedEnd,
  type SessionContext,
  type SessionEvent,
  type SessionFault,
  sessionMachine,
} from '../../machines/session.ts';
import { BridgeError, safeError } from '../errors.ts';
import type { AttemptFact, LocalSession } from '../resolve/types.ts';
import { defineProgram, type Effect, persist, rehydrate, startActor } from '../runtime/index.ts';
import {
  type KeyRef,
  type SavedState,
  type SessionStateName,
  StoreUnavailable,
  type TurnResult,
} from '../store/port.ts';
import type { Line } from '../transcript/items.ts';
import type { UpstreamAnswer } from '../upstream/port.ts';
import {
  bareResult,
  type CommitReply,
  commitCreate,
  commitOrphan,
  commitSettle,
  commitStart,
  errorOf,
  turnResult,
} from './commits.ts';
import { connectionLost, dial, exchangeRefused, firstEventOverdue, prepareTurn, sendTurn } from './connection.ts';
import type { Head, LostConnection } from './core.ts';
import { type SessionBirth, SessionCore, type SessionEnv } from './core.ts';
import { FrameReader } from './frames.ts';
import { isRelated, place, planFor } from './planning.ts';
import type { ClientSink } from './port.ts';
import { tenantBusy } from './quota.ts';
import { faultError, metricsOf, type Turn } from './turn.ts';

/** Version of the persisted snapshot's shape; a snapshot of another version is not loaded. */
export const SESSION_MACHINE_VERSION = 1;

/** The session machine with recorded effects. Created once and shared by every actor. */
export const sessionProgram = defineProgram(sessionMachine, {
  version: SESSION_MACHINE_VERSION,
  commits: ['commitCreate', 'commitStart', 'commitOrphan', 'commitSettle', 'commitBareSettle'],
});

const counters: readonly string[] = ['generation', 'creates', 'turns', 'takeovers'] satisfies (keyof SessionContext)[];
/** Upper bound for a valid counter; real ones stay far below. */
const COUNTED_AT_MOST = 2 ** 31;

/** Returns whether a value read from a row is a session context: its counters and nothing else. */
export function isSessionContext(context: unknown): context is SessionContext {
  if (typeof context !== 'object' || context === null) return false;
  const entries = Object.entries(context);
  return (
    entries.length === counters.length &&
    entries.every(
      ([name, count]) => counters.includes(name) && Number.isInteger(count) && count >= 0 && count <= COUNTED_AT_MOST,
    )
  );
}

/** Returns the top-level state of a dotted state: one of the five names that a row can hold. */
export function topState(state: string): SessionStateName {
  return state.split('.', 1)[0] as SessionStateName;
}

/** States in which an actor has no turn. */
const resting = new Set(['live.idle', 'stale']);

const FIRST_REDIAL = 200;
const SLOWEST_REDIAL = 2_000;
/** Maximum number of attempts to record that a session is closed. */
const CLOSE_ATTEMPTS = 5;

/** The dispatcher, as its sessions see it. */
export interface SessionHost {
  /** Returns a turn that this session cannot serve to the resolver, with the fact that was learned. */
  returnTurn(turn: Turn, fact: AttemptFact | null): void;
  /** Called when the session's row exists, or certainly never will: requests that wait for it can be resolved again. */
  onCreated(session: Session): void;
  /** Called when the session's actor has ended. Its undelivered turn may still be reattached. */
  onEnded(session: Session): void;
  /** Called when an ended turn of the session is no longer kept for its client. */
  onTurnDiscarded(session: Session): void;
  /** Called when the session becomes idle with an open socket. */
  onIdle(session: Session): void;
}

/** A turn's end and the resulting head. Computed once, so that repetitions of the commit are identical. */
interface PreparedEnd {
  turn: Turn;
  result: TurnResult;
  head: Head | null;
}

/**
 * One (session, epoch) on this worker: binds one session machine to its effects on the socket, the store and the turns'
 * clients. It makes no decisions of its own: each step is an event to the machine or an effect of the machine.
 */
export class Session extends SessionCore {
  /** Hard key by which requests find this session, if it is known here. */
  readonly key: KeyRef | null;
  readonly #host: SessionHost;
  readonly #isNew: boolean;
  /** True if its first turn named the session by hard evidence. */
  readonly #named: boolean;
  /** Name of the deadline of its idle socket: only sessions that were reached by hard evidence keep one for long. */
  #kept: 'idle' | 'laneIdle' | 'softIdle';
  /** Maximum age of its socket in milliseconds, with jitter. */
  #socketAge = Number.POSITIVE_INFINITY;
  readonly #frames: FrameReader;
  #prepared: PreparedEnd | null = null;
  #orphanId: string | null = null;
  /** Start of the wait for an unanswered commit, moved forward by each confirmed heartbeat, in monotonic milliseconds. */
  #waitsSince = 0;
  /** True if an operator has closed the session: it then becomes closed instead of released. */
  #closing = false;

  /** @param first the first turn, passed to `begin` afterwards */
  constructor(env: SessionEnv, host: SessionHost, birth: SessionBirth, first: Turn) {
    super(env, birth, first);
    const { evidence, placement, outcome } = first;
    this.#host = host;
    this.#isNew = birth.kind === 'new';
    const named = evidence.anchor !== null || evidence.token.kind === 'ours' || evidence.hardKey?.kind === 'thread';
    // A session header is shared by all conversations of a client. A conversation beside the header's own session counts
    // as named only after it has been continued.
    this.#named = named || (evidence.hardKey !== null && (!this.#isNew || this.keys.length > 0));
    this.#kept = this.#isNew && outcome === 'parallel_lane' ? 'laneIdle' : this.#named ? 'idle' : 'softIdle';
    this.key = placement.namedByKey === this.id || this.keys.length > 0 ? evidence.hardKey : null;
    this.#frames = new FrameReader(this);
  }

  // What the dispatcher and the registry ask.

  /** True for sessions reached by hard evidence: only these keep an idle socket for long. */
  get hard(): boolean {
    return this.#named || this.#kept === 'idle';
  }

  /**
   * True if only the socket can continue the conversation: the head is neither exactly replayable nor stored at the
   * provider. Such sessions are evicted last.
   */
  get onlyHolder(): boolean {
    const { head } = this.turns;
    return head !== null && head.replay !== 'exact' && !head.storedUpstream && this.socket.anchor !== null;
  }

  /** Age of the open socket in milliseconds; null without one. */
  get socketAgeMs(): number | null {
    return this.socket.open ? this.env.clock.now() - this.socket.openedAt : null;
  }

  /** Returns the resolver's view of this session. */
  view(): LocalSession {
    const { current, waiting, attachable } = this.turns;
    const { state } = this.actor;
    return {
      sessionId: this.id,
      scope: this.scope,
      epoch: this.epoch,
      state,
      busy: current !== null || waiting.length > 0 || !resting.has(state),
      socketAnchor: this.socket.anchor,
      clientAttached: attachable?.stream.attached ?? false,
      bufferComplete: attachable?.repeatable ?? false,
      activeRequestFp: attachable?.evidence.requestFp ?? null,
      activeParentTurnId: attachable?.parent?.id ?? null,
      activeClientTurnId: attachable?.evidence.clientTurnId ?? null,
      activeIdempotencyKey: attachable?.evidence.idempotencyKey ?? null,
      unsettledResponseIds: current?.ending && current.responseId ? [current.responseId] : [],
      queueLength: waiting.length,
      queueFull: waiting.length >= this.env.config.limits.queueLength,
    };
  }

  /** Returns whether the items of a request show that it belongs to this conversation, see `isRelated`. */
  related(turn: Turn): boolean {
    return isRelated(turn, this.turns);
  }

  /** Stores the head's line after it was read from the database. */
  learnLine(line: Line): void {
    const { turns } = this;
    if (turns.line === null && turns.head?.id === line.turnId) turns.line = line;
  }

  /** Places the first turn and starts the actor. Called once. If it throws, the session has ended. */
  begin(birth: SessionBirth, turn: Turn): void {
    this.#placed(turn);
    try {
      if (place(turn, this.turns) && planFor(turn, null).form !== 'impossible') {
        this.#take(turn);
        this.#start(birth);
        if (birth.kind === 'claimed') this.send({ type: 'turn.wanted' });
        return;
      }
    } catch (error) {
      this.turns.giveUp();
      this.ended = true;
      this.#host.onEnded(this);
      throw error;
    }
    this.ended = true;
    turn.note({ type: 'hand_back' });
    this.#host.onEnded(this);
    this.#host.returnTurn(turn, { kind: 'head_moved', sessionId: this.id });
  }

  /**
   * Takes a turn.
   *
   * @returns false if this actor cannot serve turns any more, so that the turn must be resolved again
   */
  submit(turn: Turn): boolean {
    if (this.ended) return false;
    this.#placed(turn);
    this.turns.touch();
    if (this.turns.current === null && this.actor.state === 'live.idle') this.#admit(turn);
    else this.turns.queue(turn);
    return true;
  }

  /**
   * Attaches another connection to the stream of the attachable turn, from event 0.
   *
   * @returns false if that turn cannot be shown again
   */
  reattach(sink: ClientSink): boolean {
    const turn = this.turns.attachable;
    if (!turn?.repeatable) return false;
    turn.stream.attach(sink);
    this.send({ type: 'client.back' });
    return true;
  }

  /** Handles the disconnect of a turn's client. */
  clientGone(turn: Turn): void {
    if (this.turns.withdraw(turn)) turn.fail(new BridgeError('bridge_turn_cancelled'));
    else if (turn === this.turns.current) this.send({ type: 'client.gone' });
  }

  /** Stops the actor immediately. Its clients are answered; unanswered store calls are not repeated. */
  abandon(): void {
    if (this.ended) return;
    const { current } = this.turns;
    for (const turn of [...(current ? [current] : []), ...this.turns.takeWaiting()]) {
      this.#always('answering a request', () => turn.fail(new BridgeError('bridge_draining')));
    }
    this.#always('closing the socket', () => this.socket.close(1001, 'the worker stops'));
    this.#end();
  }

  // Admission of turns, one at a time.

  /** Notes that a turn was handed to this session. What an earlier session did for it counts as placing. */
  #placed(turn: Turn): void {
    turn.note({ type: 'queue' });
    Object.assign(turn.times, { placed: this.env.clock.now(), begun: null, ready: null, started: null });
  }

  #take(turn: Turn): void {
    turn.times.begun = this.env.clock.now();
    this.turns.take(turn);
  }

  /** Admits a turn. A turn whose admission throws is answered with an error, and the following ones continue. */
  #admit(turn: Turn): void {
    try {
      // Its anchor was unknown while it waited for the settle of just that turn. Now the store can tell what it continues.
      if (turn.evidence.anchor !== null && turn.anchor === null) {
        this.#return(turn, null);
        return this.#admitNext();
      }
      if (!place(turn, this.turns) || planFor(turn, this.socket.anchor).form === 'impossible') {
        this.#return(turn, { kind: 'head_moved', sessionId: this.id });
        return this.#admitNext();
      }
      if (!turn.lease.run()) {
        turn.fail(tenantBusy('turns'));
        return this.#admitNext();
      }
      if (this.#kept === 'softIdle' && turn.evidence.hardKey !== null && turn.continuation?.kind === 'extends') {
        this.#kept = 'idle';
      }
      this.#take(turn);
      this.send({ type: 'turn.wanted' });
    } catch (error) {
      if (this.turns.current !== turn) {
        this.#always('admitting a request', () => turn.fail(new BridgeError('bridge_internal')));
      }
      throw error;
    }
  }

  #admitNext(): void {
    this.#finishCurrent();
    if (!this.ownsWorkerId) return this.send({ type: 'worker.dead' });
    const next = this.turns.waiting.shift();
    if (next) return this.#admit(next);
    if (this.env.worker.draining) return this.send({ type: 'worker.draining' });
    // The lifetime of an idle socket depends on the head that it holds, which has just changed.
    this.actor.touch('idle');
    this.actor.touch('age');
    this.#host.onIdle(this);
  }

  /** Finishes the current turn after the store has answered: the settled turn becomes the head, the session is free. */
  #finishCurrent(): void {
    const turn = this.turns.current;
    if (!turn) return;
    this.cancelStatusHold?.();
    this.cancelStatusHold = null;
    this.turns.finish(this.#prepared?.turn === turn ? this.#prepared.head : null);
    this.#prepared = null;
    this.#frames.rest();
    this.signals.answered();
  }

  /** Returns a turn to the dispatcher. If that fails, the request is answered with an error. */
  #return(turn: Turn, fact: AttemptFact | null): void {
    try {
      this.#host.returnTurn(turn, fact);
    } catch (error) {
      this.report('handing a request back', error);
      this.#always('answering a request', () => turn.fail(new BridgeError('bridge_internal', { cause: error })));
    }
  }

  #returnCurrent(fact: AttemptFact): void {
    const turn = this.turns.giveUp();
    if (turn?.stream.finished) turn.stream.discard();
    if (!turn || turn.stream.finished) return;
    turn.note({ type: 'hand_back' });
    this.#return(turn, fact);
  }

  /**
   * Removes the current turn if it has not begun. The event that ended this actor (a drain, an eviction) can have been
   * queued before the event of the turn that was just admitted.
   */
  #giveUpUnbegun(): Turn[] {
    const turn = this.turns.current;
    if (!turn || turn.stream.finished || turn.ending !== null) return [];
    this.turns.giveUp();
    return [turn];
  }

  /** Ends the actor for any reason. Waiting requests, including one that has not begun, are placed again. */
  #end(): void {
    if (this.ended) return;
    this.ended = true;
    const unbegun = this.#giveUpUnbegun();
    this.#always('the last turn', () => this.#finishCurrent());
    const waiting = [...unbegun, ...this.turns.takeWaiting()];
    this.actor.stop();
    this.#always('taking the session off', () => this.#host.onEnded(this));
    for (const turn of waiting) {
      turn.note({ type: 'hand_back' });
      this.#return(turn, null);
    }
  }

  // The machine: its start, its effects and its deadlines.

  #start(birth: SessionBirth): void {
    const { id, epoch } = this;
    const { clock, inspect, log, config, random } = this.env;
    this.#socketAge = config.deadlines.socketAge + (random() * 2 - 1) * config.deadlines.socketAgeJitter;
    const from =
      birth.kind === 'new'
        ? { input: {} }
        : {
            snapshot: rehydrate(sessionProgram, {
              persisted: birth.row.snapshot,
              machineVersion: birth.row.machineVersion,
              input: {},
              takeover: { type: 'session.claimed' },
              validContext: isSessionContext,
            }).snapshot,
          };
    this.actor = startActor(sessionProgram, {
      id: `${id}@${epoch}`,
      ...from,
      clock,
      durations: this.#duration.bind(this),
      perform: this.#perform.bind(this),
      effectFailed: ({ type }, error): SessionEvent => {
        this.report(type, error);
        return { type: 'effect.failed' };
      },
      commit: this.#commit.bind(this),
      commitFailed: ({ type }, error): SessionEvent => {
        this.rejection = `${type} failed here`;
        log.error({ session: id, epoch, commit: type, error: safeError(error) }, 'a commit could not be made');
        return { type: 'store.rejected', rowExists: type !== 'commitCreate' };
      },
      inspect,
      onError: (error) => log.error({ session: id, epoch, error: safeError(error) }, 'a session failed'),
      onStopped: () => {
        if (this.ended) return;
        // The actor was not stopped by a final state: the machine itself has failed.
        this.report('the machine', new Error('The machine has stopped.'));
        this.#always('closing the socket', () => this.socket.close());
        this.#end();
      },
    });
  }

  #perform({ type, params }: Effect): void {
    const turn = this.turns.current;
    switch (type) {
      case 'dial':
        // Discard what a lost socket had begun: the next attempt starts from the beginning.
        if (turn) turn.heldCreated = null;
        return void dial(this);
      case 'closeSocket':
        return this.socket.close();
      case 'sendFull':
        // The state does not change, but now waits for the answer to the second create.
        this.actor.touch('firstEvent');
        return sendTurn(this, turn!);
      case 'sendCreate':
        return sendTurn(this, turn!);
      case 'endTurn': {
        const { end: state, fault } = params as { end: ForcedEnd; fault: SessionFault };
        if (!turn) return;
        if (fault === 'bridge_first_event_timeout') firstEventOverdue(this, turn);
        turn.ending ??= { state, terminal: null, fault, answer: null, error: null };
        // If the client already got an error because the store was silent, the turn itself was cancelled without being
        // sent.
        if (turn.times.sent === null && turn.ending.answer === null) turn.ending.state = state;
        return;
      }
      case 'deliverTerminal':
        if (!turn) return;
        turn.times.ended = this.env.clock.now();
        return turn.deliver();
      case 'failTurn':
        return turn?.fail(faultError(turn, (params as { fault: SessionFault }).fault));
      case 'relayRefusal':
        return turn?.deliver();
      case 'reresolve':
        return this.#returnCurrent(this.#isNew ? { kind: 'key_taken' } : { kind: 'head_moved', sessionId: this.id });
      case 'admitNext':
        return this.#admitNext();
      case 'handBack':
        return this.#end();
      case 'release':
        if (this.#closing) return this.#inBackground('giving the session up', this.#recordClose());
        // A request that waits here will claim the session again; releasing it first would only cost a round trip.
        if (this.turns.waiting.length === 0) this.#inBackground('giving the session up', this.#release());
        return;
      case 'recordClose':
        return this.#inBackground('closing the session', this.#recordClose());
      case 'closeWhenSettled':
        this.#closing = true;
        return;
      case 'reportUnsettled': {
        const { id, epoch, rejection } = this;
        const what = { session: id, epoch, turn: turn?.id, reason: rejection };
        return this.env.log.error(what, 'a turn could not be settled');
      }
    }
  }

  /**
   * Returns the duration of a deadline of the machine, in milliseconds.
   *
   * @throws Error for an unknown name
   */
  #duration(name: string): number {
    const { config, clock, random } = this.env;
    const { deadlines } = config;
    switch (name) {
      case 'idle':
        return this.onlyHolder ? Number.POSITIVE_INFINITY : deadlines[this.#kept];
      case 'age': {
        const limit = this.onlyHolder ? deadlines.onlyHolderAge : this.#socketAge;
        return Math.max(0, limit - (clock.now() - this.socket.openedAt));
      }
      case 'redial': {
        const dials = Math.min(this.actor.context.generation, 4);
        return Math.min(SLOWEST_REDIAL, FIRST_REDIAL * 2 ** dials) * (0.75 + random() / 2);
      }
      default: {
        const ms = (deadlines as Record<string, number>)[name];
        if (ms === undefined) throw new Error(`no duration is known for the deadline ${name}`);
        return ms;
      }
    }
  }

  // Commits.

  /** Makes one attempt at a commit. An unreachable store counts as unanswered; any other error is final. */
  async #commit(effect: Effect, attempt: number): Promise<CommitReply> {
    if (attempt === 0) this.#waitsSince = this.env.clock.now();
    try {
      const reply = await this.#ask(effect);
      if ('unknown' in reply) this.#bearWithStore();
      return reply;
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      this.#bearWithStore();
      return { unknown: error.message };
    }
  }

  /** Restarts the wait for the start if the store has confirmed a heartbeat in the meantime: it is slow, not silent. */
  #bearWithStore(): void {
    const { worker, clock } = this.env;
    if (worker.confirmedAt < this.#waitsSince) return;
    this.#waitsSince = clock.now();
    this.actor.touch('startWait');
  }

  async #ask({ type }: Effect): Promise<CommitReply> {
    const turn = this.turns.current!;
    switch (type) {
      case 'commitCreate': {
        turn.times.ready ??= this.env.clock.now();
        const asked = commitCreate(this, turn);
        prepareTurn(this, turn);
        const reply = await asked;
        if ('event' in reply) this.#host.onCreated(this);
        return this.#noteStart(turn, reply);
      }
      case 'commitStart': {
        turn.times.ready ??= this.env.clock.now();
        const asked = commitStart(this, turn);
        prepareTurn(this, turn);
        return this.#noteStart(turn, await asked);
      }
      case 'commitOrphan': {
        // All repetitions must name the same orphan; the next commit of this type names another one.
        this.#orphanId ??= (await this.env.store.session(this.scope, this.id))?.activeTurnId ?? null;
        if (this.#orphanId === null) return { event: { type: 'store.cleared' } };
        const reply = await commitOrphan(this, this.#orphanId);
        if ('event' in reply) this.#orphanId = null;
        return reply;
      }
      case 'commitBareSettle':
        turn.times.answered ??= this.env.clock.now();
        return commitSettle(this, turn, this.#bareEnd(turn));
      default:
        turn.times.answered ??= this.env.clock.now();
        return commitSettle(this, turn, this.#prepareEnd(turn));
    }
  }

  /** Notes a durable start in the turn's record, whether or not its frame can be sent. */
  #noteStart(turn: Turn, reply: CommitReply): CommitReply {
    if (!('event' in reply) || reply.event.type !== 'store.started') return reply;
    turn.note({ type: 'commit' });
    turn.times.started ??= this.env.clock.now();
    return reply;
  }

  #prepareEnd(turn: Turn): TurnResult {
    if (this.#prepared?.turn !== turn) {
      const { result, head } = turnResult(turn, this);
      const facts = metricsOf(turn, this.actor.context.creates, this.env.clock.now());
      this.#prepared = { turn, result: { ...result, facts }, head };
    }
    return this.#prepared.result;
  }

  /**
   * Returns the turn's end without content. Used when the full end could not be stored or not even be computed, so it
   * must not depend on anything that could have failed there. A turn that was not stored cannot be rebuilt either.
   */
  #bareEnd(turn: Turn): TurnResult {
    const state = turn.ending?.state ?? 'lost';
    // The turn still becomes the head: a request that names it must get the error that it cannot be continued.
    const anchorLost = state === 'completed' || state === 'incomplete';
    const end = { ...bareResult(state, turn.kept, errorOf(turn)), anchorLost };
    if (this.#prepared?.turn !== turn) return end;
    const { result, head } = this.#prepared;
    if (head) head.row = { ...head.row, replay: 'never' };
    return { ...end, facts: result.facts };
  }

  async #release(): Promise<void> {
    const { id, epoch, env } = this;
    const answer = await env.store.release(this.#lastCall('stale'));
    if (answer.verdict === 'unknown') {
      env.log.info({ session: id, epoch }, 'release unanswered; the row stays claimable');
    }
  }

  async #recordClose(): Promise<void> {
    const call = this.#lastCall('closed');
    for (let attempt = 0; attempt < CLOSE_ATTEMPTS; attempt += 1) {
      if ((await this.env.store.close(call)).verdict !== 'unknown') return;
    }
  }

  #lastCall<S extends SessionStateName>(state: S) {
    const { workerId: me, nonce, scope, id: sessionId, epoch } = this;
    return { me, nonce, scope, sessionId, epoch, saved: { ...this.saved(), state } };
  }

  // What the core and the socket ask.

  override saved(): SavedState {
    const { actor } = this;
    return { state: topState(actor.state), snapshot: persist(actor), machineVersion: SESSION_MACHINE_VERSION };
  }

  override onTurnDiscarded(): void {
    this.#host.onTurnDiscarded(this);
  }

  override onFrame(text: string): void {
    try {
      this.#frames.read(text, this.turnOnWire);
    } catch (error) {
      this.failed('a frame', error);
    }
  }

  override onLost(generation: number, how: LostConnection): void {
    try {
      connectionLost(this, generation, how);
    } catch (error) {
      this.failed('a lost connection', error);
    }
  }

  override onRefused(answer: UpstreamAnswer): void {
    try {
      const turn = this.turnOnWire;
      if (turn) exchangeRefused(this, turn, answer);
    } catch (error) {
      this.failed('a refusal', error);
    }
  }

  override onStuck(): void {
    try {
      const turn = this.turnOnWire;
      if (!turn) return;
      turn.stream.sink.cut();
      this.socket.pause(turn, false);
    } catch (error) {
      this.failed('a stuck client', error);
    }
  }

  /** Runs a step that must not prevent the following ones: an error is only reported. */
  #always(what: string, step: () => void): void {
    try {
      step();
    } catch (error) {
      this.report(what, error);
    }
  }

  #inBackground(what: string, work: Promise<void>): void {
    this.env.background(work.catch((error) => this.report(what, error)));
  }
}
