import { BridgeError } from '../errors.ts';
import type { AttemptFact, Decision } from '../resolve/types.ts';
import type { TurnEnd } from '../store/port.ts';
import { idOfResponse } from '../upstream/frames.ts';
import type { SessionEnv } from './core.ts';
import type { LastOwners } from './last-owners.ts';
import type { ClientSink, TurnRequest } from './port.ts';
import type { Placement, Turn } from './turn.ts';

/** Wait before the second repetition of a placement attempt, in milliseconds. Each later wait doubles. */
const FLOOR = 25;

/** The part of a worker's environment that placement needs. */
type Env = Pick<SessionEnv, 'store' | 'clock' | 'config'>;

/**
 * Waits between two placement attempts of a request. The first repetition follows at once; the waits before later ones
 * grow up to `ownerPoll`. This bounds the number of look-ups for a request whose situation does not change.
 *
 * @returns false if the request has ended or was held until `heldUntil`: do not try again
 */
export async function waitToRetry({ clock, config }: Env, turn: Turn): Promise<boolean> {
  const { placement, stream } = turn;
  const { ownerPoll } = config.deadlines;
  const ms = placement.waits === 0 ? 0 : Math.min(ownerPoll, FLOOR * 2 ** Math.min(placement.waits - 1, 16));
  placement.waits += 1;
  if (ms > 0) await new Promise<void>((over) => clock.after(ms, over));
  return !stream.finished && clock.now() < placement.heldUntil;
}

/** Result of forwarding a request to another worker. */
export type ForwardResult =
  /** The client has its answer. `terminal`: the end of its turn; `event`: JSON of the terminal event, if there was one. */
  | { kind: 'served'; terminal: TurnEnd; event: string | null }
  /** The client left first; the hop was aborted. */
  | { kind: 'client_gone' }
  /** The peer does not own the session and did not start the turn. */
  | { kind: 'not_owner' }
  /**
   * The peer did not accept the request. `sent`: false if the peer certainly does not run the turn; true if the request
   * may have reached it, so that the turn may still be running there. `again`: true if only the hop failed, which says
   * nothing about the peer; false if the peer is dead, unreachable, or refused the request.
   */
  | { kind: 'unreachable'; sent: boolean; again: boolean }
  /**
   * The peer accepted the request, then the hop ended without an answer: the turn may have run. `again`: see
   * `unreachable`.
   */
  | { kind: 'broken'; again: boolean };

/** Distinguishes a slow peer from an unreachable one while its answer is awaited. */
export interface Patience {
  /**
   * Returns what is known about a peer that has not answered.
   *
   * @returns `slow`: it may still answer. `dead`: its death is stored. `unreachable`: since it was asked or last heard
   *   it has renewed its lease so often that it would have answered a request that had reached it, or several
   *   connections in a row were closed before it answered on them
   */
  ask(): Promise<'slow' | 'dead' | 'unreachable'>;
  /** Records that a connection to the peer was closed before any byte of an answer arrived. */
  dropped(): void;
  /** Records that the peer was heard. Earlier silence and dropped connections do not count any more. */
  heard(): void;
}

/** Options for waiting for the answer to a hop. */
export interface Waiting {
  patience: Patience;
  /** Aborts the hop when its answer is not needed any more. */
  signal?: AbortSignal | undefined;
  /** Called once, when the peer has accepted the request. */
  onAccepted?(): void;
}

/**
 * Target of a forwarded request. `run`: serve it only at the given epoch. `resolve`: place it like a client's request,
 * but never forward it.
 */
export interface HopTarget {
  workerId: string;
  url: string;
  mode: 'run' | 'resolve';
  sessionId: string | null;
  epoch: number | null;
  turnId: string;
  /**
   * Number of earlier hops of this turn, to any worker. A hop above 0 resumes what an earlier one may have begun at the
   * target.
   */
  attempt: number;
}

