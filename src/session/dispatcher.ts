import type { Config } from '../config.ts';
import { type BridgeCode, BridgeError } from '../errors.ts';
import type { AttemptFact, Decision, Evidence } from '../resolve/types.ts';
import type { Inspect } from '../runtime/index.ts';
import { type Answer, type KeyRef, type SessionRow, StoreUnavailable, type TurnRow } from '../store/port.ts';
import type { Clock, Ids } from '../system.ts';
import { bareResult } from './commits.ts';
import type { SessionBirth, SessionEnv } from './core.ts';
import { type ClassifyInput, classify, Decider } from './decide.ts';
import { Forwarding, type IncomingHop, type Peers, waitToRetry } from './forwarding.ts';
import { LastOwners } from './last-owners.ts';
import type { ClientSink, Shutdown, TurnRequest } from './port.ts';
import { type Lease, type Quota, tenantBusy } from './quota.ts';
import { Session, type SessionHost } from './session.ts';
import { keyName, type SessionRegistry } from './session-registry.ts';
import { describeTurn, faultError, Turn, type TurnHost, type TurnLine, type TurnTimes } from './turn.ts';

/** Maximum number of placement attempts of one request that fail because the conversation moved in the meantime. */
const MAX_CONFLICTS = 3;

/** Time that a repeated request waits for the close of the connection that it replaces, in milliseconds. */
const OVERTAKEN_MS = 1_000;

export interface DispatcherOptions {
  sessions: SessionEnv;
  registry: SessionRegistry;
  peers: Peers;
  quota: Quota;
  /** True if other workers may use the same store. */
  shared: boolean;
  config: Config;
  ids: Ids;
  tokens: ClassifyInput['tokens'];
  shutdown: Readonly<Shutdown>;
  /** Called once per turn, when its client has its answer, with the turn's log line. */
  onFinished?: ((line: TurnLine, request: TurnRequest, times: TurnTimes) => void) | undefined;
  /** Called whenever a turn is assigned to a session, before the session processes it. */
  onPlaced?(turn: Turn, session: Session): void;
  inspect?: Inspect;
}

/** Result of carrying out a decision. `again`: there is no new information, only waiting can change the result. */
type Carried = 'placed' | 'again' | AttemptFact;

/** Factor of `requestHold` for a turn on a client's WebSocket. */
const SOCKET_PATIENCE = 4;

/**
 * Returns the time for which a request may wait before its frame is sent, in milliseconds. A client over HTTP, and what is between,
 * waits for a status meanwhile; a WebSocket is kept alive by pings.
 */
function holdMs({ requestHold }: Pick<Config['deadlines'], 'requestHold'>, { clientTransport }: TurnRequest): number {
  return clientTransport === 'websocket' ? SOCKET_PATIENCE * requestHold : requestHold;
}

/** What the dispatcher keeps of a turn until the turn's client has its answer. */
interface Admitted {
  readonly lease: Lease;
  /** The hop by which the request came; null if this worker holds the client. */
  hop: IncomingHop | null;
  /** Cancels the placement timeout. */
  cancelHold(): void;
}

/**
 * Places requests: resolves a request's evidence and the stored rows into one decision, and carries that decision out.
 *
 * A turn is admitted, then attempted until it is placed on a session, served by another worker, or refused. A session
 * that cannot serve a turn returns it, and the turn is attempted again.
 */
export class Dispatcher implements TurnHost, SessionHost {
  readonly bufferBytes: number;
  readonly quota: Quota;
  readonly inspect: Inspect | undefined;
  readonly onIdle: SessionHost['onIdle'];
  readonly onTurnDiscarded: SessionHost['onTurnDiscarded'];
  readonly #options: DispatcherOptions;
  readonly #env: SessionEnv;
  readonly #registry: SessionRegistry;
  readonly #classLimits: ClassifyInput['limits'];
  readonly #decider: Decider;
  readonly #claimer: Claimer;
  readonly #forwarding: Forwarding;
  readonly #creating = new CreatingKeys();
  readonly #admitted = new Map<Turn, Admitted>();
  /** Turns that are processed for other workers, by turn id. */
  readonly #forPeers = new Map<string, Turn>();
  /** The session of each placed turn. An entry exists as long as the turn itself is referenced. */
  readonly #sessions = new WeakMap<Turn, Session>();

