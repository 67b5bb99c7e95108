import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import { type BridgeCode, BridgeError } from '../errors.ts';
import type { Ids } from '../ids.ts';
import { resolve } from '../resolve/resolve.ts';
import type { AttemptFact, Decision, Evidence, Facts } from '../resolve/types.ts';
import { type LookupResult, type SessionStore, StoreUnavailable, type TurnRow } from '../store/port.ts';
import { bareResult } from './commits.ts';
import { itemsOf } from './history.ts';
import type { ClientSink, TurnRequest } from './port.ts';
import type { Roster } from './roster.ts';
import { createSession, type Session, type SessionDeps } from './session.ts';
import { createTurn, type Turn } from './turn.ts';

/** A request is resolved at most this often: every failed attempt is a fact for the next one. */
const MAX_RESOLUTIONS = 3;

export interface DispatcherDeps {
  store: SessionStore;
  roster: Roster;
  sessions: Omit<SessionDeps, 'returnTurn' | 'onCreated' | 'onEnded'>;
  config: Config;
  clock: Clock;
  ids: Ids;
  classify(request: TurnRequest): Evidence;
  /** Called once per turn when its client has its answer. */
  onFinished(turn: Turn, session: Session | null): void;
  inspect?: Parameters<typeof createTurn>[0]['inspect'];
}

/** Places requests: evidence and rows in, one decision out, carried out here. */
export interface Dispatcher {
  accept(request: TurnRequest, sink: ClientSink): void;
  /** Turns whose clients still wait. */
  readonly inFlight: number;
}

type Carried = 'placed' | AttemptFact;