/** Access to the other workers, as far as sessions need it. */
export interface Peers {
  forward(target: HopTarget, request: TurnRequest, sink: ClientSink, waiting: Waiting): Promise<ForwardResult>;
  /** Starts tracking the silence of a worker that is about to be asked. */
  patience(workerId: string): Patience;
  /**
   * Returns another worker that is serving and reachable, for a worker that is draining. Null if there is none.
   *
   * @throws StoreUnavailable if the store does not answer
   */
  serving(): Promise<{ workerId: string; url: string } | null>;
  /**
   * Returns the internal URL of a worker; null if it has none.
   *
   * @throws StoreUnavailable if the store does not answer
   */
  address(workerId: string): Promise<string | null>;
  /** Notifies a former owner that its session was claimed. Best effort: the notice may be lost. */
  notifyClaimed(workerId: string, sessionId: string, epoch: number): void;
  /**
   * Checks whether a silent worker is dead, and stores its death if its liveness socket or its expired lease proves it.
   *
   * @throws StoreUnavailable if the store does not answer
   */
  liveness(workerId: string): Promise<'dead' | 'alive'>;
}

/** A hop as received by this worker. */
export interface IncomingHop {
  mode: 'run' | 'resolve';
  turnId: string;
  sessionId: string | null;
  epoch: number | null;
  attempt: number;
  /** Answers that this worker does not own the session and has not started the turn. */
  notOwner(): void;
}

/**
 * Result of involving another worker. `done`: the client has its answer, or has left. `again`: there is no new
 * information, so the rows have to be read again.
 */
export type Forwarded = 'done' | 'again' | AttemptFact;

/**
 * Everything that involves other workers: forwarding requests, waiting for silent owners, and handing requests over
 * while draining.
 */
export class Forwarding {
  readonly #env: Env;
  readonly #peers: Peers;
  readonly #onAccepted: (turn: Turn) => void;
  readonly #lastOwners: LastOwners;
  /** Aborts the hop of a turn that is being forwarded. */
  readonly #hops = new Map<Turn, AbortController>();

  /**
   * @param onAccepted called when a peer accepted the request: the placement timeout ends, from now on the stream's own
   *   deadlines apply
   */
  constructor(env: Env, peers: Peers, lastOwners: LastOwners, onAccepted: (turn: Turn) => void) {
    this.#env = env;
    this.#peers = peers;
    this.#lastOwners = lastOwners;
    this.#onAccepted = onAccepted;
  }

  /** Forwards the request to the session's owner, for exactly that epoch. */
  async toOwner(turn: Turn, { session, workerId }: Extract<Decision, { do: 'forward' }>): Promise<Forwarded> {
    const url = await this.#peers.address(workerId);
    if (url === null) return { kind: 'unreachable', workerId };
    return this.#forward(turn, { workerId, url, mode: 'run', sessionId: session.id, epoch: session.epoch });
  }

  /**
   * Forwards a request that would create or claim a session to a worker that is not draining. Returns null if there is
   * none.
   */
  async toServingWorker(turn: Turn): Promise<Forwarded | null> {
    const peer = await this.#peers.serving();
    if (!peer) return null;
    return this.#forward(turn, { ...peer, mode: 'resolve', sessionId: null, epoch: null });
  }

