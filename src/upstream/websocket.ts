import type { IncomingMessage } from 'node:http';
import { HttpsProxyAgent } from 'https-proxy-agent';
import { WebSocket } from 'ws';
import { flatHeaders } from '../headers.ts';
import { encodedSlices, isLongText } from '../json.ts';
import { type Clock, guarded, systemClock } from '../system.ts';
import { BY_PROXY, collectAnswer, reasonOf, refusalFrame, unreachable } from './errors.ts';
import {
  type DialRequest,
  type DialResult,
  type LiveConnections,
  type TransportLimits,
  type UpstreamAnswer,
  type UpstreamConnection,
  webSocketAddress,
} from './port.ts';
import { createFrameFlow, createUnpacker, framesOfMessage, unpackedHeaders } from './streams.ts';

/** Ping times of a WebSocket. */
export interface PulseTimes {
  /** Interval between two pings to a silent peer, in milliseconds; 0 sends none. */
  pingMs: number;
  /** Time for which a ping may stay unanswered, in milliseconds. */
  pongMs: number;
}

interface PulseOptions {
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
 * before the first answer does, so a connection that dies right after its first turn is judged too. The timers run on real time, since a peer needs real time to answer, whatever clock drives a test's
 * deadlines.
 */
export function createPulse({ times, bytesRead, reading, ping, dead }: PulseOptions): Pulse {
  const { pingMs, pongMs } = times;
  let answers = false;
  let frames = 0;
  let seen = bytesRead();
  let missed = 0;
  let asked = false;
  let allowed = MISSES;
  let stopped = pingMs === 0;
  let cancel = () => {};

  const arm = (ms: number, look: () => void) => {
    cancel();
    cancel = systemClock.after(ms, look);
  };
  /** Returns whether any data arrived since the last check. */
  const heard = () => {
    const now = bytesRead();
    const more = now !== seen;
    seen = now;
    return more;
  };
  const ask = (extraMs = 0) => {
    heard();
    asked = true;
    ping();
    arm(pongMs + extraMs, look);
  };
  const rest = () => {
    asked = false;
    missed = 0;
    allowed = MISSES;
    arm(pingMs, look);
  };
  function look(): void {
    if (stopped) return;
    if (heard() || !reading()) return rest();
    if (!asked) return ask();
    missed += 1;
    if (!answers) return rest();
    if (missed < allowed) return ask();
    stopped = true;
    dead();
  }

  if (!stopped) ask();
  return {
    sent(bytes) {
      frames += 1;
      if (stopped) return;
      missed = 0;
      allowed = frames > 1 ? 1 : MISSES;
      ask(bytes / SLOWEST_UPLOAD);
    },
    pong() {
      answers = true;
    },
    resumed() {
      if (!stopped && asked) arm(pongMs, look);
    },
    stop() {
      stopped = true;
      cancel();
    },
  };
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

function connectionOf(
  socket: WebSocket,
  bytesRead: () => number,
  clock: Clock,
  limits: TransportLimits,
  pulseTimes: PulseTimes,
  gone: () => void,
): UpstreamConnection {
  let closing = false;
  let fault = '';
  let cancelKill: (() => void) | null = null;
  /** Set while a long frame is being written, or waits behind one. */
  let writing: Promise<void> | null = null;
  const broken = () => {
    fault = 'what it sent could not be handled';
    socket.terminate();
  };
  /** Guards a listener of the socket: an exception in it ends this socket and nothing else. */
  const on = <A extends unknown[]>(event: string, listener: (...args: A) => void) =>
    socket.on(event, guarded('upstream socket', listener, broken) as (...args: unknown[]) => void);
  // A failed write also ends the connection, which `closed` reports.
  const write = (part: string | Buffer, fin = true) => {
    socket.send(part, { binary: false, compress: false, fin }, () => {});
    pulse.sent(part.length);
  };
  const isOpen = () => !closing && socket.readyState === WebSocket.OPEN;
  /**
   * Sends a long frame in fragments (RFC 6455, section 5.4): encoding, masking and encrypting it at once would block the
   * event loop.
   */
  const writeSlowly = async (frame: string) => {
    let held: Buffer | null = null;
    for await (const part of encodedSlices(frame)) {
      if (!isOpen()) return;
      if (held) write(held, false);
      held = part;
    }
    if (held && isOpen()) write(held);
  };
  const flow = createFrameFlow({
    hold(held) {
      if (held) return socket.pause();
      socket.resume();
      pulse.resumed();
    },
    refusalFrame,
    broken,
  });
  socket.pause();
  const pulse = createPulse({
    times: pulseTimes,
    bytesRead,
    // Without a reader, pongs are not read either.
    reading: () => !flow.held,
    ping: () => socket.ping(),
    dead() {
      fault = 'no sign of life';
      socket.terminate();
    },
  });

  on('pong', pulse.pong);
  on('message', (data: Buffer) => {
    for (const frame of framesOfMessage(data.toString('utf8'))) flow.frame(frame);
  });
  on('error', (error: Error) => {
    fault = reasonOf(error);
  });
  on('close', (code: number, reason: Buffer) => {
    cancelKill?.();
    pulse.stop();
    gone();
    flow.close(code, reason.toString('utf8') || fault);
  });

  return {
    kind: 'websocket',
    get open() {
      return isOpen();
    },
    attach: flow.attach,
    send(frame) {
      if (!isOpen()) return false;
      if (writing === null && !isLongText(frame)) write(frame);
      else {
        // Frames are sent in the order of the calls.
        const written = (writing ?? Promise.resolve())
          .then(() => writeSlowly(frame))
          .then(() => {
            if (writing === written) writing = null;
          });
        writing = written;
        written.catch(broken);
      }
      return true;
    },
    pause: flow.pause,
    resume: flow.resume,
    close(code = 1000, reason = '') {
      if (closing) return;
      closing = true;
      pulse.stop();
      // Keep reading, or the peer's close frame would never be seen.
      flow.mute();
      if (socket.readyState === WebSocket.CLOSED) return;
      cancelKill = clock.after(limits.closeTimeoutMs, () => socket.terminate());
      socket.close(sendable(code), shortened(reason));
    },
  };
}

/**
 * Opens a WebSocket to `{base}/responses` with exactly the given headers. Never rejects, follows no redirect, and offers no
 * compression (15 to 30 times the work for frames of this size). An answer in place of the upgrade is read within its
 * limits, and unpacked. Pings of the peer are answered, and the peer is pinged: see `createPulse`.
 *
 * @param live registry of open connections, for `shutdown`
 * @param proxy proxy to tunnel through; null for a direct connection
 */
export function dialWebSocket(
  request: DialRequest,
  clock: Clock,
  limits: TransportLimits,
  live: LiveConnections,
  pulseTimes: PulseTimes,
  proxy: URL | null,
): Promise<DialResult> {
  const { baseUrl } = request.target;
  const failure = (reason: string, given: unknown): DialResult => ({
    kind: 'failed',
    reason,
    unreachable: unreachable(given, baseUrl, proxy),
  });
  return new Promise((resolve) => {
    let socket: WebSocket;
    const tunnel = new AbortController();
    // A separate agent per socket: only then can a tunnel that is still being set up be aborted.
    const agent = proxy && new HttpsProxyAgent(proxy.href, { signal: tunnel.signal });
    try {
      socket = new WebSocket(webSocketAddress(baseUrl, '/responses'), {
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
    let bytesRead = () => 0;
    let connection: UpstreamConnection | null = null;
    const gone = live.add({
      close: () => (connection ? connection.close(1001, 'shutting down') : socket.terminate()),
      destroy: () => socket.terminate(),
    });
    const settle = (result: DialResult) => {
      if (settled) return;
      settled = true;
      cancelTimer();
      resolve(result);
      if (result.kind === 'open') return;
      gone();
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
      response.socket.setKeepAlive(true, limits.tcpKeepAliveMs);
      bytesRead = () => response.socket.bytesRead;
    });
    on('open', () => {
      if (settled) return;
      connection = connectionOf(socket, bytesRead, clock, limits, pulseTimes, gone);
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
