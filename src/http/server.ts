import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerOptions,
  type ServerResponse,
} from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { type BridgeCode, BridgeError } from '../errors.ts';
import { guarded, reportFault } from '../faults.ts';
import { endWithJson, retryHeaders } from './envelope.ts';
import { ONE_HOST } from './front.ts';
import { answerSocket, refuseUpgrade } from './upgrade.ts';

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
 * Creates an HTTP server that no input of a peer can crash, and that answers requests its parser refuses with the error
 * envelope. It does not listen yet.
 *
 * @param onUpgrade receives requests for a WebSocket; other upgrade offers are ignored
 */
export function createHttpServer(app: RequestListener, options: ServerOptions, onUpgrade: UpgradeListener): Server {
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
    guarded('client connection', app, () => socket.destroy())(req, res);
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
  app: RequestListener,
  address: { host: string; port: number },
  onUpgrade: UpgradeListener = refuseUpgrade,
  options: ServerOptions = {},
): Promise<Listening> {
  // Longer than the 60 s for which common balancers keep idle connections, so that the balancer closes first.
  return startListening(createHttpServer(app, { keepAliveTimeout: 75_000, ...options }, onUpgrade), address);
}
