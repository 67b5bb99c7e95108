import type { ForcedEnd, SessionEvent, SessionFault, SessionMachine } from '../../machines/session.ts';
import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import { safeError } from '../observe/safe.ts';
import type { AttemptFact, LocalSession } from '../resolve/types.ts';
import { type DurableActor, type Effect, type Inspect, persist, rehydrate, startActor } from '../runtime/index.ts';
import {
  type KeyRef,
  type RowFace,
  type SessionRow,
  type SessionStore,
  StoreUnavailable,
  type TurnResult,
  type TurnRow,
} from '../store/port.ts';
import type { Line } from '../transcript/line.ts';
import type { Abilities } from '../upstream/abilities.ts';
import type { UpstreamAnswer, UpstreamTarget, UpstreamTransport } from '../upstream/port.ts';
import { createUpstreamTurnState } from '../upstream/turn-state.ts';
import { bareResult, type CommitReply, createCommits } from './commits.ts';
import { createDialer } from './dial.ts';
import { createDurations, isOnlyHolder } from './durations.ts';
import { createFrameReader } from './frames.ts';
import { createLane } from './lane.ts';
import { factsOf } from './line.ts';
import { isRelated, place, planFor } from './placement.ts';
import type { ClientSink } from './port.ts';
import { isSessionContext, SESSION_MACHINE_VERSION, sessionProgram, topState } from './program.ts';
import { tenantBusy } from './quota.ts';
import { mayResend } from './resend.ts';
import { errorOf, type Head, turnResult } from './result.ts';
import { createSender } from './send.ts';
import { createAnswerSignals } from './signals.ts';
import { createSessionSocket, type LostConnection } from './socket.ts';
import { faultError, type Turn } from './turn.ts';
import { viewOf } from './view.ts';

/** What a session needs of its worker. */
export interface SessionDeps {
  store: SessionStore;
  transport: UpstreamTransport;
  target: UpstreamTarget;
  config: Pick<Config, 'deadlines' | 'limits'>;
  clock: Clock;
  /** Uniform in [0, 1). */
  random(): number;
  /** The worker identity of this moment and whether it may still send. */
  worker: {
    readonly id: string;
    mayStart(): boolean;
    mayJudge(): boolean;
    doubt(): void;
    /** Monotonic milliseconds just before the last confirmed heartbeat was sent. */
    readonly confirmedAt: number;
    readonly draining: boolean;
  };
  /** Issues the turn-state token; called only once the session's row is durable. */
  issueToken(sessionId: string, epoch: number, turn: Turn): string;
  /** What upstreams have turned out to be unable to do. */
  abilities: Abilities;
  /** A turn this session cannot serve goes back to the resolver, with what was learned. */
  returnTurn(turn: Turn, fact: AttemptFact | null): void;
  /** The session's row exists, or never will: whoever waited for it may look again. */
  onCreated(session: Session): void;
  /** The session's actor has ended. A turn that its client has not got yet may still be taken up. */
  onEnded(session: Session): void;
  /** An ended turn of the session waits for its client no longer. */
  onForgotten(session: Session): void;
  /** The session rests with a warm socket. */
  onIdle(session: Session): void;
  /** Work that goes on when the session has ended: a shutdown waits for it. */
  background(work: Promise<void>): void;
  log: { info(o: object, m: string): void; warn(o: object, m: string): void; error(o: object, m: string): void };
  inspect?: Inspect;
}

/** How a session's actor comes to be on this worker: made here, or claimed. */
export type SessionBirth =
  | { kind: 'new'; sessionId: string; scope: string; keys: readonly KeyRef[]; fork: TurnRow | null; nonce: string }
  | { kind: 'claimed'; row: SessionRow; head: TurnRow | null; nonce: string };

