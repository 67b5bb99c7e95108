import {
  type ForcedEnd,
  type SessionContext,
  type SessionEvent,
  type SessionFault,
  type SessionMachine,
  sessionMachine,
} from '../../machines/session.ts';
import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import type { TurnLine } from '../observe/log.ts';
import { safeError } from '../observe/trace.ts';
import type { AttemptFact, LocalSession } from '../resolve/types.ts';
import {
  type DurableActor,
  defineProgram,
  type Effect,
  type Inspect,
  persist,
  rehydrate,
  startActor,
} from '../runtime/index.ts';
import {
  type KeyRef,
  type SavedState,
  type SessionRow,
  type SessionStateName,
  type SessionStore,
  StoreUnavailable,
  type TurnMetrics,
  type TurnResult,
  type TurnRow,
} from '../store/port.ts';
import type { Line } from '../transcript/line.ts';
import type { Abilities } from '../upstream/abilities.ts';
import { createUpstreamTurnState } from '../upstream/headers.ts';
import type { UpstreamAnswer, UpstreamTarget, UpstreamTransport } from '../upstream/port.ts';
import { bareResult, type CommitReply, createCommits, errorOf, type Head, turnResult } from './commits.ts';
import {
  createDialer,
  createSender,
  createSessionSocket,
  type LostConnection,
  type SessionSocket,
} from './connection.ts';
import { createAnswerSignals, createFrameReader } from './frames.ts';
import { isRelated, mayResend, place, planFor } from './planning.ts';
import type { ClientSink } from './port.ts';
import { tenantBusy } from './quota.ts';
import { faultError, type Turn } from './turn.ts';
import { createTurnQueue, type TurnQueue } from './turn-queue.ts';

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

/** Returns the resolver's view of a session that has an actor on this worker. */
export function viewOf(
  lane: TurnQueue,
  { state, socketAnchor, queueFull }: { state: string; socketAnchor: string | null; queueFull: boolean },
): LocalSession {
  const { current, waiting } = lane;
  const shown = current ?? lane.undelivered;
  return {
    sessionId: lane.id,
    scope: lane.scope,
    epoch: lane.epoch,
    state,
    busy: current !== null || waiting.length > 0 || !resting.has(state),
    socketAnchor,
    clientAttached: shown?.stream.attached ?? false,
    bufferComplete: shown?.repeatable ?? false,
    activeRequestFp: shown?.evidence.requestFp ?? null,
    activeParentTurnId: shown?.parent?.id ?? null,
    activeClientTurnId: shown?.evidence.clientTurnId ?? null,
    activeIdempotencyKey: shown?.evidence.idempotencyKey ?? null,
    unsettledResponseIds: current?.ending && current.responseId ? [current.responseId] : [],
    queueLength: waiting.length,
    queueFull,
  };
}

export interface DurationsOptions {
  lane: TurnQueue;
  socket: SessionSocket;
  deadlines: Config['deadlines'];
  clock: Clock;
  random(): number;
  /** Returns the number of dials so far. */
  generation(): number;
}

const FIRST_REDIAL = 200;
const SLOWEST_REDIAL = 2_000;

/**
 * Returns whether only this socket can continue the conversation: the head is neither exactly replayable nor stored at
 * the provider.
 */
export function isOnlyHolder(lane: TurnQueue, socket: SessionSocket): boolean {
  const { head } = lane;
  return head !== null && head.replay !== 'exact' && !head.storedUpstream && socket.anchor !== null;
}

/**
 * Returns a function that maps the name of a session deadline to its duration in milliseconds.
 *
 * @throws Error from the returned function, for an unknown name
 */
