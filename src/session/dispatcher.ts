import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import { type BridgeCode, BridgeError } from '../errors.ts';
import type { Ids } from '../ids.ts';
import type { AttemptFact, Decision, Evidence } from '../resolve/types.ts';
import type { Inspect } from '../runtime/index.ts';
import { type SessionStore, StoreUnavailable } from '../store/port.ts';
import { createClaimer } from './claiming.ts';
import { createCreatingKeys } from './creating.ts';
import { createElsewhere } from './elsewhere.ts';
import { createDecider } from './facts.ts';
import type { IncomingHop, Peers } from './peers.ts';
import type { ClientSink, TurnRequest } from './port.ts';
import { type Lease, type Quota, tenantBusy } from './quota.ts';
import { createRest } from './rest.ts';
import type { Roster } from './roster.ts';
import { createSession, type Session, type SessionBirth, type SessionDeps } from './session.ts';
import { createTurn, faultError, type Turn } from './turn.ts';

/** Attempts of one request that may fail because the conversation moved meanwhile. */
const MAX_CONFLICTS = 3;

/** How long the close of a connection may be overtaken by the repeat of its request, milliseconds. */
const OVERTAKEN_MS = 1_000;

export interface DispatcherDeps {
  store: SessionStore;
  roster: Roster;
  sessions: Omit<SessionDeps, 'returnTurn' | 'onCreated' | 'onEnded' | 'onForgotten' | 'onIdle'>;
  peers: Peers;
  quota: Quota;
  /** Other workers may use the same store. */
  shared: boolean;
  config: Config;
  clock: Clock;
  ids: Ids;
  classify(request: TurnRequest): Evidence;
  /** Called once per turn when its client has its answer. */
  onFinished(turn: Turn, session: Session | null): void;
  /** It leaves, and takes nothing in that no other worker can be given. */
  refusing?(): boolean;
  /** Called whenever a turn is given to a session, before the session does anything with it. */
  onPlaced?(turn: Turn, session: Session): void;
  inspect?: Inspect;
}

/** Places requests: evidence and rows in, one decision out, carried out here. */
export interface Dispatcher {
  /**
   * @param hop when another worker holds the client
   * @param lease what the request counts for since it was admitted, to be ended here; without one it is admitted now
   */
  accept(request: TurnRequest, sink: ClientSink, hop?: IncomingHop, lease?: Lease): void;
  /** Another worker asks for a session at this epoch, and none runs here: nothing may keep others from claiming it. */
  disown(sessionId: string, epoch: number): Promise<void>;
  /** Turns whose clients still wait. */
  readonly inFlight: number;
}

/** `again`: nothing was learned, and nothing but time may change it. */
type Carried = 'placed' | 'again' | AttemptFact;

