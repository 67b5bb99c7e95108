import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import { type BridgeCode, BridgeError } from '../errors.ts';
import type { Ids } from '../ids.ts';
import type { AttemptFact, Decision, Evidence } from '../resolve/types.ts';
import type { Inspect } from '../runtime/index.ts';
import {
  type Answer,
  type KeyRef,
  type SessionRow,
  type SessionStore,
  StoreUnavailable,
  type TurnRow,
} from '../store/port.ts';
import { bareResult } from './commits.ts';
import { createDecider } from './decide.ts';
import { createElsewhere, createRest, type IncomingHop, type Peers } from './forwarding.ts';
import type { ClientSink, TurnRequest } from './port.ts';
import { type Lease, type Quota, tenantBusy } from './quota.ts';
import { createSession, type Session, type SessionBirth, type SessionDeps } from './session.ts';
import type { SessionRegistry } from './session-registry.ts';
import { createTurn, faultError, type Turn } from './turn.ts';

/**
 * Hard keys whose session is being created on this worker. A second request with such a key waits for the outcome
 * instead of dialing too.
 */
export interface CreatingKeys {
  /** Resolves as soon as no session is being created under the request's hard key. */
  settled(evidence: Evidence): Promise<void>;
  begin(scope: string, keys: readonly KeyRef[]): void;
  end(scope: string, keys: readonly KeyRef[]): void;
}

/** Creates the set of hard keys of one worker. */
export function createCreatingKeys(): CreatingKeys {
  const creating = new Map<string, { promise: Promise<void>; resolve: () => void }>();
  const nameOf = (scope: string, { kind, hash }: KeyRef) => `${scope}\n${kind}\n${hash}`;
  return {
    async settled({ scope, hardKey, anchor }) {
      // An anchored request is placed by its anchor; a session that is being created under its key does not matter to
      // it.
      if (hardKey !== null && anchor === null) await creating.get(nameOf(scope, hardKey))?.promise;
    },
    begin(scope, keys) {
      for (const key of keys) {
        const name = nameOf(scope, key);
        if (!creating.has(name)) creating.set(name, Promise.withResolvers<void>());
      }
    },
    end(scope, keys) {
      for (const key of keys) {
        const name = nameOf(scope, key);
        creating.get(name)?.resolve();
        creating.delete(name);
      }
    },
  };
}

export interface ClaimerOptions {
  store: SessionStore;
  clock: Clock;
  deadlines: Pick<Config['deadlines'], 'startWait'>;
  me(): string;
  /** Called when the store answers `fenced`: this worker's row may be lost. The next heartbeat detects and repairs that. */
  doubt(): void;
}

/** Result of a claim. `fenced`: the store does not accept claims from this worker at the moment. */
export type Claimed = { row: SessionRow; head: TurnRow | null } | AttemptFact | 'fenced';

/** Pause between two attempts of an unanswered call, in milliseconds. */
const REPEAT = 100;

