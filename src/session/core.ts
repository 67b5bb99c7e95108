import type { SessionEvent, SessionMachine } from '../../machines/session.ts';
import type { Config } from '../config.ts';
import { safeError } from '../errors.ts';
import { UPSTREAM_REQUEST_ID_HEADER } from '../headers.ts';
import type { DurableActor, Inspect } from '../runtime/index.ts';
import type { KeyRef, SavedState, SessionRow, SessionStore, TurnRow } from '../store/port.ts';
import type { Clock } from '../system.ts';
import { type Line, ownHash } from '../transcript/items.ts';
import type { Abilities, Peer } from '../upstream/abilities.ts';
import { isApiError } from '../upstream/errors.ts';
import { headersOfRateLimits, livingHeaders, UpstreamTurnState } from '../upstream/headers.ts';
import type {
  ConnectionEnd,
  ConnectionHandlers,
  DialResult,
  ParsedFrame,
  UpstreamAnswer,
  UpstreamConnection,
  UpstreamTarget,
  UpstreamTransport,
} from '../upstream/port.ts';
import type { Turn } from './turn.ts';

/** The last turn of a session's line, as known to the session. */
export interface Head {
  row: TurnRow;
  /** Null if the forms of some ancestor are not known here. */
  line: Line | null;
  /** Fingerprints by which requests find the turn. */
  places: readonly string[];
}

/** The session, as its turns' queue sees it. */
interface QueueOwner {
  readonly env: Pick<SessionEnv, 'clock' | 'config'>;
  /** Called when an ended turn is no longer kept for its client. */
  onTurnDiscarded(): void;
}

/**
 * The turns of one session on this worker: the head, the current one, the waiting ones, and an ended one that has not
 * been delivered yet.
 */
export class TurnQueue {
  /** Head id in the session's row: the fence compares it, whether or not that turn can be read. */
  headId: string | null;
  /** The last completed or incomplete turn of the line. Also null if the row names a turn that cannot be read. */
  head: TurnRow | null;
  /** The line that ends at the head; null if it is not known here. */
  line: Line | null;
  /** Fingerprints by which requests find the head; empty if they are not known here. */
  places: readonly string[] = [];
  current: Turn | null = null;
  readonly waiting: Turn[] = [];
  /**
   * An ended turn whose client has not received its terminal event. It is kept for the grace period, so that a retry
   * finds it.
   */
  undelivered: Turn | null = null;
  /** Number of bytes of the line's items that this worker has stored. */
  storedBytes = 0;
  /** Time of the last activity, in monotonic milliseconds. */
  lastUsed: number;
  readonly #owner: QueueOwner;
  #stopGrace: (() => void) | null = null;

  constructor(head: Pick<TurnQueue, 'headId' | 'head' | 'line'>, owner: QueueOwner) {
    this.headId = head.headId;
    this.head = head.head;
    this.line = head.line;
    this.lastUsed = owner.env.clock.now();
    this.#owner = owner;
  }

  /** The current turn, or the ended one whose client has not received its terminal event yet. */
  get attachable(): Turn | null {
    return this.current ?? this.undelivered;
  }

  touch(): void {
    this.lastUsed = this.#owner.env.clock.now();
  }

  /** Makes a turn the current one. */
  take(turn: Turn): void {
    this.#discardUndelivered();
    this.current = turn;
  }

  /** Removes the current turn and returns it. */
  giveUp(): Turn | null {
    const turn = this.current;
    this.current = null;
    return turn;
  }

  /**
   * Notes that the current turn has ended. It is kept until its client has received the end, at most for the grace
   * period.
   *
   * @param head the head that the turn became; null if it did not become one
   */
  finish(head: Head | null): void {
    const turn = this.current;
    this.current = null;
    this.touch();
    if (head) {
      const { row, line, places } = head;
      this.headId = row.id;
      this.head = { ...row, clientFp: row.clientFp && ownHash(row.clientFp) };
      this.line = line;
      this.places = places.map(ownHash);
    }
    if (turn) this.#keep(turn);
  }

  /** Lets a turn wait for its admission. */
  queue(turn: Turn): void {
    this.touch();
    this.waiting.push(turn);
  }

  /**
   * Removes a waiting turn.
   *
   * @returns false if it does not wait here
   */
  withdraw(turn: Turn): boolean {
    const index = this.waiting.indexOf(turn);
    if (index >= 0) this.waiting.splice(index, 1);
    return index >= 0;
  }

  /** Removes all waiting turns and returns them. */
  takeWaiting(): Turn[] {
    return this.waiting.splice(0);
  }

