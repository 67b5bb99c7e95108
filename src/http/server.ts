import {
  createServer,
  type IncomingMessage,
  type Server,
  type ServerOptions,
  type ServerResponse,
  STATUS_CODES,
} from 'node:http';
import { type AddressInfo, isIPv6, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Config } from '../config.ts';
import { type BridgeCode, BridgeError } from '../errors.ts';
import { guarded, reportFault } from '../system.ts';
import { discard, endWithJson, retryHeaders } from './envelope.ts';
import { ONE_HOST } from './front.ts';

/** State of the client connection, as both kinds of sink need it. */
export interface Connection {
  readonly open: boolean;
  onGone(listener: () => void): void;
  onDelivered(listener: () => void): void;
}

/**
 * Watches one response. The result is `delivered` when `finish` comes before `close`, and `gone` otherwise. Exactly one
 * of the two happens, once; a listener added later is called immediately.
 */
export function watchConnection(res: ServerResponse): Connection {
  let end: 'delivered' | 'gone' | null = null;
  const listeners = { delivered: [] as (() => void)[], gone: [] as (() => void)[] };
  const settle = (how: 'delivered' | 'gone') => {
    if (end) return;
    end = how;
    for (const listener of listeners[how]) guarded('client connection', listener)();
  };
  res.once('finish', () => settle('delivered'));
  res.once('close', () => settle('gone'));
  const on = (how: 'delivered' | 'gone') => (listener: () => void) => {
    if (end === how) listener();
    else listeners[how].push(listener);
  };
  return {
    get open() {
      return end === null && !res.destroyed;
    },
    onGone: on('gone'),
    onDelivered: on('delivered'),
  };
}

/**
 * Connections of one network without an authenticated request in progress. Each set is ordered from oldest to newest.
 */
interface Strangers {
  /** Connections that have never carried an authenticated request. */
  unknown: Set<Socket>;
  /** Connections on which an authenticated request has ended. */
  idle: Set<Socket>;
}

/**
 * Returns the key under which the connections of one peer are counted: an IPv4 address, or the first 64 bits of an IPv6
 * address, because one host may use any number of addresses within its /64.
 *
 * @param address as `Socket.remoteAddress` reports it
 */
export function networkOf(address: string): string {
  const mapped = /^::ffff:([\d.]+)$/i.exec(address)?.[1];
  if (mapped !== undefined || !isIPv6(address)) return mapped ?? address;
  const [head = '', tail] = address.replace(/%.*$/, '').split('::');
  const [first, last] = [head, tail ?? ''].map((part) => (part === '' ? [] : part.split(':'))) as [string[], string[]];
  const gap = tail === undefined ? 0 : 8 - first.length - last.length;
  const groups = [...first, ...new Array<string>(gap).fill('0'), ...last];
  return `${groups
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(':')}::/64`;
}

export interface ConnectionGuard {
  /** Starts limiting a server's connections. All watched servers share the same limits. */
  watch(server: Server): void;
  readonly open: number;
}

interface ConnectionGuardOptions {
  limits: Pick<Config['limits'], 'connections' | 'peerConnections'>;
  /** Several tenants are possible. Then no tenant may hold more connections than remain free for the others. */
  several: boolean;
  /** Called when a connection was closed because its network, or this worker, had too many. */
  onClosed?(reason: 'peer' | 'worker'): void;
}

/**
 * Reason why a request cannot hold its connection: its tenant holds too many (`scope`), or all tenants together do
 * (`worker`).
 */
type Unheld = 'scope' | 'worker';

/**
 * One in this many connections is reserved for those without an authenticated request: health, metrics, admin,
 * newcomers.
 */
const RESERVED = 16;

/** Work for a client that holds its connection until it closes: a response, or the turns of a WebSocket. */
export interface Holding {
  readonly closed: boolean;
  once(event: 'close', listener: () => void): unknown;
}

const holders = new WeakMap<Socket, (work: Holding, scope: string) => Unheld | null>();

/**
 * Marks the connection of an authenticated request as held: until the work for it ends, it is not closed to make room for
 * others.
 *
 * @returns null when the connection is held or the server is not guarded, otherwise the reason why it cannot be held
 */
export function holdConnection(req: IncomingMessage, work: Holding, scope: string): Unheld | null {
  return holders.get(req.socket)?.(work, scope) ?? null;
}

