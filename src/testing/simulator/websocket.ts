import { type IncomingMessage, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { type WebSocket, WebSocketServer } from 'ws';
import {
  connectionLimitReached,
  type ErrorSpec,
  errorFrame,
  errorObject,
  invalidRequest,
  missingApiKey,
  Refusal,
  signalHeaders,
  type Wire,
} from './events.ts';
import { credentialOf, flatHeaders } from './http.ts';
import { createConnectionCache } from './provider.ts';
import { type Intake, openTurn, type TurnHost } from './turn.ts';
import type { SimulatedConnection, UpgradeRefusal } from './types.ts';

/** Starts a turn. It must call `free` once, when its lane may continue. */
type Start = (free: () => void) => void;

/**
 * Order of one connection's turns: first in, first out within a lane, and a limited number of simultaneous turns over
 * all lanes.
 */
interface Lanes {
  /** Returns false when the lane would exceed the number of named lanes. */
  admits(lane: string | null): boolean;
  /**
   * Returns the number of turns that must end before a new one of this lane starts; 0 means that it starts immediately.
   */
  waitingIn(lane: string | null): number;
  push(lane: string | null, start: Start): void;
}

/**
 * Creates the lanes of one connection.
 *
 * @param limits maximum number of named lanes, and of simultaneous turns
 */
export function createLanes(limits = { named: 32, inFlight: 16 }): Lanes {
  const queues = new Map<string | null, { busy: boolean; waiting: Start[] }>();
  let inFlight = 0;

  function startNext(): void {
    for (const queue of queues.values()) {
      if (inFlight >= limits.inFlight) return;
      if (queue.busy || queue.waiting.length === 0) continue;
      const start = queue.waiting.shift()!;
      queue.busy = true;
      inFlight += 1;
      let freed = false;
      start(() => {
        if (freed) return;
        freed = true;
        queue.busy = false;
        inFlight -= 1;
        startNext();
      });
    }
  }

  return {
    admits: (lane) => lane === null || queues.has(lane) || [...queues.keys()].filter(Boolean).length < limits.named,
    waitingIn(lane) {
      const queue = queues.get(lane);
      const ahead = queue ? queue.waiting.length + Number(queue.busy) : 0;
      return ahead > 0 ? ahead : Number(inFlight >= limits.inFlight);
    },
    push(lane, start) {
      const queue = queues.get(lane) ?? { busy: false, waiting: [] };
      queues.set(lane, queue);
      queue.waiting.push(start);
      startNext();
    },
  };
}

const STREAM_ID = /^[A-Za-z0-9_.-]{1,256}$/;

const invalidStreamId: ErrorSpec = {
  status: 400,
  code: 'invalid_stream_id',
  message: "Invalid 'stream_id'.",
  param: 'stream_id',
};

const streamLimitReached: ErrorSpec = {
  status: 400,
  code: 'websocket_stream_limit_reached',
  message: 'Too many named streams on this connection.',
  param: 'stream_id',
};

/**
 * Returns the answer to a steering request, which is never executed. The `steered` fault produces the sequence that
 * real steering would lead to.
 */
function steerFailed(frame: Record<string, unknown>): Record<string, unknown> {
  const error = { code: 'steering_not_supported', message: 'This model does not support steering.' };
  const steer = { input: frame.input, previous_response_id: frame.previous_response_id };
  return { type: 'response.steer.failed', error, steer, sequence_number: 0 };
}

/** Serves one accepted WebSocket, with its lanes, its response cache and its age limit. */
function serveConnection(
  host: TurnHost,
  ws: WebSocket,
  socket: Socket,
  facts: { id: number; headers: Record<string, string>; credential: string },
): SimulatedConnection {
  const { id, headers, credential } = facts;
  const cache = createConnectionCache();
  const lanes = createLanes();
  const gone = new AbortController();
  const waiting = { create: new Set<() => void>(), created: new Set<() => void>() };
  let creates = 0;
  let expired = false;

  const write = (frame: Record<string, unknown> | string): void => {
    if (ws.readyState === ws.OPEN) ws.send(typeof frame === 'string' ? frame : JSON.stringify(frame));
  };
  const wake = (what: 'create' | 'created'): boolean => {
    const woken = [...waiting[what]];
    waiting[what].clear();
    for (const go of woken) go();
    return woken.length > 0;
  };

  function wireOf(lane: string | null): Wire {
    const tag = (frame: Record<string, unknown>) => (lane === null ? frame : { ...frame, stream_id: lane });
    return {
      transport: 'websocket',
      gone: gone.signal,
      send(event) {
        write(tag(event));
        if (event.type === 'response.created' && wake('created')) return new Promise((go) => setImmediate(go));
      },
      raw: write,
      refuse: (error, shape, sequence) => write(tag(errorFrame(error, shape, sequence))),
      respond: (status, extra, body) => write(tag({ type: 'error', status, headers: extra, ...(body as object) })),
      close: (code, reason) => ws.close(code, reason),
      reset: () => void socket.resetAndDestroy(),
      finish: () => undefined,
      next: (what) => new Promise((resolve) => void waiting[what].add(resolve)),
    };
  }

  function expire(): void {
    if (expired || ws.readyState !== ws.OPEN) return;
    expired = true;
    write(errorFrame(connectionLimitReached, 'nested', 0));
    ws.close(1000, connectionLimitReached.code!);
  }

  /** Parses a frame. Frames other than creates are answered here, and null is returned. */
  function readCreate(text: string): Record<string, unknown> | null {
    let frame: Record<string, unknown> | null = null;
    try {
      frame = JSON.parse(text);
    } catch {
      // Invalid JSON is refused below like any other invalid frame.
    }
    if (frame?.type === 'response.create') return frame;
    host.journal.record('frame', { connection: id, text });
    if (frame?.type !== 'response.steer')
      throw new Refusal(invalidRequest(`Invalid event type: '${String(frame?.type)}'.`, 'type'));
    write(steerFailed(frame));
    return null;
  }

  function laneOf(stream: unknown): string | null {
    const { lanes: known = 'known' } = host.options;
    if (stream === undefined || known === 'ignored') return null;
    if (known === 'refused')
      throw new Refusal({ status: 400, code: 'unknown_parameter', message: "Unknown parameter: 'stream_id'." });
    if (typeof stream !== 'string' || !STREAM_ID.test(stream)) throw new Refusal(invalidStreamId);
    return stream;
  }

  function onFrame(text: string): void {
    const frame = readCreate(text);
    if (!frame) return;
    const { type: _type, stream_id, ...body } = frame;
    const lane = laneOf(stream_id);
    if (!lanes.admits(lane)) return wireOf(lane).refuse(streamLimitReached, 'nested', 0);
    if (body.background === true)
      throw new Refusal(invalidRequest('background is not supported over WebSocket.', 'background'));
    const intake: Intake = {
      wire: wireOf(lane),
      body,
      bytes: Buffer.byteLength(text),
      headers,
      credential,
      connection: id,
      nthOnConnection: ++creates,
      lane,
      cache,
      queuedBehind: lanes.waitingIn(lane),
    };
    const turn = openTurn(host, intake);
    lanes.push(lane, (free) => void turn.run(free));
    wake('create');
  }

  const limit = setTimeout(expire, host.options.connectionLimitMs ?? 3_600_000);
  limit.unref();
  ws.on('message', (data) => {
    try {
      onFrame(data.toString());
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      write(errorFrame(error.error, 'nested', 0));
    }
  });
  ws.on('error', () => undefined);
  ws.on('close', (code, reason) => {
    clearTimeout(limit);
    gone.abort();
    cache.clear();
    host.journal.record('closed', { connection: id, code, reason: reason.toString() });
  });

  return {
    id,
    headers,
    get open() {
      return ws.readyState === ws.OPEN;
    },
    get cachedResponseIds() {
      return cache.ids();
    },
    close: (code = 1000, reason = '') => ws.close(code, reason),
    reset: () => void socket.resetAndDestroy(),
    send: write,
    expire,
    forget: () => cache.clear(),
  };
}

/** Answers an upgrade with a plain HTTP response and ends the connection. */
function refuseUpgrade(socket: Socket, { status, headers = {}, body }: UpgradeRefusal): void {
  const text =
    typeof body === 'string'
      ? body
      : JSON.stringify(body ?? { error: errorObject({ status, message: `Upgrade refused with ${status}.` }) });
  const lines = Object.entries({
    'content-type': 'application/json',
    'content-length': String(Buffer.byteLength(text)),
    connection: 'close',
    ...headers,
  }).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? 'Refused'}\r\n${lines.join('')}\r\n${text}`);
}

const PATH = /^\/(?:v1|backend-api\/codex)\/responses$/;

/**
 * Creates the handler of upgrade requests. Scripted and chaos refusals come first, then those due to the options and
 * the credential.
 */
export function createUpgradeHandler(
  host: TurnHost,
  connections: SimulatedConnection[],
): (req: IncomingMessage, socket: Socket, head: Buffer) => void {
  const { options, journal } = host;
  const server = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    maxPayload: options.maxFrameBytes ?? 16 * 1024 * 1024,
    clientTracking: false,
  });
  const extraHeaders = new WeakMap<IncomingMessage, Record<string, string>>();
  server.on('headers', (lines, req) => {
    for (const [name, value] of Object.entries(extraHeaders.get(req) ?? {})) lines.push(`${name}: ${value}`);
  });
  let upgrades = 0;

  function standingRefusal(path: string, credential: string | null): UpgradeRefusal | null {
    const { webSocket = 'on' } = options;
    if (!PATH.test(path)) return { status: 404 };
    if (credential === null) return { status: 401, body: { error: errorObject(missingApiKey) } };
    if (webSocket === 'on') return null;
    return typeof webSocket === 'number' ? { status: webSocket } : webSocket;
  }

  return (req, socket, head) => {
    socket.on('error', () => undefined);
    const headers = flatHeaders(req);
    const upgrade = ++upgrades;
    const entry = (outcome: 'accepted' | 'hung' | 'reset' | number, connection: number | null = null) =>
      journal.record('upgrade', { upgrade, headers, outcome, connection });
    const ruled = host.rules.forUpgrade({ upgrade, headers });
    const fault = ruled?.fault ?? host.chaos()?.forUpgrade(upgrade) ?? null;
    if (fault) journal.record('fault', { rule: ruled?.rule ?? 0, turn: null, connection: null, fault });
    if (fault?.kind === 'hang') return void entry('hung');
    if (fault?.kind === 'reset') {
      entry('reset');
      return void socket.resetAndDestroy();
    }
    if (fault?.kind !== 'hold') return proceed();
    const gone = new AbortController();
    socket.once('close', () => gone.abort());
    void ruled?.gate.wait(gone.signal).then(() => gone.signal.aborted || proceed());

    function proceed(): void {
      const path = new URL(req.url ?? '/', 'http://simulator').pathname;
      const credential = credentialOf(host, headers);
      const refusal = fault?.kind === 'refuse' ? fault : standingRefusal(path, credential);
      if (refusal) {
        entry(refusal.status);
        return refuseUpgrade(socket, refusal);
      }

      const id = connections.length + 1;
      const turnState = options.turnState === 'handshake' || options.turnState === 'both';
      extraHeaders.set(req, {
        ...signalHeaders(),
        ...(turnState ? { 'x-codex-turn-state': `ts-h${id}` } : {}),
        ...(fault?.kind === 'headers' ? fault.headers : {}),
      });
      server.handleUpgrade(req, socket, head, (ws: WebSocket) => {
        entry('accepted', id);
        connections.push(serveConnection(host, ws, socket, { id, headers, credential: credential! }));
        journal.record('opened', { connection: id, headers });
        if (fault?.kind === 'accept_then_close') ws.close(fault.code ?? 1011, fault.reason ?? '');
        if (fault?.kind === 'accept_then_reset') socket.resetAndDestroy();
      });
    }
  };
}
