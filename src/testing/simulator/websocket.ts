import type { Socket } from 'node:net';
import type { WebSocket } from 'ws';
import { connectionLimitReached, type ErrorSpec, errorFrame, invalidRequest, Refusal } from './error-shapes.ts';
import { createLanes } from './lanes.ts';
import { createConnectionCache } from './provider.ts';
import { type Intake, openTurn, type TurnHost } from './turn.ts';
import type { SimulatedConnection } from './types.ts';
import type { Wire } from './wire.ts';

const STREAM_ID = /^[A-Za-z0-9_.-]{1,256}$/;

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
export function serveConnection(
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
    if (stream === undefined) return null;
    if (typeof stream !== 'string' || !STREAM_ID.test(stream))
      throw new Refusal(invalidRequest("Invalid 'stream_id'.", 'stream_id'));
    if (!lanes.admits(stream)) throw new Refusal(streamLimitReached);
    return stream;
  }

  function onFrame(text: string): void {
    const frame = readCreate(text);
    if (!frame) return;
    const { type: _type, stream_id, ...body } = frame;
    const lane = laneOf(stream_id);
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
