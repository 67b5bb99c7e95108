import type { IncomingHttpHeaders } from 'node:http';
import { WebSocket } from 'ws';
import type { ResponseObject } from './client.ts';

/** An event as a client of the bridge's WebSocket gets it. */
export interface SocketEvent extends Record<string, unknown> {
  type: string;
  stream_id?: string;
  status?: number;
  response?: ResponseObject;
  error?: { code: string; message: string; param?: string | null; bridge_code?: string; type?: string };
  headers?: Record<string, string>;
}

const terminals = new Set(['response.completed', 'response.incomplete', 'response.failed', 'error']);
export const isTerminal = ({ type }: SocketEvent): boolean => terminals.has(type);

/** A WebSocket client of a bridge, which keeps all events that it has got. */
export interface SocketClient {
  readonly ws: WebSocket;
  /** Headers of the answer to the upgrade. */
  readonly upgrade: IncomingHttpHeaders;
  /** All events so far, in order. */
  readonly events: SocketEvent[];
  /** Code and reason of the close; resolves when the connection is closed. */
  readonly closed: Promise<{ code: number; reason: string }>;
  send(event: object | string): void;
  /** Resolves with the next event that was not returned yet and fulfils the condition; rejects when the connection is closed first. */
  next(wanted?: (event: SocketEvent) => boolean): Promise<SocketEvent>;
  /** Sends a `response.create` and returns the events of its lane up to the terminal one. */
  create(body: object): Promise<SocketEvent[]>;
  close(): void;
  [Symbol.dispose](): void;
}

/** Connects to the responses of a bridge. Rejects with the status and body of a refusal. */
export async function connectSocket(
  url: string,
  more: Record<string, string> = {},
  path = '/v1/responses',
): Promise<SocketClient> {
  const ws = new WebSocket(`${url.replace(/^http/, 'ws')}${path}`, {
    headers: { authorization: 'Bearer sk-test', ...more },
    perMessageDeflate: false,
  });
  const events: SocketEvent[] = [];
  const unread: SocketEvent[] = [];
  const sleepers: (() => void)[] = [];
  const wake = () => {
    for (const go of sleepers.splice(0)) go();
  };
  let over: { code: number; reason: string } | null = null;
  const { promise: closed, resolve: end } = Promise.withResolvers<{ code: number; reason: string }>();
  ws.on('message', (data: Buffer) => {
    const event = JSON.parse(data.toString()) as SocketEvent;
    events.push(event);
    unread.push(event);
    wake();
  });
  ws.on('close', (code, reason) => {
    over = { code, reason: reason.toString() };
    end(over);
    wake();
  });
  let upgrade: IncomingHttpHeaders = {};
  ws.once('upgrade', ({ headers }) => {
    upgrade = headers;
  });
  await new Promise<void>((resolve, reject) => {
    ws.once('open', resolve);
    ws.once('error', reject);
    ws.once('unexpected-response', (_request, response) => {
      let text = '';
      response.on('data', (chunk) => (text += chunk));
      response.on('end', () => reject(new Error(`refused ${response.statusCode}: ${text}`)));
    });
  });
  ws.on('error', () => {});
  async function next(wanted: (event: SocketEvent) => boolean = () => true): Promise<SocketEvent> {
    for (;;) {
      const at = unread.findIndex(wanted);
      if (at >= 0) return unread.splice(at, 1)[0]!;
      if (over) throw new Error(`closed with ${over.code} ${over.reason}`);
      await new Promise<void>((go) => void sleepers.push(go));
    }
  }
  const send = (event: object | string) => ws.send(typeof event === 'string' ? event : JSON.stringify(event));
  return {
    ws,
    upgrade,
    events,
    closed,
    send,
    next,
    async create(body) {
      const lane = (body as { stream_id?: string }).stream_id;
      send({ type: 'response.create', ...body });
      const got: SocketEvent[] = [];
      do got.push(await next(({ stream_id }) => stream_id === lane));
      while (!isTerminal(got.at(-1)!));
      return got;
    },
    close: () => ws.close(),
    [Symbol.dispose]: () => ws.terminate(),
  };
}
