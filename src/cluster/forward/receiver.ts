import type { IncomingMessage, ServerResponse } from 'node:http';
import { BridgeError } from '../../errors.ts';
import { FORWARD_TOKEN_HEADER, REFUSED_HEADER } from '../../headers.ts';
import { endWithJson } from '../../http/envelope.ts';
import { createHttpServer, refuseUpgrade, startListening, watchConnection } from '../../http/server.ts';
import type { Reader } from '../../intake/pool.ts';
import type { Log } from '../../log.ts';
import type { ClientSink, TurnRequest } from '../../session/port.ts';
import type { Clock } from '../../system.ts';
import {
  type ClaimedNotice,
  type ForwardClaims,
  ForwardRefused,
  type ForwardTokens,
  UnreadableEnvelope,
  unpackRequest,
} from './envelope.ts';
import {
  afterPendingIo,
  CLAIMED_PATH,
  encodeMessage,
  type ForwardMessage,
  failMessage,
  headMessage,
  TURN_PATH,
  VIEW_PATH,
  type ViewQuestion,
  viewQuestion,
  WORKER_PATH,
} from './protocol.ts';

/** The client of a forwarded request, from the point of view of the serving worker. */
export interface ForwardSink extends ClientSink {
  /** Answers that this worker does not own the session and started nothing. The sender then resolves the request again. */
  notOwner(): void;
}

interface ForwardSinkOptions {
  res: ServerResponse;
  clock: Clock;
  /** True if the client requested a stream. A non-streaming client sees nothing before its answer is complete. */
  streaming: boolean;
  /** Interval between pings, in milliseconds. */
  pingMs: number;
  /**
   * Time for which the sender may stop reading, in milliseconds. The sender's own client has less time, so this only
   * disconnects a sender that is gone.
   */
  patienceMs: number;
}

/**
 * Creates a sink that writes an `accepted` message at once and then each call as one message. The sender applies these
 * to the real client.
 */
function createForwardSink({ res, clock, streaming, pingMs, patienceMs }: ForwardSinkOptions): ForwardSink {
  const connection = watchConnection(res);
  let ended: 'terminal' | 'not_owner' | null = null;
  let shown = false;
  let stalled = false;
  let stopPing = () => {};
  let stopPatience = () => {};
  const drained: (() => void)[] = [];

  const write = (message: ForwardMessage): boolean => {
    if (!connection.open) return true;
    if (res.write(encodeMessage(message))) return true;
    if (!stalled) {
      stalled = true;
      stopPatience = clock.after(patienceMs, () => res.destroy());
    }
    return false;
  };
  const end = (how: 'terminal' | 'not_owner', message: () => ForwardMessage) => {
    if (ended) return;
    ended = how;
    stopPing();
    if (!connection.open) return;
    write(message());
    res.end();
  };
  const ping = () => {
    stopPing = clock.after(pingMs, () => {
      if (ended || !connection.open) return;
      // Unread data is itself a sign of life for the sender.
      if (!stalled) write({ t: 'ping' });
      ping();
    });
  };
  const release = () => {
    stopPing();
    stopPatience();
  };

  res.on('drain', () => {
    stalled = false;
    stopPatience();
    for (const listener of drained) listener();
  });
  connection.onGone(release);
  connection.onDelivered(release);
  res.writeHead(200, { 'content-type': 'application/x-ndjson' });
  write({ t: 'accepted' });
  ping();

  return {
    head: (head) => void (ended ?? write(headMessage(head))),
    event(type, json, telemetry) {
      if (ended || !connection.open) return true;
      shown ||= streaming && !telemetry;
      return write({ t: 'event', type, telemetry, json });
    },
    open: () => void (ended ?? write({ t: 'open' })),
    end: (type, json) => {
      shown ||= !ended && streaming && connection.open;
      end('terminal', () => ({ t: 'end', type, json }));
    },
    fail: (error) => end('terminal', () => failMessage(error)),
    relay: ({ status, headers, body }) =>
      end('terminal', () => ({ t: 'relay', status, headers, body: body.toString('base64') })),
    cut: () => end('terminal', () => ({ t: 'cut' })),
    notOwner: () => end('not_owner', () => ({ t: 'not_owner' })),
    get attached() {
      return connection.open;
    },
    get shown() {
      return shown;
    },
    get committed() {
      return ended !== null;
    },
    onGone: connection.onGone,
    onDelivered: (listener) => connection.onDelivered(() => ended === 'terminal' && listener()),
    onDrain: (listener) => void drained.push(listener),
  };
}

