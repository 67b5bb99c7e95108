import type { Clock } from '../clock.ts';
import { UPSTREAM_REQUEST_ID_HEADER } from '../headers.ts';
import { isApiError } from '../upstream/errors.ts';
import { headersOfRateLimits, livingHeaders } from '../upstream/headers.ts';
import type {
  ConnectionHandlers,
  DialResult,
  ParsedFrame,
  UpstreamAnswer,
  UpstreamConnection,
  UpstreamTransport,
} from '../upstream/port.ts';
import type { Turn } from './turn.ts';

/** Result of one dial, for the machine. */
export type DialOutcome =
  | { kind: 'opened'; headers: Record<string, string> }
  | { kind: 'superseded' }
  | Exclude<DialResult, { kind: 'open' }>;

/** The end of a connection. */
export type LostConnection = Parameters<ConnectionHandlers['closed']>[0];

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
  /** Called when reading was paused for so long that the upstream would soon consider this end dead. */
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
  /** Time at which the connection opened, in monotonic milliseconds. */
  openedAt = 0;
  readonly #transport: UpstreamTransport;
  readonly #clock: Pick<Clock, 'now' | 'after'>;
  readonly #owner: SocketOwner;
  #connection: UpstreamConnection | null = null;
  #anchor: string | null = null;
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

  get open(): boolean {
    return this.#connection?.open ?? false;
  }

  get kind(): UpstreamConnection['kind'] | null {
    return this.#connection?.kind ?? null;
  }

  /** Id of the last successful response on this connection; null after any error, failure or cancel. */
  get anchor(): string | null {
    return this.#anchor;
  }

  set anchor(id: string | null) {
    this.#anchor = id !== null && this.#owner.takesAnchors() ? id : null;
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
    this.#connection = connection;
    this.openedAt = this.#clock.now();
    this.#anchor = null;
    this.#asked = false;
    this.#heard = false;
    connection.attach(this.#handlers(connection, generation, onSign));
    return { kind: 'opened', headers: result.headers };
  }

  /**
   * Sends the frame of a turn. Frames read afterwards belong to this turn. A pause requested by another turn ends.
   *
   * @returns false if the connection did not take the frame
   */
  send(frame: string, turn: object): boolean {
    this.#resume();
    this.#asked = this.#connection?.send(frame) ?? false;
    this.#reader = this.#asked ? turn : null;
    return this.#asked;
  }

  /** Pauses or resumes reading for the turn on this connection. Calls for any other turn have no effect. */
  pause(turn: object, paused: boolean): void {
    if (turn !== this.#reader) return;
    if (!paused) return this.#resume();
    this.#connection?.pause();
    if (this.#connection?.kind === 'websocket') {
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

  #handlers(mine: UpstreamConnection, generation: number, onSign: (sign: FirstSign) => void): ConnectionHandlers {
    let silent = true;
    const first = (sign: FirstSign) => {
      if (silent) onSign(sign);
      silent = false;
    };
    return {
      frame: (text) => {
        if (mine !== this.#connection) return;
        this.#heard = true;
        if (silent) first({ kind: mine.kind === 'http' && text.startsWith('{"type":"error"') ? 'babbled' : 'spoke' });
        this.#owner.onFrame(text);
      },
      refused: (answer) => {
        if (mine !== this.#connection) return;
        first({ kind: isApiError(answer) ? 'spoke' : 'babbled' });
        this.#owner.onRefused(answer);
      },
      closed: (how) => {
        if (mine !== this.#connection) return;
        first({ kind: 'ended', code: how.code, asked: this.#asked });
        this.#forget();
        this.#owner.onLost(generation, how);
      },
    };
  }

  #forget(): void {
    this.#connection = null;
    this.#anchor = null;
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

/**
 * The provider's headers and telemetry that clients act on, collected for a session's answers. Values of an earlier
 * connection are discarded.
 */
export class AnswerSignals {
  #connection = new Map<string, string>();
  #quota = new Map<string, string>();
  #answer = new Map<string, string>();
  #answering: string | null = null;
  #model: unknown;

  /** Starts from the headers of a new connection. */
  opened(headers: Readonly<Record<string, string>>): void {
    this.#connection.clear();
    this.#quota.clear();
    this.#answer.clear();
    this.#answering = null;
    for (const { name, value, life } of livingHeaders(headers)) {
      if (life === 'connection') this.#connection.set(name, value);
      else if (life === 'quota') this.#quota.set(name, value);
      else if (life === 'answer') this.#answer.set(name, value);
    }
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
    if (this.#answering !== null && this.#answering !== turn.id) this.#answer.clear();
    if (this.#answering === null) this.#model = turn.request.body.model;
    // Codex interprets a model name other than the requested one as a reroute.
    else if (this.#model !== turn.request.body.model) this.#connection.delete('openai-model');
    this.#answering = turn.id;
    const headers = Object.fromEntries([...this.#connection, ...this.#quota, ...this.#answer]);
    turn.upstreamRequest = headers[UPSTREAM_REQUEST_ID_HEADER] ?? null;
    return headers;
  }

  /** Returns true if the headers of the running turn's answer have changed. */
  #apply(frame: ParsedFrame): boolean {
    if (frame.type === 'codex.rate_limits' && frame.data) return this.#replaceQuota(frame.data);
    if (!frame.headers) return false;
    const received = livingHeaders(frame.headers).filter(({ life }) => life !== 'relayed');
    for (const { name, value, life } of received) (life === 'quota' ? this.#quota : this.#answer).set(name, value);
    return received.length > 0;
  }

  /** Applies telemetry about one rate limit. It replaces all known values of that limit. */
  #replaceQuota(event: Record<string, unknown>): boolean {
    const received = headersOfRateLimits(event);
    if (!received) return false;
    const { prefix, headers } = received;
    const parts = [`${prefix}-primary-`, `${prefix}-secondary-`];
    if (headers.has(`${prefix}-credits-has-credits`)) parts.push(`${prefix}-credits-`);
    for (const name of [...this.#quota.keys()]) {
      if (parts.some((part) => name.startsWith(part))) this.#quota.delete(name);
    }
    for (const [name, value] of headers) this.#quota.set(name, value);
    return true;
  }
}
