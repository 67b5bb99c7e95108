import type { SessionEvent, SessionMachine } from '../../machines/session.ts';
import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import { safeError } from '../errors.ts';
import type { DurableActor, Inspect } from '../runtime/index.ts';
import type { KeyRef, SavedState, SessionRow, SessionStore, TurnRow } from '../store/port.ts';
import type { Abilities, Peer } from '../upstream/abilities.ts';
import { createUpstreamTurnState } from '../upstream/headers.ts';
import type { UpstreamAnswer, UpstreamTarget, UpstreamTransport } from '../upstream/port.ts';
import { AnswerSignals, type LostConnection, SessionSocket, type SocketOwner } from './socket.ts';
import type { Turn } from './turn.ts';
import { TurnQueue } from './turn-queue.ts';

/** What a worker provides to all of its sessions. */
export interface SessionEnv {
  store: SessionStore;
  transport: UpstreamTransport;
  target: UpstreamTarget;
  config: Pick<Config, 'deadlines' | 'limits' | 'instancePolicy'>;
  clock: Clock;
  /** Returns a uniform random number in [0, 1). */
  random(): number;
  /** The current worker identity, and whether it may still send. */
  worker: {
    readonly id: string;
    mayStart(): boolean;
    mayDeclareDead(): boolean;
    doubt(): void;
    /** Time just before the last confirmed heartbeat was sent, in monotonic milliseconds. */
    readonly confirmedAt: number;
    readonly draining: boolean;
  };
  /** Issues the turn-state token; called only once the session's row is durable. */
  issueToken(sessionId: string, epoch: number, turn: Turn): string;
  /** Known limitations of upstreams, as observed so far. */
  abilities: Abilities;
  /** Registers work that continues after the session has ended: a shutdown waits for it. */
  background(work: Promise<void>): void;
  log: { info(o: object, m: string): void; warn(o: object, m: string): void; error(o: object, m: string): void };
  inspect?: Inspect;
}

/** Origin of a session's actor on this worker: created here, or claimed. */
export type SessionBirth =
  | { kind: 'new'; sessionId: string; scope: string; keys: readonly KeyRef[]; fork: TurnRow | null; nonce: string }
  | { kind: 'claimed'; row: SessionRow; head: TurnRow | null; nonce: string };

/**
 * What the parts of one session share: its identity, its turns, its socket and its actor. One object for one
 * (session, epoch) on one worker. `Session` binds the machine to it.
 */
export abstract class SessionCore implements SocketOwner {
  readonly env: SessionEnv;
  readonly id: string;
  readonly epoch: number;
  readonly scope: string;
  /** Worker id and nonce of the claim: with the epoch they identify the owner to the store. */
  readonly workerId: string;
  readonly nonce: string;
  /** Hard keys under which this session was created; empty for parallel lanes, forks and claimed sessions. */
  readonly keys: readonly KeyRef[];
  /** Turn at which a new session starts; null for a session without a past, and for a claimed one. */
  readonly forkHeadId: string | null;
  readonly turns: TurnQueue;
  readonly socket: SessionSocket;
  readonly signals = new AnswerSignals();
  /** The provider's own turn state, which is sent back to it within the same client turn. */
  readonly turnState = createUpstreamTurnState();
  /** Started by `Session.begin`. */
  actor!: DurableActor<SessionMachine>;
  ended = false;
  /** Reason with which the store rejected the last commit. */
  rejection = '';
  /** Time at which the store first answered `fenced` to the current start, in monotonic milliseconds. */
  fencedAt: number | null = null;
  /** Cancels the timer that releases the status of the current turn's client. */
  cancelStatusHold: (() => void) | null = null;
  #token: string | null = null;

  /** @param first the turn for which the session is created or was claimed */
  constructor(env: SessionEnv, birth: SessionBirth, first: Turn) {
    const { clock, config, transport } = env;
    const isNew = birth.kind === 'new';
    this.env = env;
    this.id = isNew ? birth.sessionId : birth.row.id;
    this.epoch = isNew ? 1 : birth.row.epoch;
    this.scope = isNew ? birth.scope : birth.row.scope;
    this.workerId = env.worker.id;
    this.nonce = birth.nonce;
    this.keys = isNew ? birth.keys : [];
    this.forkHeadId = isNew ? (birth.fork?.id ?? null) : null;
    const head = isNew ? birth.fork : birth.head;
    const line = head !== null && first.ancestor?.row.id === head.id ? first.ancestor.line : null;
    const headId = isNew ? this.forkHeadId : birth.row.headTurnId;
    this.turns = new TurnQueue({ headId, head, line }, clock, config.deadlines.grace, () => this.onTurnDiscarded());
    this.socket = new SessionSocket(transport, clock, this);
  }

  abstract onFrame(text: string): void;
  abstract onLost(generation: number, how: LostConnection): void;
  abstract onRefused(answer: UpstreamAnswer): void;
  abstract onStuck(): void;
  /** Called when an ended turn is no longer kept for its client. */
  abstract onTurnDiscarded(): void;
  /** Returns the columns that every fence call writes. */
  abstract saved(): SavedState;

  /** The turn on the wire, to which frames of the socket belong; null if there is none. */
  get turnOnWire(): Turn | null {
    return this.actor.state.startsWith('live.streaming') ? this.turns.current : null;
  }

  /** True while this worker has the identity under which it owns the session. */
  get ownsWorkerId(): boolean {
    return this.env.worker.id === this.workerId;
  }

  /** True while this worker may send frames of this session: it owns the session and has a valid lease. */
  get maySend(): boolean {
    return this.ownsWorkerId && this.env.worker.mayStart();
  }

  /** Returns the upstream and the credential of a turn, under which abilities are remembered. */
  upstreamOf({ evidence }: Turn): Peer {
    return { targetId: this.env.target.id, credentialFp: evidence.credentialFp };
  }

  takesAnchors(): boolean {
    const { current } = this.turns;
    return current === null || this.env.abilities.takesAnchors(this.upstreamOf(current));
  }

  /** Returns the turn-state token of this epoch. Called only once the session's row is durable. */
  token(turn: Turn): string {
    this.#token ??= this.env.issueToken(this.id, this.epoch, turn);
    return this.#token;
  }

  /** Keeps the provider's own turn state for the client turn that the turn belongs to. */
  learnTurnState(turn: Turn, value: string): void {
    this.turnState.learn(turn.evidence.clientTurnId, value);
  }

  send(event: SessionEvent): void {
    if (this.ended) return;
    // This is the only event that ends a turn and may keep its socket.
    if (event.type === 'upstream.ended') this.socket.free();
    this.actor.send(event);
  }

  /** Logs an error of this session and answers the client of the current turn at once. */
  report(what: string, error: unknown): void {
    const { id, epoch } = this;
    const { log } = this.env;
    const turn = this.turns.current;
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
   * Handles an error of code outside the machine's effects: handlers of incoming data and asynchronous work. It is also
   * reported to the machine.
   */
  failed(what: string, error: unknown): void {
    this.report(what, error);
    this.send({ type: 'effect.failed' });
  }
}