/** Claims sessions. A claim assigns a new epoch under a new nonce, or reports that another worker was first. */
export function createClaimer({ store, clock, deadlines, me, doubt }: ClaimerOptions) {
  /**
   * Repeats a call, unchanged, until the store answers it.
   *
   * @throws StoreUnavailable if there is no answer within `startWait`
   */
  async function answered<V extends object>(
    call: () => Promise<Answer<V>>,
  ): Promise<Exclude<Answer<V>, { verdict: 'unknown' }>> {
    const until = clock.now() + deadlines.startWait;
    for (;;) {
      const answer = await call();
      if (!('verdict' in answer) || answer.verdict !== 'unknown')
        return answer as Exclude<Answer<V>, { verdict: 'unknown' }>;
      if (clock.now() >= until) throw new StoreUnavailable('no answer to a claim');
      await new Promise<void>((again) => clock.after(REPEAT, again));
    }
  }

  /**
   * Settles as `lost` the active turn of a session that this worker owns without running it. No other worker can do so
   * while this one is alive.
   *
   * @returns the row after the settle
   */
  async function endOrphan(row: SessionRow): Promise<SessionRow> {
    await answered(() =>
      store.settle({
        me: me(),
        nonce: row.ownerNonce!,
        epoch: row.epoch,
        sessionId: row.id,
        turnId: row.activeTurnId!,
        result: bareResult('lost', null),
        saved: { state: 'stale', snapshot: row.snapshot, machineVersion: row.machineVersion },
      }),
    );
    return (await store.session(row.id)) ?? row;
  }

  /** Loads the turn that the row names as its head. Returns null if that turn does not exist in the session's scope. */
  async function headOf({ headTurnId, scope }: SessionRow): Promise<TurnRow | null> {
    const head = headTurnId === null ? null : await store.turn(headTurnId);
    return head?.scope === scope ? head : null;
  }

  async function claim(decision: Extract<Decision, { do: 'claim' }>, nonce: string): Promise<Claimed> {
    const read = decision.session;
    const row = decision.ownOrphan && read.activeTurnId && read.ownerNonce ? await endOrphan(read) : read;
    const answer = await answered(() =>
      store.claim({ me: me(), nonce, sessionId: row.id, epochRead: row.epoch, revisionRead: row.revision }),
    );
    switch (answer.verdict) {
      case 'row':
        return { row: answer.row, head: await headOf(answer.row) };
      case 'busy':
        return { kind: 'busy', sessionId: row.id };
      case 'lost_race':
        return { kind: 'lost_race', sessionId: row.id };
      case 'fenced':
        doubt();
        return 'fenced';
      case 'rejected':
        throw new BridgeError('bridge_store_rejected', { cause: answer.reason });
    }
  }

  return {
    /**
     * Claims the session of the decision for this worker.
     *
     * @param nonce identifies this claim in its repetitions
     * @returns the claimed row and its head, the fact why the claim failed, or `fenced`
     * @throws BridgeError `bridge_store_rejected` if the store rejects the call
     * @throws StoreUnavailable if the store does not answer within `startWait`
     */
    claim,
    /**
     * Ends the active turn of a session that this worker owns at this epoch but does not run. Called before this worker
     * answers `not_owner`: while the owner is alive no other worker can end that turn, so the requester could only
     * wait.
     *
     * @throws StoreUnavailable if the store does not answer
     */
    async disown(sessionId: string, epoch: number): Promise<void> {
      const row = await store.session(sessionId);
      if (row?.ownerWorkerId === me() && row.epoch === epoch && row.activeTurnId !== null) await endOrphan(row);
    },
  };
}

/** Maximum number of placement attempts of one request that fail because the conversation moved in the meantime. */
const MAX_CONFLICTS = 3;

/** Time that a repeated request waits for the close of the connection that it replaces, in milliseconds. */
const OVERTAKEN_MS = 1_000;

export interface DispatcherDeps {
  store: SessionStore;
  registry: SessionRegistry;
  sessions: Omit<SessionDeps, 'returnTurn' | 'onCreated' | 'onEnded' | 'onForgotten' | 'onIdle'>;
  peers: Peers;
  quota: Quota;
  /** True if other workers may use the same store. */
  shared: boolean;
  config: Config;
  clock: Clock;
  ids: Ids;
  classify(request: TurnRequest): Evidence;
  /** Called once per turn, when its client has its answer. */
  onFinished(turn: Turn, session: Session | null): void;
  /** Returns true while this worker is shutting down: a new request is then accepted only if another worker can take it. */
  refusing?(): boolean;
  /** Called whenever a turn is assigned to a session, before the session processes it. */
  onPlaced?(turn: Turn, session: Session): void;
  inspect?: Inspect;
}

/** Places requests: resolves a request's evidence and the stored rows into one decision, and carries that decision out. */
export interface Dispatcher {
  /**
   * Accepts a request and takes responsibility for its answer on `sink`.
   *
   * @param hop the incoming hop, if another worker holds the client
   * @param lease the admission under which the request was counted so far; ended here. Without one, the request is
   *   admitted now
   */
  accept(request: TurnRequest, sink: ClientSink, hop?: IncomingHop, lease?: Lease): void;
  /**
   * Handles a peer's request for a session of this worker that has no actor here: its active turn, if any, is ended, so
   * that another worker can claim the session. Never rejects.
   */
  disown(sessionId: string, epoch: number): Promise<void>;
  /** Number of turns whose clients are still waiting. */
  readonly inFlight: number;
}