/** One (session, epoch) on this worker. */
export interface Session {
  readonly id: string;
  readonly epoch: number;
  readonly scope: string;
  readonly workerId: string;
  /** Hard keys this session was made with; empty for lanes, forks and claimed sessions. */
  readonly keys: readonly KeyRef[];
  /** The turn in hand, or the ended one whose client has not got its terminal yet. */
  readonly attachable: Turn | null;
  /** Hard key by which requests find this session, as far as that is known here. */
  readonly key: KeyRef | null;
  /** The last turn of its line. */
  readonly head: TurnRow | null;
  /** The line that the head ends; null when it is not known here. */
  readonly line: Line | null;
  /** Fingerprints under which requests find the head; empty when they are not known here. */
  readonly places: readonly string[];
  /** Takes over the head's line after it was read from the store. */
  learnLine(line: Line): void;
  /** Whether the items of a request show that it belongs to this conversation: see `isRelated`. */
  related(turn: Turn): boolean;
  /** Only sessions reached by hard evidence keep an idle socket for long. */
  readonly hard: boolean;
  /** The socket alone holds the conversation: evicted last. */
  readonly onlyHolder: boolean;
  /** Monotonic milliseconds of the last activity. */
  readonly lastUsed: number;
  readonly socketOpen: boolean;
  /** Milliseconds the socket has been open; null without one. */
  readonly socketAgeMs: number | null;
  /** Places the first turn and starts the actor; called once. What it throws has ended the session. */
  begin(turn: Turn): void;
  /** Takes a turn in; false when this actor is past serving and the turn must be resolved again. */
  submit(turn: Turn): boolean;
  /** Hands the stream of the attachable turn to another connection, from event 0. */
  reattach(sink: ClientSink): boolean;
  supersede(): void;
  /** The client of a turn went away. */
  clientGone(turn: Turn): void;
  /** Takes a waiting turn out again; false when it is not waiting here. */
  withdraw(turn: Turn): boolean;
  /** The turn's reader is slower than the upstream, or has caught up. */
  pressure(turn: Turn, paused: boolean): void;
  view(): LocalSession;
  send(event: SessionEvent): void;
  /** Ends the actor where it stands: its clients are answered, what it asks the store is not asked again. */
  abandon(): void;
}