export function createDurations(options: DurationsOptions): (name: string) => number {
  const { lane, socket, deadlines, clock, random } = options;
  const age = deadlines.socketAge + (random() * 2 - 1) * deadlines.socketAgeJitter;
  return (name) => {
    switch (name) {
      case 'idle':
        if (isOnlyHolder(lane, socket)) return Number.POSITIVE_INFINITY;
        return deadlines[lane.kept];
      case 'age': {
        const limit = isOnlyHolder(lane, socket) ? deadlines.onlyHolderAge : age;
        return Math.max(0, limit - (clock.now() - socket.openedAt));
      }
      case 'redial':
        return Math.min(SLOWEST_REDIAL, FIRST_REDIAL * 2 ** Math.min(options.generation(), 4)) * (0.75 + random() / 2);
      default: {
        const ms = (deadlines as Record<string, number>)[name];
        if (ms === undefined) throw new Error(`no duration is known for the deadline ${name}`);
        return ms;
      }
    }
  };
}

const since = (turn: Turn, at: number | null) => (at === null ? null : Math.round(at - turn.times.received));

/**
 * Returns the measurements that are stored with a turn's end.
 *
 * @param creates number of creates sent for the turn
 * @param now monotonic milliseconds
 */
export function factsOf(turn: Turn, creates: number, now: number): TurnMetrics {
  const { request, wire, ending } = turn;
  return {
    outcome: turn.outcome,
    form: turn.times.sent === null || !wire || wire.form === 'impossible' ? null : wire.form,
    bytesFromClient: request.bytes,
    bytesSent: turn.frameBytes,
    creates,
    fault: ending?.fault ?? null,
    upstreamStatus: ending?.error?.status ?? ending?.answer?.status ?? null,
    heldMs: since(turn, turn.times.sent),
    firstEventMs: since(turn, turn.times.firstEvent),
    totalMs: Math.round(now - turn.times.received),
  };
}

/**
 * Returns the log line of an ended turn. It contains no content and no credential.
 *
 * @param now monotonic milliseconds
 */
export function describeTurn(turn: Turn, session: Session | null, now: number): TurnLine {
  const { request, evidence, wire, ending } = turn;
  const sent = turn.times.sent === null || !wire || wire.form === 'impossible' ? null : wire.items;
  return {
    request: request.requestId,
    session: session?.id ?? null,
    epoch: session?.epoch ?? null,
    turn: turn.id,
    outcome: turn.outcome,
    decidedBy: turn.decidedBy,
    shape: evidence.shape,
    form: sent === null ? null : (wire?.form ?? null),
    terminal: ending?.state ?? 'cancelled',
    fault: ending?.fault ?? null,
    cause: turn.cause,
    upstreamStatus: ending?.error?.status ?? ending?.answer?.status ?? null,
    upstreamRequest: (ending?.answer?.headers['x-request-id'] ?? turn.upstreamRequest)?.slice(0, 200) ?? null,
    heldMs: since(turn, turn.times.sent),
    firstEventMs: since(turn, turn.times.firstEvent),
    totalMs: Math.round(now - turn.times.received),
    itemsFromClient: request.items.list.length,
    itemsSent: sent,
    bytesFromClient: request.bytes,
    bytesSent: turn.frameBytes,
    tokens: turn.usage,
    tokenIgnored: evidence.token.kind === 'ignored' ? evidence.token.reason : null,
  };
}

/** Dependencies that a worker provides to its sessions. */
export interface SessionDeps {
  store: SessionStore;
  transport: UpstreamTransport;
  target: UpstreamTarget;
  config: Pick<Config, 'deadlines' | 'limits'>;
  clock: Clock;
  /** Returns a uniform random number in [0, 1). */
  random(): number;
  /** The current worker identity, and whether it may still send. */
  worker: {
    readonly id: string;
    mayStart(): boolean;
    mayJudge(): boolean;
    doubt(): void;
    /** Time just before the last confirmed heartbeat was sent, in monotonic milliseconds. */
    readonly confirmedAt: number;
    readonly draining: boolean;
  };
  /** Issues the turn-state token; called only once the session's row is durable. */
  issueToken(sessionId: string, epoch: number, turn: Turn): string;
  /** Known limitations of upstreams, as observed so far. */
  abilities: Abilities;
  /** Returns a turn that this session cannot serve to the resolver, with the fact that was learned. */
  returnTurn(turn: Turn, fact: AttemptFact | null): void;
  /** Called when the session's row exists, or certainly never will: requests that wait for it can be resolved again. */
  onCreated(session: Session): void;
  /** Called when the session's actor has ended. Its undelivered turn may still be reattached. */
  onEnded(session: Session): void;
  /** Called when an ended turn of the session is no longer kept for its client. */
  onForgotten(session: Session): void;
  /** Called when the session becomes idle with an open socket. */
  onIdle(session: Session): void;
  /** Registers work that continues after the session has ended: a shutdown waits for it. */
  background(work: Promise<void>): void;
  log: { info(o: object, m: string): void; warn(o: object, m: string): void; error(o: object, m: string): void };
  inspect?: Inspect;
}