  constructor(options: DispatcherOptions) {
    const { sessions: env, registry, peers, config } = options;
    this.bufferBytes = config.limits.turnBufferBytes;
    this.quota = options.quota;
    this.inspect = options.inspect;
    this.onIdle = registry.addIdle.bind(registry);
    this.onTurnDiscarded = registry.turnDiscarded.bind(registry);
    this.#options = options;
    this.#env = env;
    this.#registry = registry;
    this.#classLimits = {
      frameBytes: config.limits.frameBytes,
      webSocket: config.upstream.transport !== 'http',
    };
    const lastOwners = new LastOwners();
    this.#decider = new Decider(env, registry, lastOwners, options.shared);
    this.#claimer = new Claimer(env);
    this.#forwarding = new Forwarding(env, peers, lastOwners, (turn) => this.#admitted.get(turn)?.cancelHold());
  }

  /** Number of turns whose clients are still waiting. */
  get inFlight(): number {
    return this.#admitted.size;
  }

  /**
   * Accepts a request and takes responsibility for its answer on `sink`.
   *
   * @param lease the admission under which the request was counted so far; ended here. Without one, the request is
   *   admitted now
   * @param hop the incoming hop, if another worker holds the client
   */
  accept(request: TurnRequest, sink: ClientSink, lease?: Lease, hop?: IncomingHop): void {
    if (hop && (hop.attempt > 0 || this.#forPeers.has(hop.turnId))) return void this.#resumeHop(request, sink, hop);
    this.#admit(request, sink, hop ?? null, lease);
  }

  /**
   * Handles a peer's request for a session of this worker that has no actor here: its active turn, if any, is ended, so
   * that another worker can claim the session. Never rejects.
   */
  async disown(scope: string, sessionId: string, epoch: number): Promise<void> {
    if (this.#registry.get(sessionId) === null) await this.#claimer.disown(scope, sessionId, epoch).catch(() => {});
  }

  /**
   * Handles a hop for a turn that the sender may have sent before and whose state it does not know. A turn that runs
   * here is attached to the new hop; a turn that was never started is started; a turn that has ended and is no longer
   * buffered is never run again.
   */
  async #resumeHop(request: TurnRequest, sink: ClientSink, hop: IncomingHop): Promise<void> {
    const { turnId, attempt } = hop;
    const running = this.#forPeers.get(turnId);
    if (running) {
      // Copies of a hop may arrive in any order; the sender only reads the answer of its latest one.
      const admitted = this.#admitted.get(running);
      if (!admitted?.hop || admitted.hop.attempt >= attempt) return hop.notOwner();
      admitted.hop = hop;
      const session = this.#sessions.get(running);
      const isCurrent = session?.turns.attachable === running;
      if (isCurrent ? session.reattach(sink) : running.stream.complete) {
        this.#listen(running, sink);
        if (!isCurrent) running.stream.attach(sink);
      } else sink.fail(new BridgeError('bridge_owner_lost'));
      return;
    }
    for (const session of this.#registry.all()) {
      const ended = session.turns.attachable;
      if (ended?.id !== turnId || !session.reattach(sink)) continue;
      return this.#listen(ended, sink);
    }
    try {
      if ((await this.#env.store.turn(request.caller.scope, turnId)) !== null)
        return sink.fail(new BridgeError('bridge_owner_lost'));
    } catch (error) {
      return sink.fail(asBridgeError(error));
    }
    if (this.#forPeers.has(turnId)) return this.#resumeHop(request, sink, hop);
    this.#admit(request, sink, hop);
  }

  #admit(request: TurnRequest, sink: ClientSink, hop: IncomingHop | null, given?: Lease): void {
    const { config, ids, tokens, shutdown } = this.#options;
    let lease: Lease;
    try {
      // A forwarded request was already counted against the requests per minute, at the worker that received it.
      lease = given ?? this.quota.admit(request.caller.scope, { declaredBytes: request.bytes, metered: !hop });
    } catch (error) {
      return sink.fail(asBridgeError(error));
    }
    let turn: Turn;
    try {
      const evidence = classify({ request, tokens, limits: this.#classLimits });
      turn = new Turn(this, { id: hop?.turnId ?? ids.uuid(), request, evidence, lease, sink });
    } catch (error) {
      lease.end();
      throw error;
    }
    if (hop) this.#forPeers.set(turn.id, turn);
    const hold = holdMs(config.deadlines, request);
    turn.placement.heldUntil = request.receivedAt + hold;
    const cancelHold = this.#env.clock.after(hold, () => this.#holdExpired(turn));
    this.#admitted.set(turn, { lease, hop, cancelHold });
    this.#listen(turn, sink);
    void (shutdown.emptying && !hop ? this.#dispatchLast(turn) : this.#dispatch(turn));
  }

  /**
   * Handles a request that arrives while this worker is shutting down: it is placed only if another worker can serve
   * it.
   */
  async #dispatchLast(turn: Turn): Promise<void> {
    const peer = await this.#options.peers.serving().catch(() => null);
    if (peer === null) return turn.fail(new BridgeError('bridge_draining'));
    return this.#dispatch(turn);
  }

  #listen(turn: Turn, sink: ClientSink): void {
    sink.onGone(() => {
      if (turn.stream.delivered || turn.stream.sink !== sink) return;
      const session = this.#sessions.get(turn);
      if (session) this.#registry.clientLeft(session);
      if (turn.stream.finished) return;
      if (session) session.clientGone(turn);
      else turn.fail(new BridgeError('bridge_turn_cancelled'));
    });
  }

  /** Ends a request that was held for `holdMs` without a frame having been sent for it. */
  #holdExpired(turn: Turn): void {
    if (turn.times.sent !== null || turn.stream.finished) return;
    const session = this.#sessions.get(turn);
    if (session?.turns.withdraw(turn)) return turn.fail(new BridgeError('bridge_queue_full'));
    turn.fail(faultError(turn, 'bridge_hold_expired'));
    // The session is already processing the turn: cancel it, so that no frame is sent for it later.
    session?.send({ type: 'turn.cancelled', reason: 'hold_expired' });
  }

  /** Attempts a turn until it is placed or has ended. */
  async #dispatch(turn: Turn): Promise<void> {
    const { placement } = turn;
    try {
      if (turn.evidence.repeats) await this.#earlierReaderLeft(turn);
      while (!turn.stream.finished) {
        if (placement.conflicts >= MAX_CONFLICTS) return turn.fail(new BridgeError('bridge_conflict'));
        placement.resolutions += 1;
        await this.#creating.settled(turn.evidence);
        const carried = await this.#attempt(turn);
        if (carried === 'placed') return;
        if (carried !== 'again') learn(turn, carried);
        if (await waitToRetry(this.#env, turn)) continue;
        if (!turn.stream.finished) {
          turn.fail(new BridgeError(placement.possibleOwner === null ? 'bridge_hold_expired' : 'bridge_owner_lost'));
        }
      }
    } catch (error) {
      if (!(error instanceof BridgeError || error instanceof StoreUnavailable)) {
        const { id, request } = turn;
        this.#env.log.error({ request: request.requestId, turn: id, err: error }, 'placing a request failed');
      }
      turn.fail(asBridgeError(error));
    }
  }

  /**
   * Waits up to 1 s for the earlier reader of the same request to disconnect. A repeated request can arrive before the
   * close of the connection that it replaces, above all if that connection goes through another worker.
   */
  async #earlierReaderLeft({ evidence: { scope, requestFp } }: Turn): Promise<void> {
    const reader = this.#registry.watchReader(scope, requestFp);
    if (!reader) return;
    let stop = () => {};
    const over = new Promise<void>((end) => (stop = this.#env.clock.after(OVERTAKEN_MS, end)));
    await Promise.race([reader.left, over]);
    stop();
    reader.cancel();
  }

  /**
   * Makes one attempt to place a turn. Tolerates a slow store: while the store confirms this worker's heartbeats, an
   * unanswered call leads to `again`.
   *
   * @throws StoreUnavailable if the store has been silent for `startWait` and this worker's lease is in doubt
   */
  async #attempt(turn: Turn): Promise<Carried> {
    const { clock, worker, config } = this.#env;
    const { placement } = turn;
    const askedAt = clock.now();
    try {
      const decision =
        this.#decider.decideWarm(turn, this.#admitted.get(turn)?.hop !== null) ??
        (await this.quota.read(turn.evidence.scope, async () =>
          turn.stream.finished ? null : await this.#decider.decide(turn),
        ));
      const carried =
        decision === null || turn.stream.finished ? ('placed' as const) : await this.#carryOut(turn, decision);
      placement.silentSince = null;
      return carried;
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      placement.silentSince = Math.max(placement.silentSince ?? askedAt, worker.confirmedAt);
      const silentMs = clock.now() - placement.silentSince;
      if (silentMs >= config.deadlines.startWait && !worker.mayStart()) throw error;
      return 'again';
    }
  }

  /**
   * Returns true while this worker's lease is in doubt, and requests a heartbeat. A worker may only act on a decision
   * while it holds a valid lease.
   *
   * @throws BridgeError `bridge_lease_lapsed` if the lease has been in doubt for `startWait`
   */
  #leaseInDoubt({ placement }: Turn): boolean {
    const { clock, worker, config } = this.#env;
    if (worker.mayStart()) {
      placement.lapsedSince = null;
      return false;
    }
    placement.lapsedSince ??= clock.now();
    if (clock.now() - placement.lapsedSince >= config.deadlines.startWait) throw new BridgeError('bridge_lease_lapsed');
    worker.doubt();
    return true;
  }

  async #carryOut(turn: Turn, decision: Decision): Promise<Carried> {
    const hop = this.#admitted.get(turn)?.hop;
    if (hop && !mayServe(hop, decision)) {
      turn.handOver();
      hop.notOwner();
      return 'placed';
    }
    // After a supersede, a recovery of the session is an internal detail; the client keeps seeing `superseded`.
    if (turn.outcome !== 'superseded' || decision.outcome !== 'stale_recovery') turn.outcome = decision.outcome;
    if (this.#env.worker.draining && !hop && (decision.do === 'create' || decision.do === 'claim')) {
      if (!turn.lease.run()) return refuse(turn, tenantBusy('turns'));
      const forwarded = await this.#forwarding.toServingWorker(turn);
      if (forwarded !== null) return forwarded === 'done' ? 'placed' : forwarded;
    }
    if (acting.has(decision.do) && this.#leaseInDoubt(turn)) return 'again';
    switch (decision.do) {
      case 'refuse': {
        const { code, retryAfterSeconds, param } = decision;
        return refuse(turn, new BridgeError(code as BridgeCode, { retryAfterSeconds, param }));
      }
      case 'forward': {
        // This worker holds the request and the other one runs it; each applies its own limit on turns.
        if (!turn.lease.run()) return refuse(turn, tenantBusy('turns'));
        const forwarded = await this.#forwarding.toOwner(turn, decision);
        return forwarded === 'done' ? 'placed' : forwarded;
      }
      case 'await_owner': {
        const forwarded = await this.#forwarding.awaitOwner(turn, decision);
        return forwarded === 'done' ? 'placed' : forwarded;
      }
      case 'claim':
        return this.#claim(turn, decision);
      case 'reattach':
        return this.#reattach(turn, decision.sessionId, decision.epoch);
      default: {
        if (turn.placement.possibleOwner !== null) {
          const may = await this.#forwarding.mayRun(turn, null);
          if (may !== 'yes') return may === 'no' ? 'placed' : 'again';
        }
        if (decision.do === 'create') return this.#create(turn, decision);
        if (decision.do === 'supersede') {
          const superseded = this.#registry.exact(decision.sessionId, decision.epoch);
          superseded?.send({ type: 'turn.cancelled', reason: 'superseded' });
        }
        return this.#submit(turn, decision.sessionId, decision.epoch);
      }
    }
  }

  /**
   * Reserves a place for the turn's session.
   *
   * @returns the reserved place, or the error with which the turn has to end
   */
  #reservePlace({ evidence: { scope }, lease }: Turn): { leave(): void } | BridgeError {
    if (!lease.run()) return tenantBusy('turns');
    const room = this.#registry.makeRoom(scope);
    if (room === 'worker') return new BridgeError('bridge_overloaded');
    return room === 'scope' ? this.quota.refuse('sockets') : room;
  }

  #create(turn: Turn, { keys, parent }: Extract<Decision, { do: 'create' }>): Carried {
    const { ids } = this.#options;
    const { scope } = turn.evidence;
    const room = this.#reservePlace(turn);
    if (room instanceof BridgeError) return refuse(turn, room);
    // The session itself counts against the limit from now on.
    room.leave();
    this.#creating.begin(scope, keys);
    this.#open(turn, { kind: 'new', sessionId: ids.uuid(), scope, keys, fork: parent, nonce: ids.uuid() });
    return 'placed';
  }

  async #claim(turn: Turn, decision: Extract<Decision, { do: 'claim' }>): Promise<Carried> {
    const { ids, peers } = this.#options;
    const room = this.#reservePlace(turn);
    if (room instanceof BridgeError) return refuse(turn, room);
    try {
      const { ownerWorkerId, id } = decision.session;
      const { possibleOwner } = turn.placement;
      if (possibleOwner !== null && possibleOwner.sessionId !== id) {
        const may = await this.#forwarding.mayRun(turn, null);
        if (may !== 'yes') return may === 'no' ? 'placed' : 'again';
      }
      const nonce = ids.uuid();
      const claimed = await this.#claimer.claim(decision, nonce);
      if (claimed === 'fenced') return 'again';
      if ('kind' in claimed) return claimed;
      const { epoch } = claimed.row;
      if (ownerWorkerId !== null && ownerWorkerId !== this.#env.worker.id) {
        peers.notifyClaimed(ownerWorkerId, id, epoch);
      }
      if ((await this.#forwarding.mayRun(turn, id)) !== 'yes' || turn.stream.finished) return 'placed';
      // Another request on this worker may have claimed the session again since; in that case its actor is the current
      // one.
      if ((this.#registry.get(id)?.epoch ?? 0) >= epoch) return { kind: 'lost_race', sessionId: id };
      this.#open(turn, { kind: 'claimed', ...claimed, nonce });
      return 'placed';
    } finally {
      room.leave();
    }
  }

  #open(turn: Turn, birth: SessionBirth): void {
    const session = new Session(this.#env, this, birth, turn);
    this.#place(turn, session);
    this.#registry.add(session);
    session.begin(birth, turn);
  }

  #submit(turn: Turn, sessionId: string, epoch: number): Carried {
    const session = this.#registry.exact(sessionId, epoch);
    const refused = (): AttemptFact => ({ kind: 'not_owner', sessionId, workerId: this.#env.worker.id, epoch });
    if (!session) return refused();
    this.#place(turn, session);
    if (session.submit(turn)) return 'placed';
    this.#sessions.delete(turn);
    return refused();
  }

  #place(turn: Turn, session: Session): void {
    this.#sessions.set(turn, session);
    this.#options.onPlaced?.(turn, session);
  }

  #reattach(turn: Turn, sessionId: string, epoch: number): Carried {
    const session = this.#registry.attachable(sessionId, epoch);
    const running = session?.turns.attachable ?? null;
    if (!session || !running || !session.reattach(turn.stream.sink)) return { kind: 'busy', sessionId };
    this.#listen(running, turn.stream.sink);
    turn.handOver();
    return 'placed';
  }

  // What turns and sessions report.

  onPressure(turn: Turn, paused: boolean): void {
    this.#sessions.get(turn)?.socket.pause(turn, paused);
  }

  onFinished(turn: Turn): void {
    const admitted = this.#admitted.get(turn);
    this.#admitted.delete(turn);
    if (this.#forPeers.get(turn.id) === turn) this.#forPeers.delete(turn.id);
    if (turn.placement.hops > 0) this.#forwarding.abort(turn);
    admitted?.cancelHold();
    admitted?.lease.end();
    const line = describeTurn(turn, this.#sessions.get(turn) ?? null, this.#env.clock.now());
    this.#options.onFinished?.(line, turn.request, turn.times);
  }

  returnTurn(turn: Turn, fact: AttemptFact | null): void {
    this.#sessions.delete(turn);
    if (fact) learn(turn, fact);
    turn.parent = null;
    turn.parentLine = null;
    turn.history = null;
    // The client left while the session was processing its turn; the event was still queued when the session returned
    // the turn.
    if (!turn.stream.attached) return turn.fail(new BridgeError('bridge_turn_cancelled'));
    void waitToRetry(this.#env, turn).then(() => this.#dispatch(turn));
  }

  onCreated({ scope, keys }: Session): void {
    this.#creating.end(scope, keys);
  }

  onEnded(session: Session): void {
    this.#registry.remove(session);
    this.onCreated(session);
  }
}

/** Ends a turn with an error. */
function refuse(turn: Turn, error: BridgeError): Carried {
  turn.fail(error);
  return 'placed';
}

/**
 * Records the fact from a failed attempt. Attempts that failed because the conversation moved are counted and bounded.
 */
function learn({ placement }: Turn, fact: AttemptFact): void {
  placement.attempts.push(fact);
  if (fact.kind !== 'unreachable' && fact.kind !== 'not_owner') placement.conflicts += 1;
}

/** Decisions that start a turn on this worker or claim a session. They require a valid lease. */
const acting: ReadonlySet<Decision['do']> = new Set(['create', 'claim', 'use', 'queue', 'supersede']);

/**
 * Returns whether this worker may carry out a decision for a forwarded request. It never forwards the request further,
 * and it claims or creates keyed sessions only in mode `resolve`.
 */
function mayServe(hop: IncomingHop, decision: Decision): boolean {
  if (decision.do === 'forward' || decision.do === 'await_owner') return false;
  if (hop.mode === 'resolve') return true;
  return decision.do !== 'claim' && !(decision.do === 'create' && decision.keys.length > 0);
}

function asBridgeError(error: unknown): BridgeError {
  if (error instanceof BridgeError) return error;
  return new BridgeError(error instanceof StoreUnavailable ? 'bridge_store_unavailable' : 'bridge_internal', {
    cause: error,
  });
}

/**
 * Hard keys whose session is being created on this worker. A second request with such a key waits for the outcome
 * instead of dialing too.
 */
class CreatingKeys {
  readonly #creating = new Map<string, { promise: Promise<void>; resolve: () => void }>();

  /** Resolves as soon as no session is being created under the request's hard key. */
  async settled({ scope, hardKey, anchor }: Evidence): Promise<void> {
    // An anchored request is placed by its anchor; a session that is being created under its key does not matter to it.
    if (hardKey !== null && anchor === null) await this.#creating.get(keyName(scope, hardKey))?.promise;
  }

  begin(scope: string, keys: readonly KeyRef[]): void {
    for (const key of keys) {
      const name = keyName(scope, key);
      if (!this.#creating.has(name)) this.#creating.set(name, Promise.withResolvers<void>());
    }
  }

  end(scope: string, keys: readonly KeyRef[]): void {
    for (const key of keys) {
      const name = keyName(scope, key);
      this.#creating.get(name)?.resolve();
      this.#creating.delete(name);
    }
  }
}

/** Result of a claim. `fenced`: the store does not accept claims from this worker at the moment. */
type Claimed = { row: SessionRow; head: TurnRow | null } | AttemptFact | 'fenced';

/** Pause between two attempts of an unanswered call, in milliseconds. */
const REPEAT = 100;

/** Claims sessions. A claim assigns a new epoch under a new nonce, or reports that another worker was first. */
class Claimer {
  readonly #env: SessionEnv;

  constructor(env: SessionEnv) {
    this.#env = env;
  }

  /**
   * Claims the session of the decision for this worker.
   *
   * @param nonce identifies this claim in its repetitions
   * @returns the claimed row and its head, the fact why the claim failed, or `fenced`
   * @throws BridgeError `bridge_store_rejected` if the store rejects the call
   * @throws StoreUnavailable if the store does not answer within `startWait`
   */
  async claim({ session: read, ownOrphan }: Extract<Decision, { do: 'claim' }>, nonce: string): Promise<Claimed> {
    const { store, worker } = this.#env;
    const row = ownOrphan && read.activeTurnId && read.ownerNonce ? await this.#endOrphan(read) : read;
    const { scope, id: sessionId, epoch: epochRead, revision: revisionRead } = row;
    const call = { me: worker.id, nonce, scope, sessionId, epochRead, revisionRead };
    const answer = await this.#answered(() => store.claim(call));
    switch (answer.verdict) {
      case 'row':
        return { row: answer.row, head: await this.#headOf(answer.row) };
      case 'busy':
        return { kind: 'busy', sessionId };
      case 'lost_race':
        return { kind: 'lost_race', sessionId };
      case 'fenced':
        // This worker's row may be lost. The next heartbeat detects and repairs that.
        worker.doubt();
        return 'fenced';
      case 'rejected':
        throw new BridgeError('bridge_store_rejected', { cause: answer.reason });
    }
  }

  /**
   * Ends the active turn of a session that this worker owns at this epoch but does not run. Called before this worker
   * answers `not_owner`: while the owner is alive no other worker can end that turn, so the requester could only wait.
   *
   * @throws StoreUnavailable if the store does not answer
   */
  async disown(scope: string, sessionId: string, epoch: number): Promise<void> {
    const row = await this.#env.store.session(scope, sessionId);
    const isOwn = row?.ownerWorkerId === this.#env.worker.id && row.epoch === epoch;
    if (isOwn && row.activeTurnId !== null) await this.#endOrphan(row);
  }

  /**
   * Settles as `lost` the active turn of a session that this worker owns without running it. No other worker can do so
   * while this one is alive.
   *
   * @returns the row after the settle
   */
  async #endOrphan(row: SessionRow): Promise<SessionRow> {
    const { store, worker } = this.#env;
    await this.#answered(() =>
      store.settle({
        me: worker.id,
        nonce: row.ownerNonce!,
        epoch: row.epoch,
        scope: row.scope,
        sessionId: row.id,
        turnId: row.activeTurnId!,
        result: bareResult('lost', null),
        saved: { state: 'stale', snapshot: row.snapshot, machineVersion: row.machineVersion },
      }),
    );
    return (await store.session(row.scope, row.id)) ?? row;
  }

  /** Loads the turn that the row names as its head. Returns null if that turn does not exist in the session's scope. */
  async #headOf({ headTurnId, scope }: SessionRow): Promise<TurnRow | null> {
    return headTurnId === null ? null : this.#env.store.turn(scope, headTurnId);
  }

  /**
   * Repeats a call, unchanged, until the store answers it.
   *
   * @throws StoreUnavailable if there is no answer within `startWait`
   */
  async #answered<V extends object>(
    call: () => Promise<Answer<V>>,
  ): Promise<Exclude<Answer<V>, { verdict: 'unknown' }>> {
    const { clock, config } = this.#env;
    const until = clock.now() + config.deadlines.startWait;
    for (;;) {
      const answer = await call();
      if (!('verdict' in answer) || answer.verdict !== 'unknown')
        return answer as Exclude<Answer<V>, { verdict: 'unknown' }>;
      if (clock.now() >= until) throw new StoreUnavailable('no answer to a claim');
      await new Promise<void>((again) => clock.after(REPEAT, again));
    }
  }
}

/** Interval at which a drain checks whether the last turn has ended, in milliseconds. */
const LOOK_EVERY = 25;
/** Time allowed for settling cancelled turns, in milliseconds. */
export const SETTLE_GRACE = 5_000;

/** Sends every session the drain event: idle ones release themselves at once, the others when their turn has ended. */
export function releaseIdle(registry: SessionRegistry): void {
  for (const session of [...registry.all()]) session.send({ type: 'worker.draining' });
}

/**
 * Drains a worker that admits no new requests. Running turns may complete until `deadlineMs`; the remaining ones are
 * cancelled and settled. Turns that cannot be settled within 5 s are left to the session's next owner.
 *
 * @param deadlineMs time for running turns to complete, in milliseconds from now
 */
export async function drain(
  registry: SessionRegistry,
  dispatcher: Dispatcher,
  clock: Clock,
  deadlineMs: number,
): Promise<void> {
  const settled = async (ms: number) => {
    const until = clock.now() + ms;
    while ((dispatcher.inFlight > 0 || registry.size > 0) && clock.now() < until) {
      await new Promise<void>((look) => clock.after(LOOK_EVERY, look));
    }
    return dispatcher.inFlight === 0 && registry.size === 0;
  };
  releaseIdle(registry);
  if (await settled(deadlineMs)) return;
  for (const session of [...registry.all()]) session.send({ type: 'turn.cancelled', reason: 'drain' });
  if (await settled(SETTLE_GRACE)) return;
  for (const session of [...registry.all()]) session.abandon();
}
