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
  /** e.g. `http://127.0.0.1:8787`. */
  url: string;
  port: number;
  /** Stops accepting; idle connections are closed, busy ones may end until `graceMs` is over. */
  close(graceMs: number): Promise<void>;
}

/** Takes an upgrade over, socket and all. */
export type UpgradeListener = (req: IncomingMessage, socket: Duplex, head: Buffer) => void;

const LIMITS: ServerOptions = {
  // A long answer is no slow request: only the time until the request was read is bounded.
  requestTimeout: 120_000,
  headersTimeout: 30_000,
  connectionsCheckingInterval: 5_000,
  // Request line and headers together, bytes.
  maxHeaderSize: 32_768,
  // Node's own refusal has no envelope.
  requireHostHeader: false,
  noDelay: true,
};

/** Requests of one connection that may be in hand at once. No client of this API pipelines. */
const MOST_PIPELINED = 32;

/** What the parser and its timers refuse, by the code of their error; all else is malformed. */
const refusals = new Map<string, BridgeCode>([
  ['HPE_HEADER_OVERFLOW', 'bridge_headers_too_large'],
  ['HPE_CHUNK_EXTENSIONS_OVERFLOW', 'bridge_body_too_large'],
  ['ERR_HTTP_REQUEST_TIMEOUT', 'bridge_request_timeout'],
]);

/** Every other protocol that a client offers to change to may be passed over, and the request is served as it is. */
const asksForWebSocket = ({ headers }: IncomingMessage) => /\bwebsocket\b/i.test(headers.upgrade ?? '');

/** A path, `*`, or an absolute URL of HTTP: routers find no path in one of another scheme. */
const isTarget = (target: string) =>
  target.startsWith('/') || target === '*' || (/^https?:\/\//i.test(target) && URL.canParse(target));

/** Answers a request that no app has seen. */
function answerPlainly(res: ServerResponse, error: BridgeError): void {
  res.statusCode = error.status;
  for (const [name, value] of Object.entries(retryHeaders(error))) res.setHeader(name, value);
  endWithJson(res, error.envelope());
}

/**
 * An HTTP server on which nothing that a peer sends ends the process, and which answers with the envelope whatever its
 * parser refuses. It does not listen yet.
 *
 * @param onUpgrade gets requests for a WebSocket; other upgrades are not taken up
 */
export function createHttpServer(app: RequestListener, options: ServerOptions, onUpgrade: UpgradeListener): Server {
  const server = createServer({ ...LIMITS, ...options, ...{ shouldUpgradeCallback: asksForWebSocket } });
  /** Answers that are not over, by the connection they are for, in the order of their requests. */
  const open = new WeakMap<Duplex, Set<ServerResponse>>();

  /** @returns how many answers of this connection are not over, this one included */
  function owe({ socket }: IncomingMessage, res: ServerResponse): number {
    const answers = open.get(socket) ?? new Set();
    open.set(socket, answers);
    answers.add(res);
    res.once('close', () => answers.delete(res));
    return answers.size;
  }

  /** What is written past HTTP's own queue waits for the answers to earlier requests: clients tell them apart by order. */
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
    // A router cannot read such a target, and so would not call anything that answers it.
    if (!isTarget(req.url ?? '')) return answerPlainly(res, new BridgeError('bridge_malformed_request'));
    guarded('client connection', app, () => socket.destroy())(req, res);
  });
  const refused = new WeakSet<Duplex>();
  server.on(
    'clientError',
    guarded('client connection', (error: NodeJS.ErrnoException, socket: Duplex) => {
      // The parser reports every further piece of what it has refused already.
      if (refused.has(socket)) return;
      refused.add(socket);
      if (error.code === 'ECONNRESET') return void socket.destroy();
      const answers = openOf(socket);
      // The one whose request was refused in the middle; what was refused before or after a request has none.
      const broken = answers.find(({ req }) => !req.complete);
      const refuse = () => {
        // Into an answer that has begun, no other can be written.
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
    // It is this listener's alone from here: without one of its own, an error of the socket ends the process.
    socket.on('error', () => socket.destroy());
    const take = guarded('upgrade', onUpgrade, () => socket.destroy());
    afterThese(openOf(socket), () => take(req, socket, head));
  });
  return server;
}

/** Starts listening. Rejects with the system's error when the address cannot be used. */
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
  // A connection that cannot be accepted, for want of descriptors above all, is an error of the server.
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

/** Serves an app. Rejects with the system's error when the address cannot be used. */
export function listen(
  app: RequestListener,
  address: { host: string; port: number },
  onUpgrade: UpgradeListener = refuseUpgrade,
  options: ServerOptions = {},
): Promise<Listening> {
  // Longer than the 60 s that common balancers keep idle connections, so that they close first.
  return startListening(createHttpServer(app, { keepAliveTimeout: 75_000, ...options }, onUpgrade), address);
}