/** Origin of a session's actor on this worker: created here, or claimed. */
export type SessionBirth =
  | { kind: 'new'; sessionId: string; scope: string; keys: readonly KeyRef[]; fork: TurnRow | null; nonce: string }
  | { kind: 'claimed'; row: SessionRow; head: TurnRow | null; nonce: string };

/** One (session, epoch) on this worker. */
export interface Session {
  readonly id: string;
  readonly epoch: number;
  readonly scope: string;
  readonly workerId: string;
  /** Hard keys under which this session was created; empty for parallel lanes, forks and claimed sessions. */
  readonly keys: readonly KeyRef[];
  /** The current turn, or the ended one whose client has not received its terminal event yet. */
  readonly attachable: Turn | null;
  /** Hard key by which requests find this session, if it is known here. */
  readonly key: KeyRef | null;
  /** The last turn of the session's line. */
  readonly head: TurnRow | null;
  /** The line that ends at the head; null if it is not known here. */
  readonly line: Line | null;
  /** Fingerprints by which requests find the head; empty if they are not known here. */
  readonly places: readonly string[];
  /** Stores the head's line after it was read from the database. */
  learnLine(line: Line): void;
  /** Returns whether the items of a request show that it belongs to this conversation, see `isRelated`. */
  related(turn: Turn): boolean;
  /** True for sessions reached by hard evidence: only these keep an idle socket for long. */
  readonly hard: boolean;
  /** True if only the socket can continue the conversation. Such sessions are evicted last. */
  readonly onlyHolder: boolean;
  /** Time of the last activity, in monotonic milliseconds. */
  readonly lastUsed: number;
  readonly socketOpen: boolean;
  /** Age of the open socket in milliseconds; null without one. */
  readonly socketAgeMs: number | null;
  /** Places the first turn and starts the actor. Called once. If it throws, the session has ended. */
  begin(turn: Turn): void;
  /**
   * Takes a turn.
   *
   * @returns false if this actor cannot serve turns any more, so that the turn must be resolved again
   */
  submit(turn: Turn): boolean;
  /**
   * Attaches another connection to the stream of the attachable turn, from event 0.
   *
   * @returns false if that turn cannot be shown again
   */
  reattach(sink: ClientSink): boolean;
  /** Cancels the current turn in favour of a newer request. */
  supersede(): void;
  /** Handles the disconnect of a turn's client. */
  clientGone(turn: Turn): void;
  /**
   * Removes a waiting turn from the queue.
   *
   * @returns false if the turn is not waiting here
   */
  withdraw(turn: Turn): boolean;
  /** Pauses or resumes reading from the upstream for a turn whose reader is slow or has caught up. */
  pressure(turn: Turn, paused: boolean): void;
  view(): LocalSession;
  send(event: SessionEvent): void;
  /** Stops the actor immediately. Its clients are answered; unanswered store calls are not repeated. */
  abandon(): void;
}

/**
 * Creates a session: binds one session machine to its effects on the socket, the store and the turns' clients. It
 * contains no decisions of its own: each step is an event to the machine or an effect of the machine.
 *
 * @param first the first turn, passed to `begin` afterwards
 */
