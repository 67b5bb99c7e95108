import type { ForcedEnd, SessionEvent, SessionFault } from '../../machines/session.ts';
import { sessionMachine } from '../../machines/session.ts';
import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import type { AttemptFact, LocalSession } from '../resolve/types.ts';
import { defineProgram, type Effect, persist, rehydrate, startActor } from '../runtime/index.ts';
import type {
  KeyRef,
  RowFace,
  SessionRow,
  SessionStateName,
  SessionStore,
  TurnResult,
  TurnRow,
} from '../store/port.ts';
import { upstreamHeaders } from '../upstream/headers.ts';
import type { UpstreamAnswer, UpstreamTarget, UpstreamTransport } from '../upstream/port.ts';
import { classifyRefusal } from '../upstream/refusal.ts';
import { createUpstreamTurnState } from '../upstream/turn-state.ts';
import { bareResult, createCommits } from './commits.ts';
import { createFrameReader } from './frames.ts';
import { loadHistory } from './history.ts';
import { anchorStored, place, planFor } from './placement.ts';
import type { ClientSink } from './port.ts';
import { canSendFull, mayResend } from './resend.ts';
import { turnResult } from './result.ts';
import { createSessionSocket } from './socket.ts';
import type { Turn, TurnEnding } from './turn.ts';
import { composeFrame } from './wire.ts';

/** Version of the persisted snapshot's shape; a snapshot of another version is not loaded. */
export const SESSION_MACHINE_VERSION = 1;

/** The session machine with its effects recorded: made once, shared by every actor. */
export const sessionProgram = defineProgram(sessionMachine, {
  version: SESSION_MACHINE_VERSION,
  commits: ['commitCreate', 'commitStart', 'commitOrphan', 'commitSettle', 'commitBareSettle'],
});

/** What a session needs of its worker. */
export interface SessionDeps {
  store: SessionStore;
  transport: UpstreamTransport;
  target: UpstreamTarget;
  config: Pick<Config, 'deadlines' | 'limits'>;
  clock: Clock;
  random(): number;
  /** The worker identity of this moment and whether it may still send. */
  worker: { readonly id: string; mayStart(): boolean; mayJudge(): boolean; readonly draining: boolean };
  /** Issues the turn-state token; called only once the session's row is durable. */
  issueToken(sessionId: string, epoch: number, turn: Turn): string;
  /** Upstreams that have turned out to speak no WebSocket. */
  httpOnly: { has(targetId: string): boolean; add(targetId: string): void; readonly fallback: boolean };
  /** A turn this session cannot serve goes back to the resolver, with what was learned. */
  returnTurn(turn: Turn, fact: AttemptFact | null): void;
  /** The session's row exists, or never will: whoever waited for it may look again. */
  onCreated(session: Session): void;
  onEnded(session: Session): void;
  log: { info(o: object, m: string): void; warn(o: object, m: string): void; error(o: object, m: string): void };
  inspect?: Parameters<typeof startActor>[1]['inspect'];
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
  /** The turn in hand, if any. */
  readonly current: Turn | null;
  /** Places the first turn and starts the actor; called once. */
  begin(turn: Turn): void;
  /** The turn's reader is slower than the upstream, or has caught up. */
  pressure(turn: Turn, paused: boolean): void;
  /** Only sessions reached by hard evidence keep an idle socket for long. */
  readonly hard: boolean;
  view(): LocalSession;
  /** Takes a turn in; false when this actor is past serving and the turn must be resolved again. */
  submit(turn: Turn): boolean;
  /** Hands the running turn's stream to another connection, from event 0. */
  reattach(sink: ClientSink): boolean;
  supersede(): void;
  /** The client of a turn went away. */
  clientGone(turn: Turn): void;
  /** Takes a waiting turn out again; false when it is not waiting here. */
  withdraw(turn: Turn): boolean;
  send(event: SessionEvent): void;
  /** Monotonic milliseconds of the last activity. */
  readonly lastUsed: number;
  readonly socketOpen: boolean;
}

