import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createTcpServer, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { type WebSocket, WebSocketServer } from 'ws';
import type { DialRequest, UpstreamAnswer, UpstreamConnection } from '../../src/upstream/port.ts';

export interface Provider {
  url: string;
  /** Open connections of the server. */
  readonly sockets: Set<Socket>;
  /** Resolves when all connections are closed, for any reason. */
  deserted(): Promise<void>;
  close(): Promise<void>;
}

export interface ProviderHandlers {
  http?(request: IncomingMessage, response: ServerResponse): void;
  /** Replaces the WebSocket handshake. */
  upgrade?(request: IncomingMessage, socket: Duplex): void;
  websocket?(socket: WebSocket, request: IncomingMessage): void;
  /** Headers of the 101 answer. */
  handshake?: string[];
}

const listening = async (server: Server | ReturnType<typeof createTcpServer>): Promise<Provider> => {
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    sockets,
    async deserted() {
      await Promise.all([...sockets].map((socket) => new Promise((resolve) => socket.once('close', resolve))));
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
};

/** Starts a provider on loopback whose answers the test writes. */
export function startProvider(handlers: ProviderHandlers): Promise<Provider> {
  const server = createServer((request, response) => handlers.http?.(request, response));
  const upgrader = new WebSocketServer({ noServer: true });
  upgrader.on('headers', (headers) => headers.push(...(handlers.handshake ?? [])));
  server.on('upgrade', (request, socket, head) => {
    if (handlers.upgrade) return handlers.upgrade(request, socket);
    upgrader.handleUpgrade(request, socket, head, (opened) => handlers.websocket?.(opened, request));
  });
  return listening(server);
}

/** Starts a peer that accepts connections, with a behaviour that the test writes. */
export function startTcp(connected: (socket: Socket) => void): Promise<Provider> {
  return listening(createTcpServer(connected));
}

export const dialTo = (url: string, headers: Record<string, string> = {}, timeoutMs = 5_000): DialRequest => ({
  target: { id: 'test', baseUrl: url },
  headers,
  timeoutMs,
});

/** Everything that a connection reported, with promises for the events that tests wait for. */
export interface Recording {
  frames: string[];
  refused: UpstreamAnswer[];
  closed: { code: number; reason: string }[];
  /** Events in order of arrival. */
  log: string[];
  ended: Promise<{ code: number; reason: string }>;
  count(frames: number): Promise<void>;
}

export function record(
  connection: UpstreamConnection,
  options: { refusals?: boolean; onFrame?: (text: string) => void } = {},
): Recording {
  let tell = (_info: { code: number; reason: string }) => {};
  let waiters: { frames: number; done: () => void }[] = [];
  const recording: Recording = {
    frames: [],
    refused: [],
    closed: [],
    log: [],
    ended: new Promise((resolve) => {
      tell = resolve;
    }),
    count: (frames) =>
      recording.frames.length >= frames
        ? Promise.resolve()
        : new Promise((done) => {
            waiters.push({ frames, done });
          }),
  };
  connection.attach({
    frame(text) {
      recording.frames.push(text);
      recording.log.push('frame');
      options.onFrame?.(text);
      const ready = waiters.filter((one) => recording.frames.length >= one.frames);
      waiters = waiters.filter((one) => recording.frames.length < one.frames);
      for (const one of ready) one.done();
    },
    ...(options.refusals !== false && {
      refused(answer: UpstreamAnswer) {
        recording.refused.push(answer);
        recording.log.push('refused');
      },
    }),
    closed(info) {
      recording.closed.push(info);
      recording.log.push('closed');
      tell(info);
    },
  });
  return recording;
}

/** Waits for several full rounds of the event loop, so that pending loopback traffic is delivered. */
export async function rounds(times = 20): Promise<void> {
  for (let i = 0; i < times; i += 1) await new Promise((resolve) => setImmediate(resolve));
}