  #keep(turn: Turn): void {
    this.#discardUndelivered();
    if (turn.stream.delivered) return;
    this.undelivered = turn;
    const { clock, config } = this.#owner.env;
    this.#stopGrace = clock.after(config.deadlines.grace, () => this.#discardUndelivered());
    turn.stream.onDelivered(() => {
      if (this.undelivered === turn) this.#discardUndelivered();
    });
  }

  #discardUndelivered(): void {
    this.#stopGrace?.();
    this.#stopGrace = null;
    if (this.undelivered === null) return;
    this.undelivered.stream.discard();
    this.undelivered = null;
    this.#owner.onTurnDiscarded();
  }
}

/** Result of one dial, for the machine. */
export type DialOutcome =
  | { kind: 'opened'; headers: Record<string, string> }
  | { kind: 'superseded' }
  | Exclude<DialResult, { kind: 'open' }>;

/** The end of a connection. */
export type LostConnection = ConnectionEnd;

/** First observable event on a connection. */
export type FirstSign =
  /** It delivered an answer of an API: a frame, or over HTTP a refusal in the API's format. */
  | { kind: 'spoke' }
  /** It delivered anything else over HTTP. */
  | { kind: 'babbled' }
  /** It ended. `asked`: a frame had been sent on it. */
  | { kind: 'ended'; code: number; asked: boolean };

/** The session, as its socket sees it. */
export interface SocketOwner {
  onFrame(text: string): void;
  onLost(generation: number, how: LostConnection): void;
  onRefused(answer: UpstreamAnswer): void;
  /** Called when reading was paused for so long, or so much waits to be read, that the connection would be lost. */
  onStuck(): void;
  /** Returns false if the upstream refuses anchors: then no connection holds one. */
  takesAnchors(): boolean;
}

/**
 * Maximum time for which reading from the upstream is paused, in milliseconds. Pings are not answered during a pause,
 * and common servers ping every 20 s and close the connection 20 s later. A client that reads nothing for this long,
 * with a full buffer, must not cost the socket.
 */
const UNREAD_MOST_MS = 15_000;

/**
 * The single upstream connection of a session; none is open at first. Each connection belongs to a generation. Events
 * from a connection of an older generation are ignored, so frames of a cancelled turn cannot reach another turn.
 */
export class SessionSocket {
  generation = 0;
  /** Kind of the connection; null without one. */
  kind: UpstreamConnection['kind'] | null = null;
  /** Time at which the connection opened, in monotonic milliseconds. */
  openedAt = 0;
  readonly #transport: UpstreamTransport;
  readonly #clock: Pick<Clock, 'now' | 'after'>;
  readonly #owner: SocketOwner;
  #attached: Attached | null = null;
  #anchor: string | null = null;
  /** Response that the session continues, as long as nothing was sent on this connection. */
  #continues: string | null = null;
  #stopPatience: (() => void) | null = null;
  /** The turn whose frame was sent last and whose answer has not ended. Only this turn can pause reading. */
  #reader: object | null = null;
  #asked = false;
  #heard = false;

  constructor(transport: UpstreamTransport, clock: Pick<Clock, 'now' | 'after'>, owner: SocketOwner) {
    this.#transport = transport;
    this.#clock = clock;
    this.#owner = owner;
  }