/**
 * Binds one session machine to its effects: the socket, the store and the turns' clients.
 * It decides nothing by itself: every step is an event to the machine or an effect of it.
 */
export function createSession(deps: SessionDeps, birth: SessionBirth, first: Turn): Session {
  const { clock, config, store } = deps;
  const { deadlines } = config;
  const workerId = deps.worker.id;
  const claimed = birth.kind === 'claimed' ? birth.row : null;
  const id = birth.kind === 'new' ? birth.sessionId : birth.row.id;
  const scope = birth.kind === 'new' ? birth.scope : birth.row.scope;
  const epoch = claimed?.epoch ?? 1;
  const hard =
    first.evidence.hardKey !== null || first.evidence.anchor !== null || first.evidence.token.kind === 'ours';
  const writer = { me: workerId, nonce: birth.nonce };

  let head: TurnRow | null = birth.kind === 'new' ? birth.fork : birth.head;
  let current: Turn | null = null;
  let waiting: Turn[] = [];
  let ended = false;
  let lastUsed = clock.now();
  let token: string | null = null;
  let orphanId: string | null = null;
  let rejection = '';
  let cancelHold: (() => void) | null = null;
  const turnState = createUpstreamTurnState();

  const face = (): RowFace => ({
    state: topState(actor.state),
    snapshot: persist(actor),
    machineVersion: SESSION_MACHINE_VERSION,
  });
  const commits = createCommits(
    store,
    {
      sessionId: id,
      scope,
      writer,
      epoch,
      upstreamId: deps.target.id,
      keys: birth.kind === 'new' ? birth.keys : [],
      forkHead: birth.kind === 'new' ? (birth.fork?.id ?? null) : null,
      face,
    },
    {
      socketOpen: () => socket.open,
      leaseValid: (left) => left >= config.deadlines.leaseMargin && ownsWorkerId() && deps.worker.mayStart(),
    },
    (reason) => {
      rejection = reason;
      deps.log.error({ session: id, epoch, reason }, 'the store rejected a commit');
    },
  );
  const ownsWorkerId = () => deps.worker.id === workerId;

  const socket = createSessionSocket({
    transport: deps.transport,
    now: () => clock.now(),
    onFrame: (text) => readFrame(text, onWire()),
    onLost: (generation) => {
      const turn = onWire();
      send({ type: 'socket.lost', generation, resendable: turn ? mayResend(turn) && canSendFull(turn) : false });
    },
    onRefused: (answer) => {
      const turn = onWire();
      if (!turn) return;
      turn.ending = { state: 'failed', terminal: null, fault: null, answer, error: null };
      send({ type: 'upstream.ended', keepSocket: false });
    },
  });

  const onWire = () => (actor.state.startsWith('live.streaming') ? current : null);
  const readFrame = createFrameReader({
    socket,
    now: () => clock.now(),
    send: (event) => send(event),
    touchSilence: () => actor.touch('silence'),
    learnTurnState: (turn, value) => turnState.learn(turn.evidence.clientTurnId, value),
    mayResend,
    anchorRefused: (turn, relayed) => void resendWithoutAnchor(turn, relayed),
  });

  async function resendWithoutAnchor(turn: Turn, relayed: TurnEnding): Promise<void> {
    turn.anchorRefused = true;
    const history = await historyFor(turn).catch(() => 'missing' as const);
    if (turn.ending || current !== turn) return;
    if (history === 'ready' && actor.context.creates < 2) return send({ type: 'upstream.anchor_refused' });
    turn.ending = relayed;
    send({ type: 'upstream.ended', keepSocket: true });
  }

  /** What a full send of this turn needs beyond its own body. */
  async function historyFor(turn: Turn): Promise<'ready' | 'missing'> {
    if (turn.continuation?.kind !== 'anchored' || turn.history !== null || turn.parent === null) return 'ready';
    turn.history = await loadHistory(store, turn);
    return turn.history === null && (turn.anchorRefused || !anchorStored(turn)) ? 'missing' : 'ready';
  }

  async function dial(): Promise<void> {
    const turn = current;
    if (!turn) return;
    const generation = actor.context.generation;
    const http = turn.evidence.passThrough !== null;
    const request = {
      target: deps.target,
      headers: upstreamHeaders({
        client: turn.request.headers,
        authorization: turn.request.caller.upstreamAuthorization,
        transport: http ? 'http' : 'websocket',
      }),
      timeoutMs: deadlines.connect,
    };
    try {
      const [outcome, history] = await Promise.all([
        socket.dial(generation, http ? 'http' : 'websocket', request),
        turn.wire?.form === 'delta' || turn.history === null ? historyFor(turn) : 'ready',
      ]);
      if (history === 'missing') {
        socket.close(1000, 'not needed');
        return send({ type: 'history.missing', generation });
      }
      if (outcome.kind === 'opened') {
        const provided = outcome.headers['x-codex-turn-state'];
        if (provided) turnState.learn(turn.evidence.clientTurnId, provided);
        return send({ type: 'socket.opened', generation });
      }
      if (outcome.kind === 'refused') return refused(turn, generation, outcome.answer);
      if (outcome.kind === 'failed') send({ type: 'socket.failed', generation });
    } catch (error) {
      deps.log.warn({ session: id, err: error }, 'preparing a socket failed');
      send({ type: 'socket.failed', generation });
    }
  }

  function refused(turn: Turn, generation: number, answer: UpstreamAnswer): void {
    const meaning = classifyRefusal(answer);
    if (meaning === 'retry') return send({ type: 'socket.failed', generation });
    const fallBack = meaning === 'no_websocket' && deps.httpOnly.fallback;
    if (fallBack) deps.httpOnly.add(deps.target.id);
    else turn.ending = { state: 'failed', terminal: null, fault: null, answer, error: null };
    send({ type: 'socket.refused', generation, relay: !fallBack });
  }

  function sendFrame(): void {
    const turn = current!;
    if (!ownsWorkerId() || !deps.worker.mayStart()) return send({ type: 'frame.not_sent', cause: 'lease' });
    if (actor.context.creates > 1) turn.rewind();
    else turn.note({ type: 'commit' });
    turn.wire = planFor(turn, socket.anchor);
    if (turn.wire.form === 'impossible') {
      turn.ending = { state: 'failed', terminal: null, fault: 'bridge_session_expired', answer: null, error: null };
      return send({ type: 'upstream.ended', keepSocket: false });
    }
    token ??= deps.issueToken(id, epoch, turn);
    turn.stream.sink.head({ outcome: turn.outcome, sessionId: id, token });
    const frame = composeFrame(turn, turnState.for(turn.evidence.clientTurnId));
    if (frame.length > config.limits.frameBytes) {
      turn.fail(new BridgeError('bridge_frame_too_large'));
      return send({ type: 'upstream.ended', keepSocket: true });
    }
    turn.frameBytes = frame.length;
    if (!socket.send(frame)) return send({ type: 'frame.not_sent', cause: 'socket' });
    turn.times.sent = clock.now();
    turn.note({ type: 'send' });
    cancelHold?.();
    cancelHold = clock.after(deadlines.statusHold, () => {
      if (turn.heldCreated) {
        turn.stream.push(turn.heldCreated.type, turn.heldCreated.json, false);
        turn.heldCreated = null;
      }
      turn.stream.sink.open();
    });
  }

  /** The content of the turn's end, and the head it makes. Computed once, so that repetitions say the same. */
  let prepared: { turn: Turn; result: TurnResult; row: TurnRow | null } | null = null;
  function prepareEnd(turn: Turn): TurnResult {
    if (prepared?.turn !== turn) prepared = { turn, ...turnResult(turn, { sessionId: id, scope, epoch, workerId }) };
    return prepared.result;
  }

  function admitNext(): void {
    finishCurrent();
    if (!ownsWorkerId()) return send({ type: 'worker.dead' });
    const next = waiting.shift();
    if (next) return admit(next);
    if (deps.worker.draining) send({ type: 'worker.draining' });
  }

  /** After the store answered: the head is what was settled, and the turn is nobody's any more. */
  function finishCurrent(): void {
    if (!current) return;
    cancelHold?.();
    if (prepared?.turn === current && prepared.row) head = prepared.row;
    prepared = null;
    current = null;
    lastUsed = clock.now();
  }

  function admit(turn: Turn): void {
    if (!place(turn, head)) {
      deps.returnTurn(turn, { kind: 'head_moved', sessionId: id });
      return admitNext();
    }
    const plan = planFor(turn, socket.anchor);
    if (plan.form === 'impossible') {
      deps.returnTurn(turn, { kind: 'head_moved', sessionId: id });
      return admitNext();
    }
    current = turn;
    send({ type: 'turn.wanted' });
  }

  function giveBack(fact: AttemptFact | null): void {
    const turn = current;
    current = null;
    if (turn && !turn.stream.finished) {
      turn.note({ type: 'hand_back' });
      deps.returnTurn(turn, fact);
    }
  }

  function end(): void {
    ended = true;
    const turn = current;
    if (turn) finishCurrent();
    const handed = waiting;
    waiting = [];
    actor.stop();
    deps.onEnded(session);
    for (const each of handed) {
      each.note({ type: 'hand_back' });
      deps.returnTurn(each, null);
    }
    handedBack = handed.length > 0;
  }
  let handedBack = false;

  const failCurrent = (fault: SessionFault) => current?.fail(new BridgeError(fault));

  function perform({ type, params }: Effect): void {
    switch (type) {
      case 'dial':
        return void dial();
      case 'closeSocket':
        return socket.close();
      case 'sendCreate':
      case 'sendFull':
        return sendFrame();
      case 'endTurn': {
        const { end: state, fault } = params as { end: ForcedEnd; fault: SessionFault };
        if (current) current.ending ??= { state, terminal: null, fault, answer: null, error: null };
        return;
      }
      case 'deliverTerminal':
        if (current) {
          current.times.ended = clock.now();
          current.deliver();
        }
        return;
      case 'failTurn':
        return failCurrent((params as { fault: SessionFault }).fault);
      case 'relayRefusal':
        return current?.deliver();
      case 'reresolve':
        return giveBack(reresolveFact());
      case 'admitNext':
        return admitNext();
      case 'handBack':
        return end();
      case 'release':
        if (!handedBack) void release();
        return;
      case 'recordClose':
        return void recordClose();
      case 'closeWhenSettled':
        return send({ type: 'operator.close' });
      case 'reportAnchorLost':
        return deps.log.error(
          { session: id, epoch, turn: current?.id, reason: rejection },
          'a turn could not be settled',
        );
    }
  }

  const reresolveFact = (): AttemptFact =>
    birth.kind === 'new' ? { kind: 'key_taken' } : { kind: 'head_moved', sessionId: id };

  async function release(): Promise<void> {
    const snapshot = face();
    const answer = await store.release({ ...writer, sessionId: id, epoch, face: { ...snapshot, state: 'stale' } });
    if (answer.verdict === 'unknown')
      deps.log.info({ session: id, epoch }, 'release unanswered; the row stays claimable');
  }

  async function recordClose(): Promise<void> {
    const snapshot = face();
    for (let attempt = 0; attempt < 5; attempt += 1) {
      const answer = await store.close({ ...writer, sessionId: id, epoch, face: { ...snapshot, state: 'closed' } });
      if (answer.verdict !== 'unknown') return;
    }
  }

  async function commit({ type }: Effect) {
    const turn = current!;
    switch (type) {
      case 'commitCreate': {
        const reply = await commits.create(turn);
        if ('event' in reply) deps.onCreated(session);
        return reply;
      }
      case 'commitStart':
        return commits.start(turn);
      case 'commitOrphan':
        orphanId ??= (await store.session(id))?.activeTurnId ?? null;
        return orphanId ? commits.orphan(orphanId) : { event: { type: 'store.cleared' as const } };
      case 'commitBareSettle':
        return commits.settle(turn, bareResult(prepareEnd(turn).state, turn.usage));
      default:
        return commits.settle(turn, prepareEnd(turn));
    }
  }

  const age = deadlines.socketAge + (deps.random() * 2 - 1) * deadlines.socketAgeJitter;
  const onlyHolder = () => head !== null && head.replay !== 'exact' && !head.storedUpstream && socket.anchor !== null;
  function duration(name: string): number {
    switch (name) {
      case 'idle':
        return onlyHolder() ? Number.POSITIVE_INFINITY : hard ? deadlines.idle : deadlines.softIdle;
      case 'age':
        return Math.max(0, (onlyHolder() ? deadlines.onlyHolderAge : age) - (clock.now() - socket.openedAt));
      case 'redial':
        return Math.min(2000, 200 * 2 ** Math.min(actor.context.generation, 4)) * (0.75 + deps.random() / 2);
      default: {
        const ms = (deadlines as Record<string, number>)[name];
        if (ms === undefined) throw new Error(`no duration is known for the deadline ${name}`);
        return ms;
      }
    }
  }

  let actor: ReturnType<typeof startSessionActor>;
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
            }).snapshot,
          }
        : { input: {} }),
      clock,
      durations: duration,
      perform,
      commit,
      inspect: deps.inspect,
      onError: (error) => deps.log.error({ session: id, epoch, err: error }, 'a session effect failed'),
    });

  function send(event: SessionEvent): void {
    if (!ended) actor.send(event);
  }

  const session: Session = {
    id,
    epoch,
    scope,
    workerId,
    hard,
    keys: birth.kind === 'new' ? birth.keys : [],
    get current() {
      return current;
    },
    begin(turn) {
      turn.note({ type: 'queue' });
      const placed = place(turn, head) && planFor(turn, null).form !== 'impossible';
      current = placed ? turn : null;
      if (placed) {
        actor = startSessionActor();
        if (claimed) send({ type: 'turn.wanted' });
      } else {
        ended = true;
        turn.note({ type: 'hand_back' });
        deps.onEnded(session);
        deps.returnTurn(turn, { kind: 'head_moved', sessionId: id });
      }
    },
    pressure(turn, paused) {
      if (turn === current) socket.pause(paused);
    },
    view: () => ({
      sessionId: id,
      scope,
      epoch,
      state: actor.state,
      busy: current !== null || waiting.length > 0 || !(actor.state === 'live.idle' || actor.state === 'stale'),
      socketAnchor: socket.anchor,
      clientAttached: current?.stream.attached ?? false,
      bufferComplete: current?.stream.complete ?? false,
      activeRequestFp: current?.evidence.requestFp ?? null,
      activeParentTurnId: current?.parent?.id ?? null,
      activeClientTurnId: current?.evidence.clientTurnId ?? null,
      activeIdempotencyKey: current?.evidence.idempotencyKey ?? null,
      unsettledResponseIds: current?.ending && current.responseId ? [current.responseId] : [],
      queueLength: waiting.length,
      queueFull: waiting.length >= config.limits.queueLength,
    }),
    submit(turn) {
      if (ended) return false;
      lastUsed = clock.now();
      turn.note({ type: 'queue' });
      if (current === null && actor.state === 'live.idle') admit(turn);
      else waiting.push(turn);
      return true;
    },
    reattach(sink) {
      if (!current || current.stream.finished || !current.stream.complete) return false;
      current.stream.attach(sink);
      send({ type: 'client.back' });
      return true;
    },
    supersede: () => send({ type: 'turn.cancelled', reason: 'superseded' }),
    clientGone(turn) {
      if (session.withdraw(turn)) turn.fail(new BridgeError('bridge_turn_cancelled'));
      else if (turn === current) send({ type: 'client.gone' });
    },
    withdraw(turn) {
      const before = waiting.length;
      waiting = waiting.filter((each) => each !== turn);
      return waiting.length < before;
    },
    send,
    get lastUsed() {
      return lastUsed;
    },
    get socketOpen() {
      return socket.open;
    },
  };
  return session;
}

/** The five names a row knows. */
export function topState(state: string): SessionStateName {
  return state.split('.', 1)[0] as SessionStateName;
}
