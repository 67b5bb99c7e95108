import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { WebSocket } from 'ws';
import { flatHeaders } from '../headers.ts';
import { encodedSlices, isLongText } from '../json.ts';
import { type Clock, guarded, systemClock } from '../system.ts';
import { BY_PROXY, collectAnswer, reasonOf, unreachable } from './errors.ts';
import {
  type ConnectionHandlers,
  type DialRequest,
  type DialResult,
  type Ending,
  type LiveConnections,
  type TransportLimits,
  type UpstreamAnswer,
  type UpstreamConnection,
  webSocketAddress,
} from './port.ts';
import { createUnpacker, FrameFlow, framesOfMessage, unpackedHeaders } from './streams.ts';

/** Ping times of a WebSocket. */
export interface PulseTimes {
  /** Interval between two pings to a silent peer, in milliseconds; 0 sends none. */
  pingMs: number;
  /** Time for which a ping may stay unanswered, in milliseconds. */
  pongMs: number;
}

interface PulseOptions {
  /** By default real time: a peer needs real time to answer, whatever clock drives a test's deadlines. */
  clock?: Clock;
  times: PulseTimes;
  /** Returns the number of bytes read from the peer so far. Any byte is a sign of life, even half of a frame. */
  bytesRead(): number;
  /** Returns whether the socket is being read. While it is not, silence says nothing about the peer. */
  reading(): boolean;
  ping(): void;
  dead(): void;
}

/** Failure detector of one open WebSocket, with at most one timer. */
interface Pulse {
  /** Reports that a frame of about that many bytes was handed to the socket. */
  sent(bytes: number): void;
  /** Reports a pong. */
  pong(): void;
  /** Reports that reading resumed: data that the peer sent before is still to be read. */
  resumed(): void;
  stop(): void;
}

/**
 * Consecutive unanswered pings after which a peer counts as dead, except right after a frame. RFC 6455 requires a pong, but
 * a busy peer sends it late, and in the middle of a turn a false alarm costs the answer.
 */
const MISSES = 3;

/** Slowest expected upload, in bytes per millisecond: a ping waits behind the frame it is sent with. */
const SLOWEST_UPLOAD = 64;

/**
 * Detects that the other side of a socket is gone although no FIN or RST arrived: a middlebox dropped the connection, or a
 * machine lost power.
 *
 * Every frame except the first of a connection is followed by a ping. If neither a pong nor any other data arrives in time,
 * the socket is dead; nothing of that turn was shown to the client, so it can be sent again. At all other times, idle or in
 * a turn, three consecutive pings must stay unanswered.
 *
 * Only a peer that has answered a ping before is judged. For one that never does, such as some gateways, only the turn's
 * own deadlines apply. The first ping is sent as soon as the socket is open, ahead of the first frame: the pong then arrives
 * before the first answer does, so a connection that dies right after its first turn is judged too.
 */
export const createPulse = (peer: PulseOptions): Pulse => new SocketPulse(peer);

/** See `createPulse`. There is one for every idle session, so its functions are shared. */
class SocketPulse implements Pulse {
  readonly #peer: PulseOptions;
  #answers = false;
  #frames = 0;
  #seen: number;
  #missed = 0;
  #asked = false;
  #allowed = MISSES;
  #stopped: boolean;
  #cancel: (() => void) | null = null;

  constructor(peer: PulseOptions) {
    this.#peer = peer;
    this.#seen = peer.bytesRead();
    this.#stopped = peer.times.pingMs === 0;
    if (!this.#stopped) this.#ask();
  }

  sent(bytes: number): void {
    this.#frames += 1;
    if (this.#stopped) return;
    this.#missed = 0;
    this.#allowed = this.#frames > 1 ? 1 : MISSES;
    this.#ask(bytes / SLOWEST_UPLOAD);
  }

  pong(): void {
    this.#answers = true;
  }

  resumed(): void {
    if (!this.#stopped && this.#asked) this.#arm(this.#peer.times.pongMs);
  }

  stop(): void {
    this.#stopped = true;
    this.#cancel?.();
    this.#cancel = null;
  }

  #arm(ms: number): void {
    this.#cancel?.();
    this.#cancel = (this.#peer.clock ?? systemClock).after(ms, () => this.#look());
  }

  /** Returns whether any data arrived since the last check. */
  #heard(): boolean {
    const now = this.#peer.bytesRead();
    const more = now !== this.#seen;
    this.#seen = now;
    return more;
  }

  #ask(extraMs = 0): void {
    this.#heard();
    this.#asked = true;
    this.#peer.ping();
    this.#arm(this.#peer.times.pongMs + extraMs);
  }

