import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { type WebSocket, WebSocketServer } from 'ws';

export type Json = Record<string, unknown>;

/** One answer: its events as they were recorded. `hangUp`: the connection closes after them, as an HTTP answer does. */
export interface Play {
  events: readonly Json[];
  hangUp?: boolean;
}

/** A request that reached the player. */
export interface Received {
  /** Sequence number of the WebSocket; null over HTTP. */
  socket: number | null;
  bytes: number;
  body: Json;
}

/** An upstream that answers the requests of each credential with programmed answers, verbatim. */
export interface Player {
  /** Base URL for a bridge. */
  url: string;
  /** Sets the answers to a credential's requests, in order. */
  program(credential: string, plays: readonly Play[]): void;
  received(credential: string): readonly Received[];
  close(): Promise<void>;
}

/** Returns an event whose response names what the request continues, as every provider's does. */
function continuing(event: Json, { previous_response_id: anchor }: Json): Json {
  const { response } = event;
  if (typeof anchor !== 'string' || typeof response !== 'object' || response === null) return event;
  return { ...event, response: { ...response, previous_response_id: anchor } };
}

/**
 * Starts a player on loopback.
 *
 * @param webSocket false: refuses every upgrade, as an upstream without WebSocket does
 * @param signals frames sent on a WebSocket before the events of each answer
 */
export async function startPlayer({ webSocket = true, signals = [] as readonly Json[] } = {}): Promise<Player> {
  const programs = new Map<string, Play[]>();
  const received = new Map<string, Received[]>();
  const connections = new Set<Socket>();
  let sockets = 0;

  function take(request: IncomingMessage, text: string, socket: number | null): Play | null {
    const credential = String(request.headers.authorization);
    const { type: _, ...body } = JSON.parse(text) as Json;
    const log = received.get(credential) ?? [];
    received.set(credential, [...log, { socket, body, bytes: Buffer.byteLength(text) }]);
    const play = programs.get(credential)?.shift();
    return play ? { ...play, events: play.events.map((event) => continuing(event, body)) } : null;
  }
  const unprepared = { error: { message: 'Nothing is prepared for this request.', code: 'unprepared' } };

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let text = '';
    for await (const chunk of request.setEncoding('utf8')) text += chunk;
    const play = request.method === 'POST' ? take(request, text, null) : null;
    if (!play) return void response.writeHead(500).end(JSON.stringify(unprepared));
    response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
    for (const event of play.events) {
      const name = typeof event.type === 'string' ? `event: ${event.type}\n` : '';
      response.write(`${name}data: ${JSON.stringify(event)}\n\n`);
    }
    response.end();
  }

  function serve(ws: WebSocket, request: IncomingMessage): void {
    const socket = ++sockets;
    ws.on('error', () => undefined);
    ws.on('message', (data) => {
      const play = take(request, data.toString(), socket);
      if (!play) return ws.send(JSON.stringify({ type: 'error', status: 500, ...unprepared }));
      for (const event of [...signals, ...play.events]) ws.send(JSON.stringify(event));
      if (play.hangUp) ws.close(1000);
    });
  }

  const server = createServer((request, response) => void answer(request, response).catch(() => response.destroy()));
  const upgrader = new WebSocketServer({ noServer: true });
  server.on('connection', (socket) => {
    connections.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => connections.delete(socket));
  });
  server.on('upgrade', (request, socket, head) => {
    if (webSocket) return upgrader.handleUpgrade(request, socket, head, (ws) => serve(ws, request));
    socket.end('HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n');
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    program: (credential, plays) => void programs.set(credential, [...plays]),
    received: (credential) => received.get(credential) ?? [],
    close: () =>
      new Promise((closed) => {
        server.close(() => closed());
        for (const socket of connections) socket.destroy();
      }),
  };
}