  get #connection(): UpstreamConnection | null {
    return this.#attached?.connection ?? null;
  }

  get open(): boolean {
    return this.#connection?.open ?? false;
  }

  /** Id of the last successful response on this connection; null after any error, failure or cancel. */
  get anchor(): string | null {
    return this.#anchor;
  }

  set anchor(id: string | null) {
    this.#anchor = id !== null && this.#owner.takesAnchors() ? id : null;
  }

  /** Id of the response that another lane of a shared socket holds and the first frame can continue; null when there is none. */
  get lent(): string | null {
    const id = this.#continues;
    return id !== null && this.#connection?.shared?.lends(id) && this.#owner.takesAnchors() ? id : null;
  }

  /** True if a frame sent now would have to wait at the provider for other sessions of the same socket. */
  get crowded(): boolean {
    return this.#connection?.shared?.crowded ?? false;
  }

  /** True if a frame was sent on this connection and nothing has been received on it. */
  get unheard(): boolean {
    return this.#connection !== null && this.#asked && !this.#heard;
  }

  /**
   * Opens a connection of the given generation. An HTTP exchange counts as open at once.
   *
   * @param onSign called once for each connection that opened, with the first event on it
   * @returns `superseded` if another generation was dialed or the socket was closed in the meantime
   */
  async dial(
    generation: number,
    how: 'websocket' | 'http',
    request: Parameters<UpstreamTransport['dial']>[0],
    onSign: (sign: FirstSign) => void,
  ): Promise<DialOutcome> {
    this.generation = generation;
    const result: DialResult =
      how === 'http'
        ? { kind: 'open', connection: this.#transport.exchange(request), headers: {} }
        : await this.#transport.dial(request);
    if (result.kind !== 'open') return this.generation === generation ? result : { kind: 'superseded' };
    const { connection } = result;
    if (this.generation !== generation) {
      connection.close(1000, 'not wanted any more');
      return { kind: 'superseded' };
    }
    this.#attached = new Attached(this, connection, generation, onSign);
    this.kind = connection.kind;
    this.openedAt = connection.shared?.openedAt ?? this.#clock.now();
    this.#anchor = null;
    this.#continues = request.sharing?.continues ?? null;
    this.#asked = false;
    this.#heard = false;
    connection.attach(this.#attached);
    return { kind: 'opened', headers: result.headers };
  }

  /**
   * Sends the frame of a turn. Frames read afterwards belong to this turn. A pause requested by another turn ends.
   *
   * @param borrows what was `lent`, if the frame continues it
   * @returns false if the connection did not take the frame
   */
  send(frame: string, turn: object, borrows: string | null = null): boolean {
    this.#resume();
    this.#continues = null;
    this.#asked = this.#connection?.send(frame, borrows) ?? false;
    this.#reader = this.#asked ? turn : null;
    return this.#asked;
  }

  /** Pauses or resumes reading for the turn on this connection. Calls for any other turn have no effect. */
  pause(turn: object, paused: boolean): void {
    if (turn !== this.#reader) return;
    if (!paused) return this.#resume();
    this.#connection?.pause();
    if (this.kind === 'websocket') {
      this.#stopPatience ??= this.#clock.after(UNREAD_MOST_MS, () => this.#owner.onStuck());
    }
  }

  /** Notes that the turn on this connection has ended and resumes reading. */
  free(): void {
    this.#reader = null;
    this.#resume();
  }

  close(code?: number, reason?: string): void {
    const connection = this.#connection;
    this.#forget();
    this.generation = -1;
    connection?.close(code, reason);
  }

  // What the attached connection reports. Anything from an earlier one is ignored.

  /** Applies a frame. */
  hear(from: Attached, text: string): void {
    if (from !== this.#attached) return;
    this.#heard = true;
    if (from.onSign !== null)
      from.first({ kind: from.connection.kind === 'http' && text.startsWith('{"type":"error"') ? 'babbled' : 'spoke' });
    this.#owner.onFrame(text);
  }

  refuse(from: Attached, answer: UpstreamAnswer): void {
    if (from !== this.#attached) return;
    from.first({ kind: isApiError(answer) ? 'spoke' : 'babbled' });
    this.#owner.onRefused(answer);
  }

  lose(from: Attached, how: LostConnection): void {
    if (from !== this.#attached) return;
    if (!how.spoke) from.first({ kind: 'ended', code: how.code, asked: this.#asked });
    this.#forget();
    this.#owner.onLost(from.generation, how);
  }

  choke(from: Attached): void {
    if (from === this.#attached) this.#owner.onStuck();
  }

  #forget(): void {
    this.#attached = null;
    this.kind = null;
    this.#anchor = null;
    this.#continues = null;
    this.#reader = null;
    this.#stopPatience?.();
    this.#stopPatience = null;
  }

  #resume(): void {
    this.#stopPatience?.();
    this.#stopPatience = null;
    this.#connection?.resume();
  }
}

/** One connection as the reader of which a session's socket acts. */
class Attached implements ConnectionHandlers {
  readonly connection: UpstreamConnection;
  readonly generation: number;
  /** Called with the first event on the connection; null from then on. */
  onSign: ((sign: FirstSign) => void) | null;
  readonly #socket: SessionSocket;

  constructor(
    socket: SessionSocket,
    connection: UpstreamConnection,
    generation: number,
    onSign: (sign: FirstSign) => void,
  ) {
    this.#socket = socket;
    this.connection = connection;
    this.generation = generation;
    this.onSign = onSign;
  }

  /** Reports the first event; no effect for a later one. */
  first(sign: FirstSign): void {
    const { onSign } = this;
    this.onSign = null;
    onSign?.(sign);
  }

  frame(text: string): void {
    this.#socket.hear(this, text);
  }

  refused(answer: UpstreamAnswer): void {
    this.#socket.refuse(this, answer);
  }

  closed(how: LostConnection): void {
    this.#socket.lose(this, how);
  }

  stuck(): void {
    this.#socket.choke(this);
  }
}

/**
 * The provider's headers and telemetry that clients act on, collected for a session's answers. Values of an earlier
 * connection are discarded.
 */
export class AnswerSignals {
  /** Null where there is nothing, here and below: every idle session keeps these. */
  #connection: Map<string, string> | null = null;
  #quota: Map<string, string> | null = null;
  #answer: Map<string, string> | null = null;
  #answering: string | null = null;
  #model: unknown;

  /** Starts from the headers of a new connection. */
  opened(headers: Readonly<Record<string, string>>): void {
    this.#connection = null;
    this.#quota = null;
    this.#answer = null;
    this.#answering = null;
    for (const { name, value, life } of livingHeaders(headers)) {
      if (life === 'connection') (this.#connection ??= new Map()).set(name, value);
      else if (life !== 'relayed') this.#put(life, name, value);
    }
  }

  /** Drops what belongs to the answer that was given last: it is not repeated. */
  answered(): void {
    if (this.#answering !== null) this.#answer = null;
  }

  /**
   * Applies a frame that may carry headers or telemetry.
   *
   * @param turn the running turn, whose answer gets changed headers as long as its status has not been sent
   */
  take(frame: ParsedFrame, turn: Turn | null): void {
    if (this.#apply(frame) && turn) turn.stream.restate(this.forTurn(turn));
  }

  /**
   * Returns the current headers of a turn's answer. Headers that belong to one answer only are not repeated for the
   * next turn.
   */
  forTurn(turn: Turn): Readonly<Record<string, string>> {
    if (this.#answering !== turn.id) this.answered();
    if (this.#answering === null) this.#model = turn.request.body.model;
    // Codex interprets a model name other than the requested one as a reroute.
    else if (this.#model !== turn.request.body.model) this.#connection?.delete('openai-model');
    this.#answering = turn.id;
    const headers = Object.fromEntries(
      [this.#connection, this.#quota, this.#answer].flatMap((each) => [...(each ?? [])]),
    );
    turn.upstreamRequest = headers[UPSTREAM_REQUEST_ID_HEADER] ?? null;
    return headers;
  }

  /** Returns true if the headers of the running turn's answer have changed. */
  #apply(frame: ParsedFrame): boolean {
    if (frame.type === 'codex.rate_limits' && frame.data) return this.#replaceQuota(frame.data);
    if (!frame.headers) return false;
    const received = livingHeaders(frame.headers).filter(({ life }) => life !== 'relayed');
    for (const { name, value, life } of received) this.#put(life === 'quota' ? life : 'answer', name, value);
    return received.length > 0;
  }

  /** Applies telemetry about one rate limit. It replaces all known values of that limit. */
  #replaceQuota(event: Record<string, unknown>): boolean {
    const received = headersOfRateLimits(event);
    if (!received) return false;
    const { prefix, headers } = received;
    const parts = [`${prefix}-primary-`, `${prefix}-secondary-`];
    if (headers.has(`${prefix}-credits-has-credits`)) parts.push(`${prefix}-credits-`);
    for (const name of [...(this.#quota?.keys() ?? [])]) {
      if (parts.some((part) => name.startsWith(part))) this.#quota?.delete(name);
    }
    for (const [name, value] of headers) this.#put('quota', name, value);
    return true;
  }

  #put(life: 'quota' | 'answer', name: string, value: string): void {
    if (life === 'quota') (this.#quota ??= new Map()).set(name, value);
    else (this.#answer ??= new Map()).set(name, value);
  }
}

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
  /** Upstream of all its turns: the scope differs with the upstream. */
  readonly target: UpstreamTarget;
  /** Hard keys under which this session was created; empty for parallel lanes, forks and claimed sessions. */
  readonly keys: readonly KeyRef[];
  /** Turn at which a new session starts; null for a session without a past, and for a claimed one. */
  readonly forkHeadId: string | null;
  readonly turns: TurnQueue;
  readonly socket: SessionSocket;
  readonly signals = new AnswerSignals();
  /** The provider's own turn state, which is sent back to it within the same client turn. */
  readonly turnState = new UpstreamTurnState();
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
    const { clock, transport } = env;
    const isNew = birth.kind === 'new';
    this.env = env;
    this.id = isNew ? birth.sessionId : birth.row.id;
    this.epoch = isNew ? 1 : birth.row.epoch;
    this.scope = isNew ? birth.scope : birth.row.scope;
    this.workerId = env.worker.id;
    this.nonce = birth.nonce;
    this.target = first.request.caller.target ?? env.target;
    this.keys = isNew ? birth.keys : [];
    this.forkHeadId = isNew ? (birth.fork?.id ?? null) : null;
    const head = isNew ? birth.fork : birth.head;
    const line = head !== null && first.ancestor?.row.id === head.id ? first.ancestor.line : null;
    const headId = isNew ? this.forkHeadId : birth.row.headTurnId;
    this.turns = new TurnQueue({ headId, head, line }, this);
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
    return { targetId: this.target.id, credentialFp: evidence.credentialFp };
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