/**
 * Limits the number of connections without refusing new ones. When all are in use, a new connection evicts the oldest
 * one without an authenticated request, from the network that has the most of these. A reserved part of the connections
 * can never be held, so there is always one to evict.
 */
export function createConnectionGuard({ limits, several, onClosed }: ConnectionGuardOptions): ConnectionGuard {
  const reserve = Math.max(1, Math.floor(limits.connections / RESERVED));
  const holdable = Math.max(1, limits.connections - reserve);
  const peers = new Map<string, Strangers>();
  const heldBy = new Map<string, number>();
  let held = 0;
  let open = 0;

  const size = ({ unknown, idle }: Strangers) => unknown.size + idle.size;
  const strangersOf = (address: string): Strangers => {
    const known = peers.get(address) ?? { unknown: new Set(), idle: new Set() };
    peers.set(address, known);
    return known;
  };
  const remove = (address: string, socket: Socket) => {
    const strangers = peers.get(address);
    if (!strangers) return;
    strangers.unknown.delete(socket);
    strangers.idle.delete(socket);
    if (size(strangers) === 0) peers.delete(address);
  };
  const largest = (): string | null => {
    let found: string | null = null;
    let most = 0;
    for (const [address, strangers] of peers) if (size(strangers) > most) [found, most] = [address, size(strangers)];
    return found;
  };
  /** Makes room for a new connection: closes an older one without any authenticated request so far, else an idle one, else the new one. */
  const closeOldest = (address: string, reason: 'peer' | 'worker', arrived: Socket) => {
    const { unknown, idle } = strangersOf(address);
    const [stranger = null] = unknown;
    const [socket] = stranger !== null && stranger !== arrived ? unknown : idle.size > 0 ? idle : unknown;
    if (!socket) return;
    remove(address, socket);
    open -= 1;
    closed.add(socket);
    socket.destroy();
    onClosed?.(reason);
  };
  /** Connections closed here and already subtracted from `open`, although their `close` event has not fired yet. */
  const closed = new WeakSet<Socket>();

  function arrive(socket: Socket): void {
    const address = networkOf(socket.remoteAddress ?? '');
    let requests = 0;
    let scope = '';
    open += 1;
    strangersOf(address).unknown.add(socket);

    const release = () => {
      requests -= 1;
      if (requests > 0) return;
      held -= 1;
      const left = (heldBy.get(scope) ?? 1) - 1;
      if (left === 0) heldBy.delete(scope);
      else heldBy.set(scope, left);
      if (!socket.destroyed) strangersOf(address).idle.add(socket);
    };
    holders.set(socket, (work, asking) => {
      if (work.closed) return null;
      if (requests === 0) {
        const own = heldBy.get(asking) ?? 0;
        if (held >= holdable) return 'worker';
        if (several && own > 0 && own >= holdable - held) return 'scope';
        held += 1;
        heldBy.set(asking, own + 1);
        scope = asking;
        remove(address, socket);
      }
      requests += 1;
      work.once('close', release);
      return null;
    });
    socket.once('close', () => {
      remove(address, socket);
      if (!closed.has(socket)) open -= 1;
    });
    if (size(strangersOf(address)) > limits.peerConnections) closeOldest(address, 'peer', socket);
    const crowded = open > limits.connections ? largest() : null;
    if (crowded !== null) closeOldest(crowded, 'worker', socket);
  }

  return {
    watch(server) {
      // The server still counts evicted connections until their `close` event fires.
      server.maxConnections = limits.connections + reserve;
      server.on('connection', arrive);
    },
    get open() {
      return open;
    },
  };
}

/** Time within which an answer must have been flushed, in milliseconds; then the socket is destroyed. */
const FLUSH_MS = 12_000;

/**
 * Writes an error answer directly to a socket that is not, or no longer, handled by Node's HTTP server. Reads and
 * discards what still arrives, then closes the connection.
 *
 * @param headers additional header lines
 */