/** Result of carrying out a decision. `again`: there is no new information, only waiting can change the result. */
type Carried = 'placed' | 'again' | AttemptFact;

/** Creates the dispatcher of a worker. */
export function createDispatcher(deps: DispatcherDeps): Dispatcher {
  const { store, registry, config, clock, ids, peers, quota } = deps;
  const { worker, log } = deps.sessions;
  const { deadlines, limits } = config;
  /** The session of each placed turn. An entry exists as long as the turn itself is referenced. */
  const places = new WeakMap<Turn, Session>();
  const holds = new Map<Turn, () => void>();
  const hops = new Map<Turn, IncomingHop>();
  /** Turns being processed for other workers, by turn id. */
  const fromPeers = new Map<string, Turn>();
  const leases = new Map<Turn, Lease>();
  const creating = createCreatingKeys();
  const decide = createDecider({
    store,
    registry,
    me: () => worker.id,
    instancePolicy: config.instancePolicy,
    graceMs: deadlines.grace,
    shared: deps.shared,
    takesAnchors: (credentialFp) =>
      deps.sessions.abilities.takesAnchors({ targetId: deps.sessions.target.id, credentialFp }),
  });
  const claimer = createClaimer({ store, clock, deadlines, me: () => worker.id, doubt: worker.doubt });
  const rest = createRest(clock, deadlines);
  const elsewhere = createElsewhere({
    store,
    clock,
    deadlines,
    peers,
    rest,
    onAccepted: (turn) => holds.get(turn)?.(),
  });

  function accept(request: TurnRequest, sink: ClientSink, hop?: IncomingHop, given?: Lease): void {
    if (hop && (hop.attempt > 0 || fromPeers.has(hop.turnId))) return void takeUp(request, sink, hop);
    admit(request, sink, hop, given);
  }

  /**
   * Handles a hop for a turn that the sender may have sent before and whose state it does not know. A turn that runs
   * here is attached to the new hop; a turn that was never started is started; a turn that has ended and is no longer
   * buffered is never run again.
   */
  async function takeUp(request: TurnRequest, sink: ClientSink, hop: IncomingHop): Promise<void> {
    const { turnId, attempt } = hop;
    const inHand = fromPeers.get(turnId);
    if (inHand) {
      // Copies of a hop may arrive in any order; the sender only reads the answer of its latest one.
      const earlier = hops.get(inHand);
      if (!earlier || earlier.attempt >= attempt) return hop.notOwner();
      hops.set(inHand, hop);
      const place = places.get(inHand);
      const isCurrent = place?.attachable === inHand;
      if (isCurrent ? place.reattach(sink) : inHand.stream.complete) {
        listen(inHand, sink);
        if (!isCurrent) inHand.stream.attach(sink);
      } else sink.fail(new BridgeError('bridge_owner_lost'));
      return;
    }
    for (const session of registry.all()) {
      const ended = session.attachable;
      if (ended?.id !== turnId || !session.reattach(sink)) continue;
      return listen(ended, sink);
    }
    try {
      if ((await store.turn(turnId)) !== null) return sink.fail(new BridgeError('bridge_owner_lost'));
    } catch (error) {
      return sink.fail(asBridgeError(error));
    }
    if (fromPeers.has(turnId)) return takeUp(request, sink, hop);
    admit(request, sink, hop);
  }

  function admit(request: TurnRequest, sink: ClientSink, hop?: IncomingHop, given?: Lease): void {
    let lease: Lease;
    try {
      // A forwarded request was already counted against the requests per minute, at the worker that received it.
      lease = given ?? quota.admit(request.caller.scope, { declaredBytes: request.bytes, metered: !hop });
    } catch (error) {
      return sink.fail(asBridgeError(error));
    }
    let turn: Turn;
    try {
      turn = createTurn({
        id: hop?.turnId ?? ids.uuid(),
        request,
        evidence: deps.classify(request),
        lease,
        sink,
        bufferBytes: limits.turnBufferBytes,
        share: (giveUp) => quota.buffer(request.caller.scope, giveUp),
        unread: quota.unread,
        onPressure: (each, paused) => places.get(each)?.pressure(each, paused),
        onFinished: finished,
        inspect: deps.inspect,
      });
    } catch (error) {
      lease.end();
      throw error;
    }
    leases.set(turn, lease);
    if (hop) {
      hops.set(turn, hop);
      fromPeers.set(turn.id, turn);
    }
    const stopHold = clock.after(deadlines.requestHold, () => holdExpired(turn));
    holds.set(turn, stopHold);
    listen(turn, sink);
    void (deps.refusing?.() && !hop ? dispatchLast(turn) : dispatch(turn));
  }

  /**
   * Handles a request that arrives while this worker is shutting down: it is placed only if another worker can serve
   * it.
   */
  async function dispatchLast(turn: Turn): Promise<void> {
    const peer = await peers.serving().catch(() => null);
    if (peer === null) return turn.fail(new BridgeError('bridge_draining'));
    return dispatch(turn);
  }

  function listen(turn: Turn, sink: ClientSink): void {
    sink.onGone(() => {
      if (turn.stream.delivered || turn.stream.sink !== sink) return;
      const place = places.get(turn);
      if (place) registry.left(place);
      if (turn.stream.finished) return;
      if (place) place.clientGone(turn);
      else turn.fail(new BridgeError('bridge_turn_cancelled'));
    });
  }

  function finished(turn: Turn): void {
    holds.get(turn)?.();
    holds.delete(turn);
    hops.delete(turn);
    if (fromPeers.get(turn.id) === turn) fromPeers.delete(turn.id);
    elsewhere.ended(turn);
    leases.get(turn)?.end();
    leases.delete(turn);
    deps.onFinished(turn, places.get(turn) ?? null);
  }

  /** Ends a request that was held for `requestHold` without a frame having been sent for it. */
  function holdExpired(turn: Turn): void {
    if (turn.times.sent !== null || turn.stream.finished) return;
    const place = places.get(turn);
    if (place?.withdraw(turn)) return turn.fail(new BridgeError('bridge_queue_full'));
    turn.fail(faultError(turn, 'bridge_hold_expired'));
    // The session is already processing the turn: cancel it, so that no frame is sent for it later.
    place?.send({ type: 'turn.cancelled', reason: 'hold_expired' });
  }

  /**
   * Waits up to 1 s for the earlier reader of the same request to disconnect. A repeated request can arrive before the
   * close of the connection that it replaces, above all if that connection goes through another worker.
   */
  async function readerGone({ evidence: { scope, requestFp } }: Turn): Promise<void> {
    const reader = registry.readBy(scope, requestFp);
    if (!reader) return;
    let stop = () => {};
    const over = new Promise<void>((end) => (stop = clock.after(OVERTAKEN_MS, end)));
    await Promise.race([reader.left, over]);
    stop();
    reader.cancel();
  }

  async function dispatch(turn: Turn): Promise<void> {
    try {
      if (turn.evidence.repeats) await readerGone(turn);
      while (!turn.stream.finished) {
        if (turn.conflicts >= MAX_CONFLICTS) return turn.fail(new BridgeError('bridge_conflict'));
        turn.resolutions += 1;
        await creating.settled(turn.evidence);
        const carried = await patiently(turn, () => attempt(turn));
        if (carried === 'placed') return;
        if (carried !== 'again') learn(turn, carried);
        if (await rest(turn)) continue;
        if (!turn.stream.finished) {
          turn.fail(new BridgeError(turn.maybeAt === null ? 'bridge_hold_expired' : 'bridge_owner_lost'));
        }
      }
    } catch (error) {
      if (!(error instanceof BridgeError || error instanceof StoreUnavailable)) {
        log.error({ err: error }, 'placing a request failed');
      }
      turn.fail(asBridgeError(error));
    }
  }

  /**
   * Records the fact from a failed attempt. Attempts that failed because the conversation moved are counted and
   * bounded.
   */
  function learn(turn: Turn, fact: AttemptFact): void {
    turn.attempts.push(fact);
    if (fact.kind !== 'unreachable' && fact.kind !== 'not_owner') turn.conflicts += 1;
  }

  async function attempt(turn: Turn): Promise<Carried> {
    const decision = await quota.read(turn.evidence.scope, async () =>
      turn.stream.finished ? null : await decide(turn),
    );
    return decision === null || turn.stream.finished ? 'placed' : carryOut(turn, decision);
  }

  /**
   * Runs `act` and tolerates a slow store: while the store confirms this worker's heartbeats, an unanswered call leads
   * to `again`.
   *
   * @throws StoreUnavailable if the store has been silent for `startWait` and this worker's lease is in doubt
   */
  async function patiently(turn: Turn, act: () => Promise<Carried>): Promise<Carried> {
    const askedAt = clock.now();
    try {
      const carried = await act();
      turn.silentSince = null;
      return carried;
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      turn.silentSince = Math.max(turn.silentSince ?? askedAt, worker.confirmedAt);
      if (clock.now() - turn.silentSince >= deadlines.startWait && !worker.mayStart()) throw error;
      return 'again';
    }
  }

  /**
   * Returns true while this worker's lease is in doubt, and requests a heartbeat. A worker may only act on a decision
   * while it holds a valid lease.
   *
   * @throws BridgeError `bridge_lease_lapsed` if the lease has been in doubt for `startWait`
   */
  function leaseInDoubt(turn: Turn): boolean {
    if (worker.mayStart()) {
      turn.lapsedSince = null;
      return false;
    }
    turn.lapsedSince ??= clock.now();
    if (clock.now() - turn.lapsedSince >= deadlines.startWait) throw new BridgeError('bridge_lease_lapsed');
    worker.doubt();
    return true;
  }

  async function carryOut(turn: Turn, decision: Decision): Promise<Carried> {
    const hop = hops.get(turn);
    if (hop && !mayServe(hop, decision)) {
      turn.handOver();
      hop.notOwner();
      return 'placed';
    }
    // After a supersede, a recovery of the session is an internal detail; the client keeps seeing `superseded`.
    if (turn.outcome !== 'superseded' || decision.outcome !== 'stale_recovery') turn.outcome = decision.outcome;
    if (worker.draining && !hop && (decision.do === 'create' || decision.do === 'claim')) {
      if (!turn.lease.run()) return busy(turn, tenantBusy('turns'));
      const went = await elsewhere.giveAway(turn);
      if (went !== null) return went === 'done' ? 'placed' : went;
    }
    if (acting.has(decision.do) && leaseInDoubt(turn)) return 'again';
    switch (decision.do) {
      case 'refuse': {
        const { retryAfterSeconds, param } = decision;
        turn.fail(new BridgeError(decision.code as BridgeCode, { retryAfterSeconds, param }));
        return 'placed';
      }
      case 'forward': {
        // The request is held here and run there; each of the two workers applies its own limit on turns.
        if (!turn.lease.run()) return busy(turn, tenantBusy('turns'));
        const went = await elsewhere.forward(turn, decision);
        return went === 'done' ? 'placed' : went;
      }
      case 'await_owner': {
        const went = await elsewhere.awaitOwner(turn, decision);
        return went === 'done' ? 'placed' : went;
      }
      case 'claim':
        return takeOver(turn, decision);
      case 'reattach':
        return reattach(turn, decision.sessionId, decision.epoch);
      default: {
        const may = await elsewhere.mayRunHere(turn, null);
        if (may !== 'yes') return may === 'no' ? 'placed' : 'again';
        if (decision.do === 'create') return create(turn, decision);
        if (decision.do === 'supersede') registry.exact(decision.sessionId, decision.epoch)?.supersede();
        return submit(turn, decision.sessionId, decision.epoch);
      }
    }
  }

  /**
   * Reserves a place for the turn's session.
   *
   * @returns the reserved place, or the error with which the turn has to end
   */
  function placeFor({ evidence: { scope }, lease }: Turn): { leave(): void } | BridgeError {
    if (!lease.run()) return tenantBusy('turns');
    const room = registry.makeRoom(scope);
    if (room === 'worker') return new BridgeError('bridge_overloaded');
    return room === 'scope' ? quota.refuse('sockets') : room;
  }

  function create(turn: Turn, { keys, parent }: Extract<Decision, { do: 'create' }>): Carried {
    const { scope } = turn.evidence;
    const room = placeFor(turn);
    if (room instanceof BridgeError) return busy(turn, room);
    // The session itself counts against the limit from now on.
    room.leave();
    creating.begin(scope, keys);
    open(turn, { kind: 'new', sessionId: ids.uuid(), scope, keys, fork: parent, nonce: ids.uuid() });
    return 'placed';
  }

  async function takeOver(turn: Turn, decision: Extract<Decision, { do: 'claim' }>): Promise<Carried> {
    const room = placeFor(turn);
    if (room instanceof BridgeError) return busy(turn, room);
    try {
      const { ownerWorkerId, id } = decision.session;
      if (turn.maybeAt !== null && turn.maybeAt.sessionId !== id) {
        const may = await elsewhere.mayRunHere(turn, null);
        if (may !== 'yes') return may === 'no' ? 'placed' : 'again';
      }
      const nonce = ids.uuid();
      const claimed = await claimer.claim(decision, nonce);
      if (claimed === 'fenced') return 'again';
      if ('kind' in claimed) return claimed;
      if (ownerWorkerId !== null && ownerWorkerId !== worker.id)
        peers.tellClaimed(ownerWorkerId, id, claimed.row.epoch);
      if ((await elsewhere.mayRunHere(turn, id)) !== 'yes' || turn.stream.finished) return 'placed';
      // Another request on this worker may have claimed the session again since; in that case its actor is the current
      // one.
      if ((registry.get(id)?.epoch ?? 0) >= claimed.row.epoch) return { kind: 'lost_race', sessionId: id };
      open(turn, { kind: 'claimed', ...claimed, nonce });
      return 'placed';
    } finally {
      room.leave();
    }
  }

  function busy(turn: Turn, error: BridgeError): Carried {
    turn.fail(error);
    return 'placed';
  }

  function open(turn: Turn, birth: SessionBirth): void {
    const session = createSession(
      { ...deps.sessions, returnTurn, onEnded, onForgotten, onCreated, onIdle },
      birth,
      turn,
    );
    places.set(turn, session);
    deps.onPlaced?.(turn, session);
    registry.add(session);
    session.begin(turn);
  }

  function submit(turn: Turn, sessionId: string, epoch: number): Carried {
    const session = registry.exact(sessionId, epoch);
    if (!session) return { kind: 'not_owner', sessionId };
    places.set(turn, session);
    deps.onPlaced?.(turn, session);
    if (session.submit(turn)) return 'placed';
    places.delete(turn);
    return { kind: 'not_owner', sessionId };
  }

  function reattach(turn: Turn, sessionId: string, epoch: number): Carried {
    const session = registry.attachable(sessionId, epoch);
    const running = session?.attachable ?? null;
    if (!session || !running || !session.reattach(turn.stream.sink)) return { kind: 'busy', sessionId };
    listen(running, turn.stream.sink);
    turn.handOver();
    return 'placed';
  }

  function returnTurn(turn: Turn, fact: AttemptFact | null): void {
    places.delete(turn);
    if (fact) learn(turn, fact);
    turn.parent = null;
    turn.parentLine = null;
    turn.history = null;
    // The client left while the session was processing its turn; the event was still queued when the session returned
    // the turn.
    if (!turn.stream.attached) return turn.fail(new BridgeError('bridge_turn_cancelled'));
    void rest(turn).then(() => dispatch(turn));
  }

  const onIdle = (session: Session) => registry.rests(session);
  const onForgotten = (session: Session) => registry.forgotten(session);
  const onCreated = (session: Session) => creating.end(session.scope, session.keys);

  function onEnded(session: Session): void {
    registry.remove(session);
    onCreated(session);
  }

  return {
    accept,
    async disown(sessionId, epoch) {
      if (registry.get(sessionId) === null) await claimer.disown(sessionId, epoch).catch(() => {});
    },
    get inFlight() {
      return holds.size;
    },
  };
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

/** Interval at which a drain checks whether the last turn has ended, in milliseconds. */
const LOOK_EVERY = 25;
/** Time allowed for settling cancelled turns, in milliseconds. */
const SETTLE_GRACE = 5_000;

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
  { registry, dispatcher, clock }: { registry: SessionRegistry; dispatcher: Dispatcher; clock: Clock },
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