  #rest(): void {
    this.#asked = false;
    this.#missed = 0;
    this.#allowed = MISSES;
    this.#arm(this.#peer.times.pingMs);
  }

  #look(): void {
    if (this.#stopped) return;
    if (this.#heard() || !this.#peer.reading()) return this.#rest();
    if (!this.#asked) return this.#ask();
    this.#missed += 1;
    if (!this.#answers) return this.#rest();
    if (this.#missed < this.#allowed) return this.#ask();
    this.#stopped = true;
    this.#peer.dead();
  }
}

/** Reads the body of an answer in place of the upgrade, within its limits. */
const readRefusal = (response: IncomingMessage, clock: Clock, limits: TransportLimits): Promise<UpstreamAnswer> =>
  new Promise((resolve) => {
    const headers = flatHeaders(response.headers);
    const collector = collectAnswer(response.statusCode ?? 502, unpackedHeaders(headers), limits.refusalBytes);
    const finish = (complete: boolean) => {
      cancel();
      unpacker.destroy();
      response.destroy();
      resolve(collector.answer(complete));
    };
    const unpacker = createUnpacker(headers['content-encoding'], {
      data(chunk) {
        if (!collector.push(chunk)) finish(false);
      },
      end: () => finish(true),
      error: () => finish(false),
    });
    const cancel = clock.after(limits.refusalTimeoutMs, () => finish(false));
    let ended = false;
    response.on('data', (chunk: Buffer) => unpacker.push(chunk));
    response.on('end', () => {
      ended = true;
      unpacker.end();
    });
    response.on('error', () => finish(false));
    response.on('close', () => ended || finish(false));
  });

/** Returns a close code that an endpoint may send: for any other the socket would throw. */
const sendable = (code: number): number =>
  (code >= 1000 && code <= 1014 && ![1004, 1005, 1006].includes(code)) || (code >= 3000 && code <= 4999) ? code : 1000;

/** Shortens a reason to the 123 bytes that a close frame may carry. */
const shortened = (reason: string): string => {
  let short = reason.slice(0, 123);
  while (Buffer.byteLength(short) > 123) short = short.slice(0, -1);
  return short;
};

/** What all WebSockets of one transport have in common. */
export interface SocketMeans {
  clock: Clock;
  limits: TransportLimits;
  /** Registry of open connections and handshakes, for `shutdown`. */
  live: LiveConnections;
  pulse: PulseTimes;
}

/** A WebSocket with the connection to which its events belong, so that all sockets share their listeners. */
class UpstreamSocket extends WebSocket {
  /** Null until the handshake is over. */
  connection: SocketConnection | null = null;
}

/**
 * Connection of an open WebSocket. Every idle session keeps one: it holds nothing of the handshake, and has no function of
 * its own.
 */
class SocketConnection implements UpstreamConnection, PulseOptions, Ending {
  readonly kind = 'websocket';
  readonly #socket: UpstreamSocket;
  readonly #stream: Socket;
  readonly #means: SocketMeans;
  readonly #flow: FrameFlow;
  readonly #pulse: Pulse;
  #closing = false;
  #fault = '';
  #cancelKill: (() => void) | null = null;
  /** Set while a long frame is being written, or waits behind one. */
  #writing: Promise<void> | null = null;

  constructor(socket: UpstreamSocket, stream: Socket, means: SocketMeans) {
    this.#socket = socket;
    this.#stream = stream;
    this.#means = means;
    this.#flow = new FrameFlow(this);
    socket.pause();
    this.#pulse = createPulse(this);
    // The listeners of the handshake hold its request, with the client's headers.
    socket.removeAllListeners();
    socket.connection = this;
    for (const [event, listener] of listeners) socket.on(event, listener);
  }

  get open(): boolean {
    return !this.#closing && this.#socket.readyState === WebSocket.OPEN;
  }

  attach(reader: ConnectionHandlers): void {
    this.#flow.attach(reader);
  }

  send(frame: string): boolean {
    if (!this.open) return false;
    if (this.#writing === null && !isLongText(frame)) this.#write(frame);
    else {
      // Frames are sent in the order of the calls.
      const written = (this.#writing ?? Promise.resolve())
        .then(() => this.#writeSlowly(frame))
        .then(() => {
          if (this.#writing === written) this.#writing = null;
        });
      this.#writing = written;
      written.catch(() => this.broken());
    }
    return true;
  }

  pause(): void {
    this.#flow.pause();
  }

  resume(): void {
    this.#flow.resume();
  }

  close(code = 1000, reason = ''): void {
    if (this.#closing) return;
    this.#closing = true;
    this.#pulse.stop();
    // Keep reading, or the peer's close frame would never be seen.
    this.#flow.mute();
    if (this.#socket.readyState === WebSocket.CLOSED) return;
    this.#cancelKill = this.#means.clock.after(this.#means.limits.closeTimeoutMs, () => this.destroy());
    this.#socket.close(sendable(code), shortened(reason));
  }

  shutDown(): void {
    this.close(1001, 'shutting down');
  }

  destroy(): void {
    this.#socket.terminate();
  }

  // What the flow and the pulse ask.

  hold(held: boolean): void {
    if (held) return this.#socket.pause();
    this.#socket.resume();
    this.#pulse.resumed();
  }

  broken(): void {
    this.#fault = 'what it sent could not be handled';
    this.destroy();
  }

  get times(): PulseTimes {
    return this.#means.pulse;
  }

  bytesRead(): number {
    return this.#stream.bytesRead;
  }

  reading(): boolean {
    // Without a reader, pongs are not read either.
    return !this.#flow.held;
  }

  ping(): void {
    this.#socket.ping();
  }

  dead(): void {
    this.#fault = 'no sign of life';
    this.destroy();
  }

  // What the socket reports.

  onPong(): void {
    this.#pulse.pong();
  }

  onMessage(data: Buffer): void {
    for (const frame of framesOfMessage(data.toString('utf8'))) this.#flow.frame(frame);
  }

  onError(error: Error): void {
    this.#fault = reasonOf(error);
  }

  onClose(code: number, reason: Buffer): void {
    this.#cancelKill?.();
    this.#pulse.stop();
    this.#means.live.remove(this);
    this.#flow.close(code, reason.toString('utf8') || this.#fault);
  }

  #write(part: string | Buffer, fin = true): void {
    this.#socket.send(part, { binary: false, compress: false, fin }, ignoreFailure);
    this.#pulse.sent(part.length);
  }

  /**
   * Sends a long frame in fragments (RFC 6455, section 5.4): encoding, masking and encrypting it at once would block the
   * event loop.
   */
  async #writeSlowly(frame: string): Promise<void> {
    let held: Buffer | null = null;
    for await (const part of encodedSlices(frame)) {
      if (!this.open) return;
      if (held) this.#write(held, false);
      held = part;
    }
    if (held && this.open) this.#write(held);
  }
}

/** A failed write also ends the connection, which its `close` event reports. */
const ignoreFailure = () => {};

/** Returns a listener shared by all sockets: an exception in it ends the socket that it was called for and nothing else. */
function listener<A extends unknown[]>(act: (connection: SocketConnection, ...args: A) => void) {
  const safely = guarded('upstream socket', act, (connection: SocketConnection, ..._event: A) => connection.broken());
  return function (this: WebSocket, ...args: unknown[]) {
    safely((this as UpstreamSocket).connection!, ...(args as A));
  };
}

const listeners: [event: string, listener: ReturnType<typeof listener>][] = [
  ['pong', listener((connection) => connection.onPong())],
  ['message', listener((connection, data: Buffer) => connection.onMessage(data))],
  ['error', listener((connection, error: Error) => connection.onError(error))],
  ['close', listener((connection, code: number, reason: Buffer) => connection.onClose(code, reason))],
];

/**
 * Opens a WebSocket to `{base}/responses` with exactly the given headers. Never rejects, follows no redirect, and offers no
 * compression (15 to 30 times the work for frames of this size). An answer in place of the upgrade is read within its
 * limits, and unpacked. Pings of the peer are answered, and the peer is pinged: see `createPulse`.
 *
 * @param proxy proxy to tunnel through; null for a direct connection
 */
export async function dialWebSocket(request: DialRequest, means: SocketMeans, proxy: URL | null): Promise<DialResult> {
  const { clock, limits, live } = means;
  // A worker without a proxy does not load it.
  const tunnelling = proxy && (await import('https-proxy-agent'));
  const { baseUrl } = request.target;
  const failure = (reason: string, given: unknown): DialResult => ({
    kind: 'failed',
    reason,
    unreachable: unreachable(given, baseUrl, proxy),
  });
  return new Promise((resolve) => {
    let socket: UpstreamSocket;
    const tunnel = new AbortController();
    // A separate agent per socket: only then can a tunnel that is still being set up be aborted.
    const agent = tunnelling && new tunnelling.HttpsProxyAgent(proxy!.href, { signal: tunnel.signal });
    try {
      socket = new UpstreamSocket(webSocketAddress(baseUrl, '/responses'), {
        headers: request.headers,
        perMessageDeflate: false,
        maxPayload: limits.maxIncomingBytes,
        followRedirects: false,
        ...(agent && { agent }),
      });
    } catch (error) {
      resolve(failure(reasonOf(error), error));
      return;
    }
    let settled = false;
    let refusing = false;
    let headers: Record<string, string> = {};
    let stream: Socket | null = null;
    const terminate = () => socket.terminate();
    const handshake: Ending = { shutDown: terminate, destroy: terminate };
    live.add(handshake);
    const settle = (result: DialResult) => {
      if (settled) return;
      settled = true;
      cancelTimer();
      live.remove(handshake);
      resolve(result);
      if (result.kind === 'open') return;
      socket.terminate();
      tunnel.abort();
    };
    const failed = (reason: string, given: unknown) => {
      if (!refusing) settle(failure(reason, given));
    };
    const cancelTimer = clock.after(request.timeoutMs, () => {
      const reason = `no answer to the upgrade within ${request.timeoutMs} ms`;
      failed(reason, reason);
    });
    const on = <A extends unknown[]>(event: string, listener: (...args: A) => void) =>
      socket.on(
        event,
        guarded('upstream socket', listener, () => failed('the upgrade could not be handled', null)) as (
          ...args: unknown[]
        ) => void,
      );
    on('upgrade', (response: IncomingMessage) => {
      headers = flatHeaders(response.headers);
      stream = response.socket;
      stream.setKeepAlive(true, limits.tcpKeepAliveMs);
    });
    on('open', () => {
      if (settled) return;
      const connection = new SocketConnection(socket, stream!, means);
      live.add(connection);
      settle({ kind: 'open', connection, headers });
    });
    // Otherwise the proxy's answer to CONNECT would be read as the provider's own refusal, and relayed.
    agent?.once('proxyConnect', ({ statusCode }: { statusCode: number }) => {
      if (statusCode === 200) return;
      const refusal = `${BY_PROXY}${statusCode}`;
      failed(refusal, refusal);
    });
    on('unexpected-response', (_request: unknown, response: IncomingMessage) => {
      // The status is known: from here the limits of a refusal apply, and no later event may turn it into a failure.
      refusing = true;
      cancelTimer();
      void readRefusal(response, clock, limits).then((answer) => settle({ kind: 'refused', answer }));
    });
    on('error', (error: Error) => failed(reasonOf(error), error));
    on('close', () => failed('closed during the upgrade', 'closed during the upgrade'));
  });
}
