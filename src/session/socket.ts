import type { Clock } from '../clock.ts';
import type { ConnectionHandlers, DialResult, UpstreamConnection, UpstreamTransport } from '../upstream/port.ts';
import { isApiError } from '../upstream/refusal.ts';

/** What came of one dial, for the machine. */
export type DialOutcome =
  | { kind: 'opened'; headers: Record<string, string> }
  | { kind: 'superseded' }
  | Exclude<DialResult, { kind: 'open' }>;

/** How a connection ended. */
export type LostConnection = Parameters<ConnectionHandlers['closed']>[0];

/** The first thing that a connection did. */
export type FirstSign =
  /** It brought something that an API says: a frame, or over HTTP a refusal in its own shape. */
  | { kind: 'spoke' }
  /** Over HTTP, something else. */
  | { kind: 'babbled' }
  /** It ended. `asked`: a frame of ours had been sent on it. */
  | { kind: 'ended'; code: number; asked: boolean };

export interface SessionSocketOptions {
  transport: UpstreamTransport;
  clock: Pick<Clock, 'now' | 'after'>;
  onFrame(text: string): void;
  onLost(generation: number, how: LostConnection): void;
  onRefused(answer: Extract<DialResult, { kind: 'refused' }>['answer']): void;
  /** Reading has been held back for so long that the upstream would soon take this end for dead. */
  onStuck(): void;
  /** False where the upstream refuses them: then no connection holds one. */
  takesAnchors(): boolean;
}

/**
 * How long the upstream may go unread. Its pings go unanswered meanwhile, and common servers ping every 20 s and close
 * 20 s later: the turn of a client that reads nothing for this long, and has filled its buffer, is not worth the socket.
 */
const UNREAD_MOST_MS = 15_000;

/**
 * The one upstream connection of a session. A connection belongs to a generation: whatever a connection of an older
 * generation still says is nobody's, so frames of a cancelled turn cannot reach another.
 */
export interface SessionSocket {
  readonly generation: number;
  readonly open: boolean;
  readonly kind: UpstreamConnection['kind'] | null;
  /** Id of the last successful response on this very connection; null after any error, failure or cancel. */
  anchor: string | null;
  /** A frame was sent on this connection, and nothing has ever come back. */
  readonly unheard: boolean;
  /** Monotonic milliseconds at which the connection opened. */
  readonly openedAt: number;
  /** @param onSign called once for each connection that opened */
  dial(
    generation: number,
    how: 'websocket' | 'http',
    request: Parameters<UpstreamTransport['dial']>[0],
    onSign: (sign: FirstSign) => void,
  ): Promise<DialOutcome>;
  /** Sends the frame of a turn. What is read from here on is that turn's, and nothing that another one held back stays so. */
  send(frame: string, turn: object): boolean;
  /** Reading stops while the turn on this connection wants it so. What any other turn wants counts for nothing. */
  pause(turn: object, paused: boolean): void;
  /** The turn on this connection has ended: what it held back goes on. */
  free(): void;
  close(code?: number, reason?: string): void;
}

export function createSessionSocket(options: SessionSocketOptions): SessionSocket {
  let connection: UpstreamConnection | null = null;
  let generation = 0;
  let openedAt = 0;
  let anchor: string | null = null;
  let stopPatience: (() => void) | null = null;
  /** The turn whose frame was sent last and whose answer has not ended: it alone may hold reading back. */
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