export function createDispatcher(deps: DispatcherDeps): Dispatcher {
  const { store, roster, config, clock, ids } = deps;
  const { deadlines, limits } = config;
  const places = new Map<Turn, Session>();
  const waiting = new Map<Turn, () => void>();
  /** Hard keys whose session is being created here: a second request waits for the outcome instead of dialing too. */
  const creating = new Map<string, { promise: Promise<void>; done: () => void }>();

  function accept(request: TurnRequest, sink: ClientSink): void {
    const evidence = deps.classify(request);
    const turn = createTurn({
      id: ids.uuid(),
      request,
      evidence,
      sink,
      bufferBytes: limits.turnBufferBytes,
      onPressure: (each, paused) => places.get(each)?.pressure(each, paused),
      onFinished: finished,
      inspect: deps.inspect,
    });
    waiting.set(
      turn,
      clock.after(deadlines.requestHold, () => holdExpired(turn)),
    );
    listen(turn, sink);
    void dispatch(turn);
  }

  function listen(turn: Turn, sink: ClientSink): void {
    sink.onGone(() => {
      if (turn.stream.finished || turn.stream.sink !== sink) return;
      const place = places.get(turn);
      if (place) place.clientGone(turn);
      else turn.fail(new BridgeError('bridge_turn_cancelled'));
    });
  }

  function finished(turn: Turn): void {
    waiting.get(turn)?.();
    waiting.delete(turn);
    const place = places.get(turn) ?? null;
    places.delete(turn);
    deps.onFinished(turn, place);
  }

  /** The request was held as long as a client can be asked to wait, and no frame has left for it. */
  function holdExpired(turn: Turn): void {
    if (turn.times.sent !== null || turn.stream.finished) return;
    const place = places.get(turn);
    if (place && !place.withdraw(turn)) return place.send({ type: 'turn.cancelled', reason: 'client_cancel' });
    turn.fail(new BridgeError(place ? 'bridge_queue_full' : 'bridge_conflict'));
  }

  async function dispatch(turn: Turn): Promise<void> {
    try {
      while (!turn.stream.finished) {
        if (turn.resolutions >= MAX_RESOLUTIONS) return turn.fail(new BridgeError('bridge_conflict'));
        turn.resolutions += 1;
        const decision = await decide(turn);
        if (turn.stream.finished) return;
        const carried = await carryOut(turn, decision);
        if (carried === 'placed') return;
        turn.attempts.push(carried);
      }
    } catch (error) {
      turn.fail(
        error instanceof BridgeError
          ? error
          : new BridgeError(error instanceof StoreUnavailable ? 'bridge_store_unavailable' : 'bridge_internal', {
              cause: error,
            }),
      );
      if (!(error instanceof StoreUnavailable)) deps.sessions.log.error({ err: error }, 'placing a request failed');
    }
  }

  async function decide(turn: Turn): Promise<Decision> {
    if (turn.evidence.passThrough === null && deps.sessions.httpOnly.has(deps.sessions.target.id)) {
      turn.evidence = { ...turn.evidence, passThrough: 'no_websocket' };
    }
    const { evidence } = turn;
    const key = evidence.hardKey && evidence.anchor === null ? keyOf(evidence) : null;
    if (key) await creating.get(key)?.promise;
    const rows = await store.lookup({
      scope: evidence.scope,
      anchor: evidence.anchor,
      tokenSessionId: evidence.token.kind === 'ours' ? evidence.token.sessionId : null,
      hardKey: evidence.hardKey,
    });
    turn.anchor = rows.anchor?.turn ?? null;
    const local = roster.views(rows, evidence.scope, evidence.anchor);
    const facts: Facts = {
      me: deps.sessions.worker.id,
      rows,
      local,
      anchorExact: await anchorExact(turn, rows, local),
      attempts: turn.attempts,
      instancePolicy: config.instancePolicy,
      idempotent: roster.withIdempotencyKey(evidence.scope, evidence.idempotencyKey),
    };
    return resolve(evidence, facts);
  }

  /** Loads the anchor's lineage unless a socket here holds it: then nothing needs rebuilding. */
  async function anchorExact(turn: Turn, rows: LookupResult, local: Facts['local']): Promise<boolean | null> {
    const anchor = rows.anchor?.turn;
    if (!anchor) return null;
    const session = rows.anchor?.session;
    const view = session ? local.get(session.id) : undefined;
    if (view && view.epoch === session?.epoch && view.socketAnchor === anchor.responseId)
      return anchor.replay === 'exact';
    if (anchor.replay !== 'exact') return false;
    turn.history = itemsOf(await store.lineage(turn.evidence.scope, anchor.id));
    return turn.history !== null;
  }

  async function carryOut(turn: Turn, decision: Decision): Promise<Carried> {
    // What became of the session after a client's interrupt is no news to that client.
    if (turn.outcome !== 'superseded' || decision.outcome !== 'stale_recovery') turn.outcome = decision.outcome;
    switch (decision.do) {
      case 'refuse': {
        const { retryAfterSeconds } = decision;
        turn.fail(new BridgeError(decision.code as BridgeCode, { retryAfterSeconds }));
        return 'placed';
      }
      case 'create':
        return create(turn, decision.keys, decision.parent);
      case 'use':
      case 'queue':
        return submit(turn, decision.sessionId, decision.epoch);
      case 'claim':
        return claim(turn, decision);
      case 'forward':
        // The owner's idle sessions may be claimed at any moment and its busy ones never: the resolver goes on from there.
        return { kind: 'unreachable', workerId: decision.workerId };
      case 'await_owner':
        return awaitOwner(turn, decision);
      case 'reattach':
        return reattach(turn, decision.sessionId, decision.epoch);
      case 'supersede':
        roster.exact(decision.sessionId, decision.epoch)?.supersede();
        return submit(turn, decision.sessionId, decision.epoch);
    }
  }

  function create(turn: Turn, keys: Extract<Decision, { do: 'create' }>['keys'], fork: TurnRow | null): Carried {
    const { evidence } = turn;
    if (!roster.makeRoom()) {
      turn.fail(new BridgeError('bridge_overloaded'));
      return 'placed';
    }
    const key = keys.length > 0 ? keyOf(evidence) : null;
    if (key && !creating.has(key)) {
      const { promise, resolve: done } = Promise.withResolvers<void>();
      creating.set(key, { promise, done });
    }
    open(turn, { kind: 'new', sessionId: ids.uuid(), scope: evidence.scope, keys, fork, nonce: ids.uuid() });
    return 'placed';
  }

  async function claim(turn: Turn, decision: Extract<Decision, { do: 'claim' }>): Promise<Carried> {
    const { session: row } = decision;
    if (!roster.makeRoom()) {
      turn.fail(new BridgeError('bridge_overloaded'));
      return 'placed';
    }
    if (decision.ownOrphan && row.activeTurnId && row.ownerNonce) {
      // Its owner is this worker, alive, and yet nobody here runs it: only its owner can end it.
      await answered(() =>
        store.settle({
          me: deps.sessions.worker.id,
          nonce: row.ownerNonce!,
          epoch: row.epoch,
          sessionId: row.id,
          turnId: row.activeTurnId!,
          result: bareResult('lost', null),
          face: { state: 'stale', snapshot: row.snapshot, machineVersion: row.machineVersion },
        }),
      );
    }
    const nonce = ids.uuid();
    const me = deps.sessions.worker.id;
    const fresh = decision.ownOrphan ? ((await store.session(row.id)) ?? row) : row;
    const answer = await answered(() =>
      store.claim({ me, nonce, sessionId: row.id, epochRead: fresh.epoch, revisionRead: fresh.revision }),
    );
    switch (answer.verdict) {
      case 'row': {
        const head = answer.row.headTurnId ? await store.turn(answer.row.headTurnId) : null;
        open(turn, { kind: 'claimed', row: answer.row, head, nonce });
        return 'placed';
      }
      case 'busy':
        return { kind: 'busy', sessionId: row.id };
      case 'lost_race':
        return { kind: 'lost_race', sessionId: row.id };
      case 'fenced':
        throw new BridgeError('bridge_lease_lapsed');
      case 'rejected':
        throw new BridgeError('bridge_store_rejected', { cause: answer.reason });
    }
  }

  function open(turn: Turn, birth: Parameters<typeof createSession>[1]): void {
    const session = createSession({ ...deps.sessions, returnTurn, onEnded, onCreated }, birth, turn);
    places.set(turn, session);
    roster.add(session);
    session.begin(turn);
  }

  function submit(turn: Turn, sessionId: string, epoch: number): Carried {
    const session = roster.exact(sessionId, epoch);
    if (!session) return { kind: 'not_owner', sessionId };
    places.set(turn, session);
    if (session.submit(turn)) return 'placed';
    places.delete(turn);
    return { kind: 'not_owner', sessionId };
  }

  function reattach(turn: Turn, sessionId: string, epoch: number): Carried {
    const session = roster.exact(sessionId, epoch);
    const running = session?.attachable ?? null;
    if (!session || !running || !session.reattach(turn.stream.sink)) return { kind: 'busy', sessionId };
    listen(running, turn.stream.sink);
    turn.handOver();
    return 'placed';
  }

  /** A busy session of a silent owner: wait, bounded, until its death is a stored fact. */
  async function awaitOwner(
    turn: Turn,
    { workerId, retryAfterSeconds }: Extract<Decision, { do: 'await_owner' }>,
  ): Promise<Carried> {
    const until =
      clock.now() + Math.min(deadlines.ownerWait, turn.times.received + deadlines.requestHold - clock.now());
    while (!turn.stream.finished) {
      const { verdict } = deps.sessions.worker.mayJudge() ? await store.declareExpired(workerId) : { verdict: 'alive' };
      if (verdict === 'dead' || verdict === 'missing') break;
      if (clock.now() >= until) {
        turn.outcome = 'wrong_instance';
        throw new BridgeError('bridge_wrong_instance', { retryAfterSeconds });
      }
      await pause(deadlines.ownerPoll);
    }
    // Waiting is no resolution: the row is simply read again.
    turn.resolutions -= 1;
    return { kind: 'unreachable', workerId };
  }

  const pause = (ms: number) => new Promise<void>((done) => clock.after(ms, done));

  /** Repeats a call until the store answers it or the start wait is over. */
  async function answered<V extends { verdict: string }>(
    call: () => Promise<V>,
  ): Promise<Exclude<V, { verdict: 'unknown' }>> {
    const until = clock.now() + deadlines.startWait;
    for (;;) {
      const answer = await call();
      if (answer.verdict !== 'unknown') return answer as Exclude<V, { verdict: 'unknown' }>;
      if (clock.now() >= until) throw new StoreUnavailable('no answer to a claim');
      await pause(100);
    }
  }

  function returnTurn(turn: Turn, fact: AttemptFact | null): void {
    places.delete(turn);
    if (fact) turn.attempts.push(fact);
    turn.parent = null;
    turn.history = null;
    void dispatch(turn);
  }

  function onCreated(session: Session): void {
    for (const { kind, hash } of session.keys) {
      const key = `${session.scope}\n${kind}\n${hash}`;
      creating.get(key)?.done();
      creating.delete(key);
    }
  }

  function onEnded(session: Session): void {
    roster.remove(session);
    onCreated(session);
  }

  const keyOf = ({ scope, hardKey }: Evidence) => `${scope}\n${hardKey?.kind}\n${hardKey?.hash}`;

  return {
    accept,
    get inFlight() {
      return waiting.size;
    },
  };
}