/**
 * Binds one session machine to its effects: the socket, the store and the turns' clients.
 * It decides nothing by itself: every step is an event to the machine or an effect of it.
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
  // A session header is shared by all conversations of a client: one beside the header's own session has to be continued
  // before it counts as a conversation.
  const hard = named || (evidence.hardKey !== null && (birth.kind === 'claimed' || birth.keys.length > 0));
  const head = birth.kind === 'new' ? birth.fork : birth.head;
  const line = head !== null && first.ancestor?.row.id === head.id ? first.ancestor.line : null;
  const lane = createLane(
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
  /** When the store first refused the present start as not this worker's. */
  let fencedAt: number | null = null;
  /** Since when an unanswered commit is waited for, or a heartbeat was last confirmed meanwhile. */
  let waitsSince = 0;
  const turnState = createUpstreamTurnState();
  const signals = createAnswerSignals();

  const ownsWorkerId = () => deps.worker.id === workerId;
  const maySend = () => ownsWorkerId() && deps.worker.mayStart();
  const send = (event: SessionEvent) => {
    if (ended) return;
    // The one end of a turn that keeps its socket.
    if (event.type === 'upstream.ended') socket.free();
    actor.send(event);
  };
  const face = (): RowFace => ({
    state: topState(actor.state),
    snapshot: persist(actor),
    machineVersion: SESSION_MACHINE_VERSION,
  });
  /** Something of this session threw. The client of the turn in hand is answered at once. */
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
  /** The same where no effect is under way: in a handler of something that arrived, or in work that was waited for. */
  const failed = (what: string) => (error: unknown) => {
    report(what, error);
    send({ type: 'effect.failed' });
  };
  /** A handler whose errors end the turn, not the process. */
  const guarded =
    <A extends unknown[]>(what: string, act: (...args: A) => void) =>
    (...args: A): void => {
      try {
        act(...args);
      } catch (error) {
        failed(what)(error);
      }
    };
  /** What has to happen, whatever became of the rest. */
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
      face,
    },
    {
      socketOpen: () => socket.open,
      leaseValid: (left) => left >= config.deadlines.leaseMargin && maySend(),
      renew(fenced) {
        // An identity that is dead cannot be renewed, and a fence that stands after a heartbeat is one.
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

  /** The content of the turn's end, and the head it makes. Computed once, so that repetitions say the same. */
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
   * The end without content. It is asked for when the whole end could not be stored, or not even be put together: it rests
   * on nothing that could have failed there. What was not stored cannot be rebuilt, either.
   */
  function bareEnd(turn: Turn): TurnResult {
    const state = turn.ending?.state ?? 'lost';
    // It is the head all the same: a request that names it must learn that it cannot be continued.
    const anchorLost = state === 'completed' || state === 'incomplete';
    const end = { ...bareResult(state, turn.usage, errorOf(turn)), anchorLost };
    if (prepared?.turn !== turn) return end;
    const { facts } = prepared.result;
    if (prepared.head) prepared.head.row = { ...prepared.head.row, replay: 'never' };
    return { ...end, facts };
  }

  /** After the store answered: the head is what was settled, and the turn is nobody's any more. */
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
    // How long an idle socket is kept depends on the head it holds, which has just moved.
    actor.touch('idle');
    actor.touch('age');
    deps.onIdle(session);
  }

  /** A turn that cannot be looked at is answered, and those behind it go on. */
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

  /** Back to the dispatcher; a request that cannot be placed is answered. */
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

  /** What ended this actor (a drain, an eviction) waited in the mailbox ahead of the turn that was just admitted. */
  function giveUpUnbegun(): Turn[] {
    const turn = lane.current;
    if (!turn || turn.stream.finished || turn.ending !== null) return [];
    lane.giveUp();
    return [turn];
  }

  /** The end of the actor, whatever led to it: nothing of it remains, and what waited here is placed again. */
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
        // What a lost socket had begun is shown to nobody: the next attempt begins anew.
        if (turn) turn.heldCreated = null;
        return void dialer.dial();
      case 'closeSocket':
        return socket.close();
      case 'sendFull':
        // The same state goes on waiting, now for the second create.
        actor.touch('firstEvent');
        return sender.send(turn!);
      case 'sendCreate':
        return sender.send(turn!);
      case 'endTurn': {
        const { end: state, fault } = params as { end: ForcedEnd; fault: SessionFault };
        if (!turn) return;
        if (fault === 'bridge_first_event_timeout') dialer.overdue(turn);
        turn.ending ??= { state, terminal: null, fault, answer: null, error: null };
        // A client that was told of a silent store has its error; the turn itself was cancelled, unsent.
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
        // Whoever waited here claims it anew; giving it up first would only cost a round trip.
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

  /** How the session is given up once it rests: given back, or closed as an operator has asked. */
  let leave = release;

  async function release(): Promise<void> {
    const answer = await store.release({ ...writer, sessionId: id, epoch, face: { ...face(), state: 'stale' } });
    if (answer.verdict === 'unknown') log.info({ session: id, epoch }, 'release unanswered; the row stays claimable');
  }

  async function recordClose(): Promise<void> {
    const call = { ...writer, sessionId: id, epoch, face: { ...face(), state: 'closed' as const } };
    for (let attempt = 0; attempt < 5; attempt += 1) if ((await store.close(call)).verdict !== 'unknown') return;
  }

  /** The start is durable from here on, whether or not its frame can leave. */
  function noteStart(turn: Turn, reply: CommitReply): CommitReply {
    if ('event' in reply && reply.event.type === 'store.started') turn.note({ type: 'commit' });
    return reply;
  }

  /** A store that cannot be reached has not answered; anything else that is thrown is a verdict. */
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

  /** A store that has confirmed a heartbeat meanwhile is slow, not silent: the wait for the start begins again. */
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
        // The same one in every repetition, and only there: the next orphan is another.
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
        // Not by a state of the machine: the machine itself has failed.
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