interface InternalServerOptions {
  host: string;
  /** Port to listen on; 0 selects a free one. */
  port: number;
  /** Returns this worker's current id, which changes when the worker registers again. */
  workerId(): string;
  forwardTokens: ForwardTokens;
  clock: Clock;
  limits: { bodyBytes: number };
  reader: Reader;
  deadlines: { forwardSilence: number; slowClient: number };
  /** Serves a request whose token was verified and whose sender is still connected. An exception fails the request. */
  serve(claims: ForwardClaims, request: TurnRequest, sink: ForwardSink): void;
  /** Called when a peer sent a notice about a session of this worker. */
  onClaimed?(notice: ClaimedNotice): void;
  /** Answers a peer's question, asked for an operator, about these sessions. The result is sent as JSON. */
  onView?(question: ViewQuestion): object;
  logger: Log<'debug' | 'warn' | 'error'>;
}

export interface InternalServer {
  /** URL at which it listens, e.g. `http://10.0.0.4:41873`. Peers may have to use another one. */
  readonly url: string;
  readonly port: number;
  /**
   * Stops accepting connections. Running requests may complete until `graceMs` milliseconds are over, then they are
   * aborted.
   */
  close(graceMs: number): Promise<void>;
}

/** Longest interval between two pings, in milliseconds. */
const PING_MS = 2_000;
/** Idle timeout of a connection, in milliseconds. Longer than the sender's (20 s), so that the sender closes first. */
const KEEP_ALIVE_MS = 60_000;
const CLAIMED_BYTES = 4_096;
const VIEW_BYTES = 65_536;

/**
 * Starts the internal listener for peers. It serves no other requests. Rejects with the system's error if it cannot
 * listen.
 */