export function createSession(deps: SessionDeps, birth: SessionBirth, first: Turn): Session {
  const { clock, config, store, log } = deps;
  const workerId = deps.worker.id;
  const claimed = birth.kind === 'claimed' ? birth.row : null;
  const id = birth.kind === 'new' ? birth.sessionId : birth.row.id;
  const scope = birth.kind === 'new' ? birth.scope : birth.row.scope;
  const epoch = claimed?.epoch ?? 1;
  const writer = { me: workerId, nonce: birth.nonce };
  const { evidence } = first;
  const named = evidence.anchor !== null || evidence.token.kind === 'ours' || evidence.hardKey?.kind === 'thread';
  // A session header is shared by all conversations of a client. A conversation beside the header's own session counts
  // as hard only after it has been continued.
  const hard = named || (evidence.hardKey !== null && (birth.kind === 'claimed' || birth.keys.length > 0));
  const head = birth.kind === 'new' ? birth.fork : birth.head;
  const line = head !== null && first.ancestor?.row.id === head.id ? first.ancestor.line : null;
  const lane = createTurnQueue(
    {
      id,
      epoch,
      scope,
      workerId,
      keys: birth.kind === 'new' ? birth.keys : [],
      kept: birth.kind === 'new' && first.outcome === 'parallel_lane' ? 'laneIdle' : hard ? 'idle' : 'softIdle',
    },
    { id: claimed ? claimed.headTurnId : (head?.id ?? null), row: head, line },
    clock,
    config.deadlines.grace,
    () => deps.onForgotten(session),
  );
  let actor: DurableActor<SessionMachine>;
  let ended = false;
  let token: string | null = null;
  let orphanId: string | null = null;
  let rejection = '';
  /** Time at which the store first answered `fenced` to the current start, in monotonic milliseconds. */
  let fencedAt: number | null = null;
  /** Start of the wait for an unanswered commit, moved forward by each confirmed heartbeat, in monotonic milliseconds. */
  let waitsSince = 0;
  const turnState = createUpstreamTurnState();
  const signals = createAnswerSignals();

  const ownsWorkerId = () => deps.worker.id === workerId;
  const maySend = () => ownsWorkerId() && deps.worker.mayStart();
  const send = (event: SessionEvent) => {
    if (ended) return;
    // This is the only event that ends a turn and may keep its socket.
    if (event.type === 'upstream.ended') socket.free();
    actor.send(event);
  };
  const saved = (): SavedState => ({
    state: topState(actor.state),
    snapshot: persist(actor),
    machineVersion: SESSION_MACHINE_VERSION,
  });
  /** Logs an error of this session and answers the client of the current turn at once. */
  function report(what: string, error: unknown): void {
    const turn = lane.current;
    log.error({ session: id, epoch, turn: turn?.id, what, error: safeError(error) }, 'a part of a session failed');
    if (!turn || turn.stream.finished) return;
    turn.ending ??= { state: 'failed', terminal: null, fault: 'bridge_internal', answer: null, error: null };
    try {
      turn.deliver();
    } catch (second) {
      log.error({ session: id, epoch, turn: turn.id, error: safeError(second) }, 'a client could not be answered');
    }
  }
  /**
   * Returns an error handler for code outside the machine's effects: handlers of incoming data and asynchronous work.
   * It also reports the failure to the machine.
   */
  const failed = (what: string) => (error: unknown) => {
    report(what, error);
    send({ type: 'effect.failed' });
  };
  /** Wraps a handler so that its errors end the turn instead of the process. */
  const guarded =
    <A extends unknown[]>(what: string, act: (...args: A) => void) =>
    (...args: A): void => {
      try {
        act(...args);
      } catch (error) {
        failed(what)(error);
      }
    };
  /** Runs a step that must not prevent the following ones: an error is only reported. */
  const always = (what: string, act: () => void) => {
    try {
      act();
    } catch (error) {
      report(what, error);
    }
  };
  const inBackground = (what: string, work: () => Promise<void>) =>
    deps.background(work().catch((error) => report(what, error)));

  const onWire = () => (actor.state.startsWith('live.streaming') ? lane.current : null);

  const socket = createSessionSocket({
    transport: deps.transport,
    clock,
    onFrame: guarded('a frame', (text: string) => readFrame(text, onWire())),
    onLost: guarded('a lost connection', (generation: number, how: LostConnection) =>
      dialer.lost(onWire(), generation, how),
    ),
    onRefused: guarded('a refusal', (answer: UpstreamAnswer) => {
      const turn = onWire();
      if (turn) dialer.refused(turn, answer);
    }),
    onStuck: guarded('a stuck client', () => {
      const turn = onWire();
      if (!turn) return;
      turn.stream.sink.cut();
      socket.pause(turn, false);
    }),
    takesAnchors: () =>
      lane.current === null ||
      deps.abilities.takesAnchors({ targetId: deps.target.id, credentialFp: lane.current.evidence.credentialFp }),
  });
  const dialer = createDialer({
    store,
    socket,
    target: deps.target,
    deadlines: config.deadlines,
    abilities: deps.abilities,
    current: () => lane.current,
    generation: () => actor.context.generation,
    creates: () => actor.context.creates,
    send,
    learnTurnState: (turn, value) => turnState.learn(turn.evidence.clientTurnId, value),
    opened: (headers) => signals.opened(headers),
    failed: failed('preparing a socket'),
    onFailure: ({ request: { requestId: request } }, cause) =>
      log.warn({ request, session: id, cause }, 'a connection to the upstream failed'),
  });
  const readFrame = createFrameReader({
    socket,
    mostBytes: config.limits.transcriptBytes,
    now: () => clock.now(),
    wall: () => clock.wall(),
    send,
    touchSilence: () => actor.touch('silence'),
    learnTurnState: (turn, value) => turnState.learn(turn.evidence.clientTurnId, value),
    signal: (frame, turn) => {
      if (signals.take(frame) && turn) turn.stream.restate(signals.forTurn(turn));
    },
    mayResend,
    anchorRefused: (turn, relayed) => void dialer.resendWithoutAnchor(turn, relayed),
    anchorRefusedLate: (turn, error) => dialer.resendElsewhere(turn, error),
  });
  const sender = createSender({
    socket,
    clock,
    config,
    abilities: deps.abilities,
    targetId: deps.target.id,
    sessionId: id,
    maySend,
    creates: () => actor.context.creates,
    token: (turn) => (token ??= deps.issueToken(id, epoch, turn)),
    turnState: (turn) => turnState.for(turn.evidence.clientTurnId),
    headers: (turn) => signals.forTurn(turn),
    failed: failed("a client's status"),
    send,
  });
  const commits = createCommits(
    store,
    {
      sessionId: id,
      scope,
      writer,
      epoch,
      upstreamId: deps.target.id,
      keys: lane.keys,
      forkHead: birth.kind === 'new' ? (birth.fork?.id ?? null) : null,
      saved,
    },
    {
      socketOpen: () => socket.open,
      leaseValid: (left) => left >= config.deadlines.leaseMargin && maySend(),
      renew(fenced) {
        // A dead identity cannot be renewed. If the store still answers `fenced` after a confirmed heartbeat, the fence
        // is final.
        const settled = fenced ? fencedAt !== null && deps.worker.confirmedAt >= fencedAt && maySend() : maySend();
        if (!ownsWorkerId() || settled) {
          fencedAt = null;
          return false;
        }
        if (fenced) fencedAt ??= clock.now();
        deps.worker.doubt();
        return true;
      },
    },
    (reason) => {
      rejection = reason.slice(0, 300);
      log.error({ session: id, epoch, reason: rejection }, 'the store rejected a commit');
    },
  );

  /**
   * The content of the turn's end and the resulting head. Computed once, so that repetitions of the commit are
   * identical.
   */
  let prepared: { turn: Turn; result: TurnResult; head: Head | null } | null = null;
  function prepareEnd(turn: Turn): TurnResult {
    if (prepared?.turn !== turn) {
      const { result, head: left } = turnResult(turn, lane, config.limits.transcriptBytes);
      const facts = factsOf(turn, actor.context.creates, clock.now());
      prepared = { turn, result: { ...result, facts }, head: left };
    }
    return prepared.result;
  }

  /**
   * Returns the turn's end without content. Used when the full end could not be stored or not even be computed, so it
   * must not depend on anything that could have failed there. A turn that was not stored cannot be rebuilt either.
   */
  function bareEnd(turn: Turn): TurnResult {
    const state = turn.ending?.state ?? 'lost';
    // The turn still becomes the head: a request that names it must get the error that it cannot be continued.
    const anchorLost = state === 'completed' || state === 'incomplete';
    const end = { ...bareResult(state, turn.usage, errorOf(turn)), anchorLost };
    if (prepared?.turn !== turn) return end;
    const { facts } = prepared.result;
    if (prepared.head) prepared.head.row = { ...prepared.head.row, replay: 'never' };
    return { ...end, facts };
  }

  /** Finishes the current turn after the store has answered: the settled turn becomes the head, and the lane is free. */
  function finishCurrent(): void {
    const turn = lane.current;
    if (!turn) return;
    sender.release();
    lane.finish(prepared?.turn === turn ? prepared.head : null);
    prepared = null;
  }

  function admitNext(): void {
    finishCurrent();
    if (!ownsWorkerId()) return send({ type: 'worker.dead' });
    const next = lane.next();
    if (next) return admit(next);
    if (deps.worker.draining) return send({ type: 'worker.draining' });
    // The lifetime of an idle socket depends on the head that it holds, which has just changed.
    actor.touch('idle');
    actor.touch('age');
    deps.onIdle(session);
  }

  /** Admits a turn. A turn whose admission throws is answered with an error, and the following ones continue. */
  function admit(turn: Turn): void {
    try {
      admitSafely(turn);
    } catch (error) {
      if (lane.current !== turn) always('admitting a request', () => turn.fail(new BridgeError('bridge_internal')));
      throw error;
    }
  }

  function admitSafely(turn: Turn): void {
    if (!place(turn, lane) || planFor(turn, socket.anchor).form === 'impossible') {
      handOn(turn, { kind: 'head_moved', sessionId: id });
      return admitNext();
    }
    if (!turn.lease.run()) {
      turn.fail(tenantBusy('turns'));
      return admitNext();
    }
    if (lane.kept === 'softIdle' && turn.evidence.hardKey !== null && turn.continuation?.kind === 'extends') {
      lane.kept = 'idle';
    }
    lane.take(turn);
    send({ type: 'turn.wanted' });
  }

  /** Returns a turn to the dispatcher. If that fails, the request is answered with an error. */
  function handOn(turn: Turn, fact: AttemptFact | null): void {
    try {
      deps.returnTurn(turn, fact);
    } catch (error) {
      report('handing a request back', error);
      always('answering a request', () => turn.fail(new BridgeError('bridge_internal', { cause: error })));
    }
  }

  function giveBack(fact: AttemptFact): void {
    const turn = lane.giveUp();
    if (turn?.stream.finished) turn.stream.discard();
    if (!turn || turn.stream.finished) return;
    turn.note({ type: 'hand_back' });
    handOn(turn, fact);
  }

  /**
   * Removes the current turn if it has not begun. The event that ended this actor (a drain, an eviction) can have been
   * queued before the event of the turn that was just admitted.
   */
  function giveUpUnbegun(): Turn[] {
    const turn = lane.current;
    if (!turn || turn.stream.finished || turn.ending !== null) return [];
    lane.giveUp();
    return [turn];
  }

  /** Ends the actor for any reason. Waiting requests, including one that has not begun, are placed again. */
  function end(): void {
    if (ended) return;
    ended = true;
    const unbegun = giveUpUnbegun();
    always('the last turn', finishCurrent);
    const waiting = [...unbegun, ...lane.handBack()];
    actor.stop();
    always('taking the session off', () => deps.onEnded(session));
    for (const turn of waiting) {
      turn.note({ type: 'hand_back' });
      handOn(turn, null);
    }
  }

  function perform({ type, params }: Effect): void {
    const turn = lane.current;
    switch (type) {
      case 'dial':
        // Discard what a lost socket had begun: the next attempt starts from the beginning.
        if (turn) turn.heldCreated = null;
        return void dialer.dial();
      case 'closeSocket':
        return socket.close();
      case 'sendFull':
        // The state does not change, but now waits for the answer to the second create.
        actor.touch('firstEvent');
        return sender.send(turn!);
      case 'sendCreate':
        return sender.send(turn!);
      case 'endTurn': {
        const { end: state, fault } = params as { end: ForcedEnd; fault: SessionFault };
        if (!turn) return;
        if (fault === 'bridge_first_event_timeout') dialer.overdue(turn);
        turn.ending ??= { state, terminal: null, fault, answer: null, error: null };
        // If the client already got an error because the store was silent, the turn itself was cancelled without being
        // sent.
        if (turn.times.sent === null && turn.ending.answer === null) turn.ending.state = state;
        return;
      }
      case 'deliverTerminal':
        if (!turn) return;
        turn.times.ended = clock.now();
        return turn.deliver();
      case 'failTurn':
        return turn?.fail(faultError(turn, (params as { fault: SessionFault }).fault));
      case 'relayRefusal':
        return turn?.deliver();
      case 'reresolve':
        return giveBack(birth.kind === 'new' ? { kind: 'key_taken' } : { kind: 'head_moved', sessionId: id });
      case 'admitNext':
        return admitNext();
      case 'handBack':
        return end();
      case 'release':
        // A request that waits here will claim the session again; releasing it first would only cost a round trip.
        if (lane.waiting.length === 0 || leave !== release) inBackground('giving the session up', leave);
        return;
      case 'recordClose':
        return inBackground('closing the session', recordClose);
      case 'closeWhenSettled':
        leave = recordClose;
        return;
      case 'reportUnsettled':
        return log.error({ session: id, epoch, turn: turn?.id, reason: rejection }, 'a turn could not be settled');
    }
  }

  /** Action that ends ownership when the session becomes stale: a release, or a close if an operator has requested that. */
  let leave = release;

  async function release(): Promise<void> {
    const answer = await store.release({ ...writer, sessionId: id, epoch, saved: { ...saved(), state: 'stale' } });
    if (answer.verdict === 'unknown') log.info({ session: id, epoch }, 'release unanswered; the row stays claimable');
  }

  async function recordClose(): Promise<void> {
    const call = { ...writer, sessionId: id, epoch, saved: { ...saved(), state: 'closed' as const } };
    for (let attempt = 0; attempt < 5; attempt += 1) if ((await store.close(call)).verdict !== 'unknown') return;
  }

  /** Notes a durable start in the turn's record, whether or not its frame can be sent. */
  function noteStart(turn: Turn, reply: CommitReply): CommitReply {
    if ('event' in reply && reply.event.type === 'store.started') turn.note({ type: 'commit' });
    return reply;
  }

  /** Makes one attempt at a commit. An unreachable store counts as unanswered; any other error is final. */
  async function commit(effect: Effect, attempt: number): Promise<CommitReply> {
    if (attempt === 0) waitsSince = clock.now();
    try {
      const reply = await ask(effect);
      if ('unknown' in reply) bearWithStore();
      return reply;
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      bearWithStore();
      return { unknown: error.message };
    }
  }

  /** Restarts the wait for the start if the store has confirmed a heartbeat in the meantime: it is slow, not silent. */
  function bearWithStore(): void {
    if (deps.worker.confirmedAt < waitsSince) return;
    waitsSince = clock.now();
    actor.touch('startWait');
  }

  async function ask({ type }: Effect): Promise<CommitReply> {
    const turn = lane.current!;
    switch (type) {
      case 'commitCreate': {
        const reply = await commits.create(turn);
        if ('event' in reply) deps.onCreated(session);
        return noteStart(turn, reply);
      }
      case 'commitStart':
        return noteStart(turn, await commits.start(turn));
      case 'commitOrphan': {
        // All repetitions must name the same orphan; the next commit of this type names another one.
        orphanId ??= (await store.session(id))?.activeTurnId ?? null;
        const reply: CommitReply = orphanId ? await commits.orphan(orphanId) : { event: { type: 'store.cleared' } };
        if ('event' in reply) orphanId = null;
        return reply;
      }
      case 'commitBareSettle':
        return commits.settle(turn, bareEnd(turn));
      default:
        return commits.settle(turn, prepareEnd(turn));
    }
  }

  const startSessionActor = () =>
    startActor(sessionProgram, {
      id: `${id}@${epoch}`,
      ...(claimed
        ? {
            snapshot: rehydrate(sessionProgram, {
              persisted: claimed.snapshot,
              machineVersion: claimed.machineVersion,
              input: {},
              takeover: { type: 'session.claimed' },
              validContext: isSessionContext,
            }).snapshot,
          }
        : { input: {} }),
      clock,
      durations: createDurations({
        lane,
        socket,
        deadlines: config.deadlines,
        clock,
        random: deps.random,
        generation: () => actor.context.generation,
      }),
      perform,
      effectFailed({ type }, error): SessionEvent {
        report(type, error);
        return { type: 'effect.failed' };
      },
      commit,
      commitFailed({ type }, error): SessionEvent {
        rejection = `${type} failed here`;
        log.error({ session: id, epoch, commit: type, error: safeError(error) }, 'a commit could not be made');
        return { type: 'store.rejected', rowExists: type !== 'commitCreate' };
      },
      inspect: deps.inspect,
      onError: (error) => log.error({ session: id, epoch, error: safeError(error) }, 'a session failed'),
      onStopped() {
        if (ended) return;
        // The actor was not stopped by a final state: the machine itself has failed.
        report('the machine', new Error('The machine has stopped.'));
        always('closing the socket', () => socket.close());
        end();
      },
    });

  const session: Session = {
    id,
    epoch,
    scope,
    workerId,
    keys: lane.keys,
    get hard() {
      return hard || lane.kept === 'idle';
    },
    key: first.namedByKey === id || lane.keys.length > 0 ? evidence.hardKey : null,
    get head() {
      return lane.head;
    },
    get line() {
      return lane.line;
    },
    get places() {
      return lane.places;
    },
    learnLine(known) {
      if (lane.line === null && lane.head?.id === known.turnId) lane.line = known;
    },
    related: (turn) => isRelated(turn, lane),
    get onlyHolder() {
      return isOnlyHolder(lane, socket);
    },
    get attachable() {
      return lane.current ?? lane.undelivered;
    },
    get lastUsed() {
      return lane.lastUsed;
    },
    get socketOpen() {
      return socket.open;
    },
    get socketAgeMs() {
      return socket.open ? clock.now() - socket.openedAt : null;
    },
    begin(turn) {
      turn.note({ type: 'queue' });
      try {
        if (place(turn, lane) && planFor(turn, null).form !== 'impossible') {
          lane.take(turn);
          actor = startSessionActor();
          if (claimed) send({ type: 'turn.wanted' });
          return;
        }
      } catch (error) {
        lane.giveUp();
        ended = true;
        deps.onEnded(session);
        throw error;
      }
      ended = true;
      turn.note({ type: 'hand_back' });
      deps.onEnded(session);
      deps.returnTurn(turn, { kind: 'head_moved', sessionId: id });
    },
    submit(turn) {
      if (ended) return false;
      turn.note({ type: 'queue' });
      lane.touch();
      if (lane.current === null && actor.state === 'live.idle') admit(turn);
      else lane.queue(turn);
      return true;
    },
    reattach(sink) {
      const turn = session.attachable;
      if (!turn?.repeatable) return false;
      turn.stream.attach(sink);
      send({ type: 'client.back' });
      return true;
    },
    supersede: () => send({ type: 'turn.cancelled', reason: 'superseded' }),
    clientGone(turn) {
      if (lane.withdraw(turn)) turn.fail(new BridgeError('bridge_turn_cancelled'));
      else if (turn === lane.current) send({ type: 'client.gone' });
    },
    withdraw: (turn) => lane.withdraw(turn),
    pressure: (turn, paused) => socket.pause(turn, paused),
    view: () =>
      viewOf(lane, {
        state: actor.state,
        socketAnchor: socket.anchor,
        queueFull: lane.waiting.length >= config.limits.queueLength,
      }),
    send,
    abandon() {
      if (ended) return;
      const turn = lane.current;
      for (const each of [...(turn ? [turn] : []), ...lane.handBack()])
        always('answering a request', () => each.fail(new BridgeError('bridge_draining')));
      always('closing the socket', () => socket.close(1001, 'the worker stops'));
      end();
    },
  };
  return session;
}