export function createDispatcher(deps: DispatcherDeps): Dispatcher {
  const { store, roster, config, clock, ids, peers, quota } = deps;
  const { worker, log } = deps.sessions;
  const { deadlines, limits } = config;
  /** The session of each turn that was placed, for as long as anything of the turn is kept. */
  const places = new WeakMap<Turn, Session>();
  const holds = new Map<Turn, () => void>();
  const hops = new Map<Turn, IncomingHop>();
  /** Turns in hand for other workers, by their ids. */
  const fromPeers = new Map<string, Turn>();
  const leases = new Map<Turn, Lease>();
  const creating = createCreatingKeys();
  const decide = createDecider({
    store,
    roster,
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
   * Another worker asks for a turn that it has sent before and does not know the fate of. What was begun is taken up, what
   * was not is begun, and what has ended and is kept no more is never run again.
   */
  async function takeUp(request: TurnRequest, sink: ClientSink, hop: IncomingHop): Promise<void> {
    const { turnId, attempt } = hop;
    const inHand = fromPeers.get(turnId);
    if (inHand) {
      // Copies may arrive in any order: only the sender's latest hop is still listened to.
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
    for (const session of roster.all()) {
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
      // What another worker forwards was counted there against the requests a minute.
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

  /** The worker takes nothing new in: what comes all the same is given to one that stays. */
  async function dispatchLast(turn: Turn): Promise<void> {
    const peer = await peers.serving().catch(() => null);
    if (peer === null) return turn.fail(new BridgeError('bridge_draining'));
    return dispatch(turn);
  }

  function listen(turn: Turn, sink: ClientSink): void {
    sink.onGone(() => {
      if (turn.stream.delivered || turn.stream.sink !== sink) return;
      const place = places.get(turn);
      if (place) roster.left(place);
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

  /** The request was held as long as a client can be asked to wait, and no frame has left for it. */
  function holdExpired(turn: Turn): void {
    if (turn.times.sent !== null || turn.stream.finished) return;
    const place = places.get(turn);
    if (place?.withdraw(turn)) return turn.fail(new BridgeError('bridge_queue_full'));
    turn.fail(faultError(turn, 'bridge_hold_expired'));
    // It is in hand there: whatever it still waits for, no frame leaves for it any more.
    place?.send({ type: 'turn.cancelled', reason: 'hold_expired' });
  }

  /**
   * A repeat may come before the close of the connection that it replaces, above all where that led to another worker:
   * before it is taken for a request of its own, its earlier reader is given a moment to be gone.
   */
  async function readerGone({ evidence: { scope, requestFp } }: Turn): Promise<void> {
    const reader = roster.readBy(scope, requestFp);
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

  /** What a failed attempt taught. Where the conversation itself moved, the number of attempts is bounded. */
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
   * A store that is slow is not down: as long as it confirms this worker's heartbeats, what it did not answer is looked at
   * again. Throws `StoreUnavailable` once it has been silent for `startWait` and this worker's lease is in doubt.
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

  /** Only a worker whose lease is certain acts on what it decided; one whose heartbeat is merely late asks for it. */
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
    // What became of the session after a client's interrupt is no news to that client.
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
        // It is held here and run there: each worker bounds what it has in hand.
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
        if (decision.do === 'supersede') roster.exact(decision.sessionId, decision.epoch)?.supersede();
        return submit(turn, decision.sessionId, decision.epoch);
      }
    }
  }

  /** A place for the turn's session, or the error it ends with. */
  function placeFor({ evidence: { scope }, lease }: Turn): { leave(): void } | BridgeError {
    if (!lease.run()) return tenantBusy('turns');
    const room = roster.makeRoom(scope);
    if (room === 'worker') return new BridgeError('bridge_overloaded');
    return room === 'scope' ? quota.refuse('sockets') : room;
  }

  function create(turn: Turn, { keys, parent }: Extract<Decision, { do: 'create' }>): Carried {
    const { scope } = turn.evidence;
    const room = placeFor(turn);
    if (room instanceof BridgeError) return busy(turn, room);
    // From here on the session itself counts.
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
      // Between the claim and here another request may have claimed it anew: that one's actor is the session now.
      if ((roster.get(id)?.epoch ?? 0) >= claimed.row.epoch) return { kind: 'lost_race', sessionId: id };
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
    roster.add(session);
    session.begin(turn);
  }

  function submit(turn: Turn, sessionId: string, epoch: number): Carried {
    const session = roster.exact(sessionId, epoch);
    if (!session) return { kind: 'not_owner', sessionId };
    places.set(turn, session);
    deps.onPlaced?.(turn, session);
    if (session.submit(turn)) return 'placed';
    places.delete(turn);
    return { kind: 'not_owner', sessionId };
  }

  function reattach(turn: Turn, sessionId: string, epoch: number): Carried {
    const session = roster.attachable(sessionId, epoch);
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
    // The client left while its turn was in hand: the event was waiting when the session had to let go of it.
    if (!turn.stream.attached) return turn.fail(new BridgeError('bridge_turn_cancelled'));
    void rest(turn).then(() => dispatch(turn));
  }

  const onIdle = (session: Session) => roster.rests(session);
  const onForgotten = (session: Session) => roster.forgotten(session);
  const onCreated = (session: Session) => creating.end(session.scope, session.keys);

  function onEnded(session: Session): void {
    roster.remove(session);
    onCreated(session);
  }

  return {
    accept,
    async disown(sessionId, epoch) {
      if (roster.get(sessionId) === null) await claimer.disown(sessionId, epoch).catch(() => {});
    },
    get inFlight() {
      return holds.size;
    },
  };
}

/** Decisions that start something here, or take something over. */
const acting: ReadonlySet<Decision['do']> = new Set(['create', 'claim', 'use', 'queue', 'supersede']);

/** What a worker may do for a request that another one sent: never forward it on, and claim only when asked to place it. */
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