  /**
   * Decides whether a turn that may have been delivered to another worker can run on this one. Required: that worker is
   * fenced (its death is stored, or it does not own the session any more), and no turn of this id exists in the store.
   * A turn that exists is never run again.
   *
   * @param claimed id of the session that this worker has just claimed, if any
   * @returns `no`: the client has been answered. `unsure`: check again later
   */
  async mayRun(turn: Turn, claimed: string | null): Promise<'yes' | 'no' | 'unsure'> {
    const { placement } = turn;
    const owner = placement.possibleOwner;
    if (owner === null) return 'yes';
    const fenced = (claimed !== null && claimed === owner.sessionId) || (await this.#isFenced(turn, owner));
    if (await this.#hasStarted(turn)) {
      turn.fail(new BridgeError('bridge_owner_lost'));
      return 'no';
    }
    if (!fenced) return 'unsure';
    placement.possibleOwner = null;
    return 'yes';
  }

  /**
   * Checks once whether the death of a session's silent owner is stored, or can be stored now. If not, drops what
   * earlier attempts learned about that owner, so that the next resolution asks it again.
   *
   * @throws BridgeError `bridge_wrong_instance` when `ownerWait` is over or `heldUntil` has passed
   */
  async awaitOwner(turn: Turn, decision: Extract<Decision, { do: 'await_owner' }>): Promise<Forwarded> {
    const { clock, config } = this.#env;
    const { ownerWait } = config.deadlines;
    const { workerId, retryAfterSeconds, session } = decision;
    const { placement } = turn;
    placement.awaitedSince ??= clock.now();
    const until = Math.min(placement.awaitedSince + ownerWait, placement.heldUntil);
    const judged = await this.#peers.liveness(workerId);
    if (judged !== 'dead' && clock.now() >= until) {
      turn.outcome = 'wrong_instance';
      throw new BridgeError('bridge_wrong_instance', { retryAfterSeconds });
    }
    placement.attempts = placement.attempts.filter((fact) => {
      if (fact.kind === 'not_owner' || fact.kind === 'busy') return fact.sessionId !== session.id;
      return fact.kind !== 'unreachable' || fact.workerId !== workerId;
    });
    return 'again';
  }

  /** Aborts the turn's hop, because the turn has ended. */
  abort(turn: Turn): void {
    this.#hops.get(turn)?.abort();
  }

  /**
   * Forwards the request to a worker. A failed hop says nothing about that worker's state. While the worker may be
   * running the turn, the hop is repeated with the same turn id: the worker then resumes a turn that it has begun and
   * starts one that it has not.
   */
  async #forward(turn: Turn, target: Omit<HopTarget, 'attempt' | 'turnId'>): Promise<Forwarded> {
    const { placement, request, stream } = turn;
    const { sink } = stream;
    const { workerId, sessionId, epoch } = target;
    const patience = this.#peers.patience(workerId);
    const wanted = new AbortController();
    this.#hops.set(turn, wanted);
    try {
      for (;;) {
        const attempt = placement.hops;
        placement.hops += 1;
        const result = await this.#peers.forward({ ...target, turnId: turn.id, attempt }, request, sink, {
          patience,
          signal: wanted.signal,
          onAccepted: () => {
            placement.awaitedSince = null;
            this.#onAccepted(turn);
          },
        });
        switch (result.kind) {
          case 'served':
            turn.served(result.terminal);
            this.#remember(turn, target, result);
            return 'done';
          case 'client_gone':
            turn.fail(new BridgeError('bridge_turn_cancelled'));
            return 'done';
          case 'not_owner':
            this.#lastOwners.forget(turn.evidence);
            return { kind: 'not_owner', sessionId: sessionId ?? '', workerId, ...(epoch === null ? {} : { epoch }) };
        }
        this.#lastOwners.forgetWorker(workerId);
        if (result.kind === 'broken' || result.sent) placement.possibleOwner = target;
        // If the client's answer has begun (its status has left), the turn cannot be placed elsewhere any more.
        if (!sink.committed) {
          const again = result.again && (await patience.ask()) === 'slow' && (await waitToRetry(this.#env, turn));
          if (stream.finished) return 'done';
          if (again) continue;
          if (!(await this.#hasStarted(turn))) return { kind: 'unreachable', workerId };
        }
        turn.fail(new BridgeError('bridge_owner_lost'));
        return 'done';
      }
    } finally {
      this.#hops.delete(turn);
    }
  }

  /**
   * Records who served the turn, if it ended well. A worker that was asked because it runs the same request says nothing about
   * the conversation.
   */
  #remember(
    { evidence, placement }: Turn,
    { workerId, sessionId, epoch }: Pick<HopTarget, 'workerId' | 'sessionId' | 'epoch'>,
    { terminal, event }: Extract<ForwardResult, { kind: 'served' }>,
  ): void {
    if (sessionId === null || epoch === null || placement.decidedBy === 'repeat_elsewhere') return;
    if (terminal !== 'completed' && terminal !== 'incomplete') return this.#lastOwners.forget(evidence);
    const session = { id: sessionId, scope: evidence.scope, epoch };
    this.#lastOwners.remember(evidence, { session, workerId }, event === null ? null : idOfResponse(event));
  }

  /** Returns whether another worker has started this turn. */
  async #hasStarted({ id, evidence, placement }: Turn): Promise<boolean> {
    return placement.possibleOwner !== null && (await this.#env.store.turn(evidence.scope, id)) !== null;
  }

  /** Returns whether that worker is fenced: no hop sent to it for that session can start the turn any more. */
  async #isFenced(
    { evidence: { scope } }: Turn,
    { workerId, sessionId, epoch }: NonNullable<Placement['possibleOwner']>,
  ): Promise<boolean> {
    if (sessionId !== null) {
      const row = await this.#env.store.session(scope, sessionId);
      if (row?.ownerWorkerId !== workerId || row.epoch !== epoch) return true;
    }
    return (await this.#peers.liveness(workerId)) === 'dead';
  }
}
