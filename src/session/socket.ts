import type { Clock } from '../clock.ts';
import type { ConnectionHandlers, DialResult, UpstreamConnection, UpstreamTransport } from '../upstream/port.ts';
import { isApiError } from '../upstream/refusal.ts';

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

export interface SessionSocketOptions {
  transport: UpstreamTransport;
  clock: Pick<Clock, 'now' | 'after'>;
  onFrame(text: string): void;
  onLost(generation: number, how: LostConnection): void;
  onRefused(answer: Extract<DialResult, { kind: 'refused' }>['answer']): void;
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
 * The single upstream connection of a session. Each connection belongs to a generation. Events from a connection of an
 * older generation are ignored, so frames of a cancelled turn cannot reach another turn.
 */
export interface SessionSocket {
  readonly generation: number;
  readonly open: boolean;
  readonly kind: UpstreamConnection['kind'] | null;
  /** Id of the last successful response on this connection; null after any error, failure or cancel. */
  anchor: string | null;
  /** True if a frame was sent on this connection and nothing has been received on it. */
  readonly unheard: boolean;
  /** Time at which the connection opened, in monotonic milliseconds. */
  readonly openedAt: number;
  /**
   * Opens a connection of the given generation. An HTTP exchange counts as open at once.
   *
   * @param onSign called once for each connection that opened, with the first event on it
   * @returns `superseded` if another generation was dialed or the socket was closed in the meantime
   */
  dial(
    generation: number,
    how: 'websocket' | 'http',
    request: Parameters<UpstreamTransport['dial']>[0],
    onSign: (sign: FirstSign) => void,
  ): Promise<DialOutcome>;
  /**
   * Sends the frame of a turn. Frames read afterwards belong to this turn. A pause requested by another turn ends.
   *
   * @returns false if the connection did not take the frame
   */
  send(frame: string, turn: object): boolean;
  /** Pauses or resumes reading for the turn on this connection. Calls for any other turn have no effect. */
  pause(turn: object, paused: boolean): void;
  /** Notes that the turn on this connection has ended and resumes reading. */
  free(): void;
  close(code?: number, reason?: string): void;
}

/** Creates the upstream connection of a session; none is open at first. */
export function createSessionSocket(options: SessionSocketOptions): SessionSocket {
  let connection: UpstreamConnection | null = null;
  let generation = 0;
  let openedAt = 0;
  let anchor: string | null = null;
  let stopPatience: (() => void) | null = null;
  /** The turn whose frame was sent last and whose answer has not ended. Only this turn can pause reading. */
  let reader: object | null = null;

  let asked = false;
  let heard = false;

  const handlers = (mine: UpstreamConnection, at: number, onSign: (sign: FirstSign) => void): ConnectionHandlers => {
    let silent = true;
    const first = (sign: FirstSign) => {
      if (silent) onSign(sign);
      silent = false;
    };
    return {
      frame: (text) => {
        if (mine !== connection) return;
        heard = true;
        first({ kind: mine.kind === 'http' && text.startsWith('{"type":"error"') ? 'babbled' : 'spoke' });
        options.onFrame(text);
      },
      refused: (answer) => {
        if (mine !== connection) return;
        first({ kind: isApiError(answer) ? 'spoke' : 'babbled' });
        options.onRefused(answer);
      },
      closed: (how) => {
        if (mine !== connection) return;
        first({ kind: 'ended', code: how.code, asked });
        forget();
        options.onLost(at, how);
      },
    };
  };
  const forget = () => {
    connection = null;
    anchor = null;
    reader = null;
    stopPatience?.();
    stopPatience = null;
  };
  const goOn = () => {
    stopPatience?.();
    stopPatience = null;
    connection?.resume();
  };

  const socket: SessionSocket = {
    get anchor() {
      return anchor;
    },
    set anchor(id) {
      anchor = id !== null && options.takesAnchors() ? id : null;
    },
    get generation() {
      return generation;
    },
    get open() {
      return connection?.open ?? false;
    },
    get kind() {
      return connection?.kind ?? null;
    },
    get unheard() {
      return connection !== null && asked && !heard;
    },
    get openedAt() {
      return openedAt;
    },
    async dial(wanted, how, request, onSign) {
      generation = wanted;
      const result: DialResult =
        how === 'http'
          ? { kind: 'open', connection: options.transport.exchange(request), headers: {} }
          : await options.transport.dial(request);
      if (result.kind !== 'open') return generation === wanted ? result : { kind: 'superseded' };
      if (generation !== wanted) {
        result.connection.close(1000, 'not wanted any more');
        return { kind: 'superseded' };
      }
      connection = result.connection;
      openedAt = options.clock.now();
      anchor = null;
      asked = false;
      heard = false;
      connection.attach(handlers(connection, wanted, onSign));
      return { kind: 'opened', headers: result.headers };
    },
    send(frame, turn) {
      goOn();
      asked = connection?.send(frame) ?? false;
      reader = asked ? turn : null;
      return asked;
    },
    pause(turn, paused) {
      if (turn !== reader) return;
      if (!paused) return goOn();
      connection?.pause();
      if (connection?.kind === 'websocket') stopPatience ??= options.clock.after(UNREAD_MOST_MS, options.onStuck);
    },
    free() {
      reader = null;
      goOn();
    },
    close(code, reason) {
      const old = connection;
      forget();
      generation = -1;
      old?.close(code, reason);
    },
  };
  return socket;
}