export async function startInternalServer(options: InternalServerOptions): Promise<InternalServer> {
  const { workerId, forwardTokens, limits, logger } = options;
  // Quoting, written-out numbers and the added headers can make a forwarded body larger than the original.
  const maxBytes = limits.bodyBytes * 2 + 1_048_576;

  async function take<T>(
    req: IncomingMessage,
    res: ServerResponse,
    limit: number,
    admit: (token: string, me: string) => (body: Buffer) => T,
  ): Promise<{ claims: T; body: Buffer } | null> {
    const header = req.headers[FORWARD_TOKEN_HEADER];
    let bind: (body: Buffer) => T;
    try {
      bind = admit(typeof header === 'string' ? header : '', workerId());
    } catch (error) {
      return refuse(req, res, error);
    }
    const body = await readAll(req, limit);
    if (body === null) return answer(res, 413, { error: 'too_large' }, 'too_large');
    try {
      return { claims: bind(body), body };
    } catch (error) {
      return refuse(req, res, error);
    }
  }

  function refuse(req: IncomingMessage, res: ServerResponse, error: unknown): null {
    const reason = error instanceof ForwardRefused ? error.reason : 'unexpected';
    logger.warn({ reason, path: req.url, peer: req.socket.remoteAddress }, 'a forwarded request was refused');
    return answer(res, 403, { error: reason }, reason);
  }

  async function turn(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const taken = await take(req, res, maxBytes, forwardTokens.admit);
    if (!taken) return;
    const { claims, body } = taken;
    const { requestId, turnId } = claims;
    // After a pause of the process, the request is read before the news that its sender has long disconnected.
    await new Promise<void>(afterPendingIo);
    const left = () => res.destroyed || res.socket === null || res.socket.destroyed || res.socket.readableEnded;
    const reportLeft = () =>
      logger.debug({ requestId, turnId, from: claims.from }, 'a sender had left before its request was accepted');
    if (left()) return reportLeft();
    let request: TurnRequest;
    try {
      const conversation = claims.sessionId && `session:${claims.sessionId}`;
      const read = await options.reader.read([body], 'envelope', { conversation }).catch((error: BridgeError) => error);
      if (left()) return reportLeft();
      request = unpackRequest(read, options.clock.now(), forwardTokens);
    } catch (error) {
      if (!(error instanceof UnreadableEnvelope)) throw error;
      logger.warn({ requestId, from: claims.from, reason: error.message }, 'a forwarded request was refused');
      return void answer(res, 400, { error: 'unreadable' }, 'unreadable');
    }
    const { forwardSilence, slowClient } = options.deadlines;
    const sink = createForwardSink({
      res,
      clock: options.clock,
      streaming: request.body.stream === true,
      pingMs: Math.min(PING_MS, Math.max(1, Math.floor(forwardSilence / 3))),
      patienceMs: slowClient + forwardSilence,
    });
    try {
      options.serve(claims, request, sink);
    } catch (error) {
      logger.error({ requestId, turnId, err: error }, 'a forwarded request failed unexpectedly');
      sink.fail(new BridgeError('bridge_internal', { cause: error }));
    }
  }

  async function claimed(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const taken = await take(req, res, CLAIMED_BYTES, forwardTokens.admitClaimed);
    if (!taken) return;
    res.writeHead(204).end();
    options.onClaimed?.(taken.claims);
  }

  async function view(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const taken = await take(req, res, VIEW_BYTES, forwardTokens.admitView);
    if (!taken) return;
    const question = readQuestion(taken.body);
    if (!question) return void answer(res, 400, { error: 'unreadable' }, 'unreadable');
    answer(res, 200, options.onView?.(question) ?? {}, null);
  }

  const routes = new Map<string, { method: string; run(req: IncomingMessage, res: ServerResponse): unknown }>([
    [WORKER_PATH, { method: 'GET', run: (_req, res) => answer(res, 200, { id: workerId() }, null) }],
    [TURN_PATH, { method: 'POST', run: turn }],
    [CLAIMED_PATH, { method: 'POST', run: claimed }],
    [VIEW_PATH, { method: 'POST', run: view }],
  ]);
  const server = createHttpServer(
    async (req, res) => {
      req.on('error', () => {});
      res.on('error', () => {});
      try {
        const route = routes.get(req.url ?? '');
        if (!route) return void answer(res, 404, { error: 'not_found' }, null);
        if (route.method !== req.method) return void answer(res, 405, { error: 'method_not_allowed' }, null);
        await route.run(req, res);
      } catch (error) {
        if (!req.complete) return logger.debug({ path: req.url }, 'a sender left in the middle of its request');
        logger.error({ err: error, path: req.url }, 'an internal request failed unexpectedly');
        res.destroy();
      }
    },
    { keepAliveTimeout: KEEP_ALIVE_MS },
    refuseUpgrade,
  );
  // Each process of a Node cluster needs its own listener: peers address one worker, not any free process.
  return startListening(server, { port: options.port, host: options.host, exclusive: true });
}

/**
 * Sends a JSON answer unless the peer has disconnected. Always returns null, so that callers can return it as the
 * missing result.
 */
function answer(res: ServerResponse, status: number, body: object, refused: string | null): null {
  if (res.destroyed || res.headersSent) return null;
  res.statusCode = status;
  if (refused !== null) res.setHeader(REFUSED_HEADER, refused);
  endWithJson(res, body);
  return null;
}

/**
 * Reads the whole body. Rejects if the sender disconnects before its end.
 *
 * @param limit in bytes
 * @returns null if the body is larger than `limit`
 */
async function readAll(req: IncomingMessage, limit: number): Promise<Buffer | null> {
  if (Number(req.headers['content-length']) > limit) return null;
  const chunks: Buffer[] = [];
  let size = 0;
  // Leaving the loop must not destroy the connection: the sender still has to receive the reason.
  for await (const chunk of req.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > limit) return null;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, size);
}

function readQuestion(body: Buffer): ViewQuestion | null {
  try {
    return viewQuestion.parse(JSON.parse(body.toString('utf8')));
  } catch {
    return null;
  }
}
