import type { ConnectionHandlers, DialResult, UpstreamConnection, UpstreamTransport } from '../upstream/port.ts';

/** What came of one dial, for the machine. */
export type DialOutcome =
  | { kind: 'opened'; headers: Record<string, string> }
  | { kind: 'superseded' }
  | Exclude<DialResult, { kind: 'open' }>;

export interface SessionSocketOptions {
  transport: UpstreamTransport;
  now(): number;
  onFrame(text: string): void;
  onLost(generation: number): void;
  onRefused(answer: Extract<DialResult, { kind: 'refused' }>['answer']): void;
}

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
  /** Monotonic milliseconds at which the connection opened. */
  readonly openedAt: number;
  dial(
    generation: number,
    how: 'websocket' | 'http',
    request: Parameters<UpstreamTransport['dial']>[0],
  ): Promise<DialOutcome>;
  send(frame: string): boolean;
  pause(paused: boolean): void;
  close(code?: number, reason?: string): void;
}

export function createSessionSocket(options: SessionSocketOptions): SessionSocket {
  let connection: UpstreamConnection | null = null;
  let generation = 0;
  let openedAt = 0;

  const handlers = (mine: UpstreamConnection, at: number): ConnectionHandlers => ({
    frame: (text) => {
      if (mine === connection) options.onFrame(text);
    },
    refused: (answer) => {
      if (mine === connection) options.onRefused(answer);
    },
    closed: () => {
      if (mine !== connection) return;
      connection = null;
      socket.anchor = null;
      options.onLost(at);
    },
  });

  const socket: SessionSocket = {
    anchor: null,
    get generation() {
      return generation;
    },
    get open() {
      return connection?.open ?? false;
    },
    get kind() {
      return connection?.kind ?? null;
    },
    get openedAt() {
      return openedAt;
    },
    async dial(wanted, how, request) {
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
      openedAt = options.now();
      socket.anchor = null;
      connection.attach(handlers(connection, wanted));
      return { kind: 'opened', headers: result.headers };
    },
    send: (frame) => connection?.send(frame) ?? false,
    pause(paused) {
      if (paused) connection?.pause();
      else connection?.resume();
    },
    close(code, reason) {
      const old = connection;
      connection = null;
      generation = -1;
      socket.anchor = null;
      old?.close(code, reason);
    },
  };
  return socket;
}