export function answerSocket(socket: Duplex, error: BridgeError, headers: readonly string[] = []): void {
  socket.on('error', () => socket.destroy());
  if (!socket.writable) return void socket.destroy();
  const body = JSON.stringify(error.envelope());
  const retry = Object.entries(retryHeaders(error)).map(([name, value]) => `${name}: ${value}`);
  const lines = [
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status]}`,
    'content-type: application/json; charset=utf-8',
    `content-length: ${Buffer.byteLength(body)}`,
    ...retry,
    ...headers,
    'connection: close',
    '',
    body,
  ];
  const kill = setTimeout(() => socket.destroy(), FLUSH_MS);
  kill.unref();
  socket.once('close', () => clearTimeout(kill));
  const sent = new Promise<void>((flushed) => void socket.end(lines.join('\r\n'), () => flushed()));
  // The peer may have ended its side and still be reading the answer.
  discard(socket, () => void sent.then(() => socket.destroy()));
}

/**
 * Answers an upgrade at a path without WebSockets with 426, the only refusal that makes Codex fall back to HTTP immediately
 * and silently. Attach it to the server's `upgrade` event.
 */
export function refuseUpgrade(_req: IncomingMessage, socket: Duplex): void {
  answerSocket(socket, new BridgeError('bridge_websocket_unsupported'), ['upgrade: HTTP/1.1']);
}

export interface Listening {
  server: Server;
  /** Base URL, for example `http://127.0.0.1:8787`. */
  url: string;
  port: number;
  /** Stops accepting connections and closes idle ones. Busy connections are closed after `graceMs` milliseconds. */
  close(graceMs: number): Promise<void>;
}

/** Handles an upgrade request and takes over its socket. */
export type UpgradeListener = (req: IncomingMessage, socket: Duplex, head: Buffer) => void;

const LIMITS: ServerOptions = {
  // These limit only the time to receive a request. An answer may take longer.
  requestTimeout: 120_000,
  headersTimeout: 30_000,
  connectionsCheckingInterval: 5_000,
  // Request line and headers together, in bytes.
  maxHeaderSize: 32_768,
  // Node's own refusal has no error envelope; this server checks the header itself.
  requireHostHeader: false,
  noDelay: true,
};

/** Maximum number of unanswered requests on one connection. No client of this API pipelines. */
const MOST_PIPELINED = 32;

/**
 * Errors for requests that the parser or its timers refuse, by Node's error code. All others are reported as malformed.
 */
const refusals = new Map<string, BridgeCode>([
  ['HPE_HEADER_OVERFLOW', 'bridge_headers_too_large'],
  ['HPE_CHUNK_EXTENSIONS_OVERFLOW', 'bridge_body_too_large'],
  ['ERR_HTTP_REQUEST_TIMEOUT', 'bridge_request_timeout'],
]);

/**
 * Accepts only upgrades to WebSocket. A server may ignore any other upgrade offer and serve the request as plain HTTP.
 */
const asksForWebSocket = ({ headers }: IncomingMessage) => /\bwebsocket\b/i.test(headers.upgrade ?? '');

/** Accepts a path, `*`, or an absolute HTTP URL. Routers cannot match a path in a URL of another scheme. */
const isTarget = (target: string) =>
  target.startsWith('/') || target === '*' || (/^https?:\/\//i.test(target) && URL.canParse(target));

/** Answers a request directly, without going through the app. */
function answerPlainly(res: ServerResponse, error: BridgeError): void {
  res.statusCode = error.status;
  for (const [name, value] of Object.entries(retryHeaders(error))) res.setHeader(name, value);
  endWithJson(res, error.envelope());
}

/**
 * Serves requests, for example an Express app. It calls `next` for a request that it does not answer, as a router does whose
 * parser finds no path in a target that `URL` accepts: `http://` and a name of more than 255 characters.
 */
export type App = (req: IncomingMessage, res: ServerResponse, next: (error?: unknown) => void) => unknown;

/**
 * Creates an HTTP server that no input of a peer can crash, and that answers requests its parser refuses with the error
 * envelope. It does not listen yet.
 *
 * @param onUpgrade receives requests for a WebSocket; other upgrade offers are ignored
 */
export function createHttpServer(app: App, options: ServerOptions, onUpgrade: UpgradeListener): Server {
  const server = createServer({ ...LIMITS, ...options, ...{ shouldUpgradeCallback: asksForWebSocket } });
  /** Unfinished responses of each connection, in the order of their requests. */
  const open = new WeakMap<Duplex, Set<ServerResponse>>();

  /**
   * Registers a response as unfinished.
   *
   * @returns the number of unfinished responses of this connection, including this one
   */
  function owe({ socket }: IncomingMessage, res: ServerResponse): number {
    const answers = open.get(socket) ?? new Set();
    open.set(socket, answers);
    answers.add(res);
    res.once('close', () => answers.delete(res));
    return answers.size;
  }

  /**
   * Runs `write` after the earlier responses have closed. Output that bypasses Node's response queue must keep the
   * order, because clients match answers to requests by order.
   */
  function afterThese(earlier: readonly ServerResponse[], write: () => void): void {
    let left = earlier.length;
    if (left === 0) return write();
    for (const res of earlier) {
      res.once('close', () => {
        left -= 1;
        if (left === 0) write();
      });
    }
  }

  const openOf = (socket: Duplex) => [...(open.get(socket) ?? [])];

  server.on('request', (req, res) => {
    const { socket } = req;
    if (owe(req, res) > MOST_PIPELINED) return void socket.destroy();
    if (req.httpVersion === '1.1' && req.headers.host === undefined) {
      return answerPlainly(res, new BridgeError('bridge_malformed_request', { detail: ONE_HOST }));
    }
    // Routers cannot parse other targets and would never call a handler for them.
    if (!isTarget(req.url ?? '')) return answerPlainly(res, new BridgeError('bridge_malformed_request'));
    const next = (error?: unknown) => {
      if (res.headersSent) return void socket.destroy();
      answerPlainly(res, new BridgeError(error === undefined ? 'bridge_malformed_request' : 'bridge_internal'));
    };
    guarded('client connection', app, () => socket.destroy())(req, res, next);
  });
  const refused = new WeakSet<Duplex>();
  server.on(
    'clientError',
    guarded('client connection', (error: NodeJS.ErrnoException, socket: Duplex) => {
      // The parser reports each further chunk after it has refused the first.
      if (refused.has(socket)) return;
      refused.add(socket);
      if (error.code === 'ECONNRESET') return void socket.destroy();
      const answers = openOf(socket);
      // The response whose request was refused half-way. An error before or after a request belongs to no response.
      const broken = answers.find(({ req }) => !req.complete);
      const refuse = () => {
        // A response that has started cannot be replaced by another one.
        if (broken?.headersSent) return void socket.destroy();
        answerSocket(socket, new BridgeError(refusals.get(error.code ?? '') ?? 'bridge_malformed_request'));
      };
      afterThese(
        answers.filter((res) => res !== broken),
        guarded('client connection', refuse, () => socket.destroy()),
      );
    }),
  );
  server.on('checkExpectation', (req, res) => {
    if (owe(req, res) > MOST_PIPELINED) return void req.socket.destroy();
    answerPlainly(res, new BridgeError('bridge_expectation_failed'));
  });
  server.on('connect', (_req, socket) => {
    socket.on('error', () => socket.destroy());
    const refusal = new BridgeError('bridge_method_not_allowed');
    afterThese(openOf(socket), () => answerSocket(socket, refusal, ['allow: GET, POST, DELETE']));
  });
  server.on('upgrade', (req, socket, head) => {
    // Node hands the socket over without an error listener; without one, a socket error would end the process.
    socket.on('error', () => socket.destroy());
    const take = guarded('upgrade', onUpgrade, () => socket.destroy());
    afterThese(openOf(socket), () => take(req, socket, head));
  });
  return server;
}

/**
 * Starts listening.
 *
 * @returns the bound address and a `close` function; rejects with the system's error when the address cannot be used
 */
export async function startListening(
  server: Server,
  { host, port, exclusive = false }: { host: string; port: number; exclusive?: boolean },
): Promise<Listening> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host, port, exclusive }, () => {
      server.off('error', reject);
      resolve();
    });
  });
  // The server emits an error when it cannot accept a connection, usually for lack of file descriptors.
  server.on('error', (error) => reportFault(error, 'listener'));
  const bound = server.address() as AddressInfo;
  const shown = bound.family === 'IPv6' ? `[${bound.address}]` : bound.address;
  return {
    server,
    url: `http://${shown}:${bound.port}`,
    port: bound.port,
    close: (graceMs) =>
      new Promise((resolve) => {
        const force = setTimeout(() => server.closeAllConnections(), graceMs);
        server.close(() => {
          clearTimeout(force);
          resolve();
        });
        server.closeIdleConnections();
      }),
  };
}

/**
 * Creates a server for an app and starts listening. Rejects with the system's error when the address cannot be used.
 */
export function listen(
  app: App,
  address: { host: string; port: number },
  onUpgrade: UpgradeListener = refuseUpgrade,
  options: ServerOptions = {},
): Promise<Listening> {
  // Longer than the 60 s for which common balancers keep idle connections, so that the balancer closes first.
  return startListening(createHttpServer(app, { keepAliveTimeout: 75_000, ...options }, onUpgrade), address);
}
