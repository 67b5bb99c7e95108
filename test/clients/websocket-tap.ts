import { createServer } from 'node:http';
import { WebSocket, WebSocketServer } from 'ws';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { isTerminal, type SocketEvent } from '../support/websocket.ts';

/** One `response.create` of the client and its answer. */
export interface TappedCreate {
  /** Number of the connection, from 1. */
  connection: number;
  items: number;
  anchored: boolean;
  warmUp: boolean;
  /** Deltas of texts that the client got. */
  deltas: number;
  /**
   * True if the digest that the model reports of its context equals that of what the client meant: the context of the
   * response that it names, and its input. Null without a digest.
   */
  exact: boolean | null;
  end: string | null;
  outcome: string | null;
}

/** A transparent WebSocket proxy between a client and the bridge. */
export interface WebSocketTap {
  url: string;
  readonly seen: readonly TappedCreate[];
  /** Requests over HTTP: there must be none. */
  readonly plain: readonly string[];
  close(): Promise<void>;
}

interface Context {
  items: readonly object[];
}

export async function startWebSocketTap(target: () => string): Promise<WebSocketTap> {
  const seen: TappedCreate[] = [];
  const plain: string[] = [];
  const contexts = new Map<string, Context>();
  let connections = 0;
  const server = createServer((req, res) => {
    plain.push(`${req.method} ${req.url}`);
    res.writeHead(404).end();
  });
  const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false });

  function relay(client: WebSocket, bridge: WebSocket): void {
    const connection = (connections += 1);
    let running: { create: TappedCreate; body: Record<string, unknown>; items: object[]; output: object[] } | null =
      null;
    client.on('message', (data) => {
      const text = data.toString();
      const { type: _type, ...body } = JSON.parse(text) as Record<string, unknown>;
      const input = body.input as object[];
      const anchor = body.previous_response_id as string | undefined;
      const create: TappedCreate = {
        connection,
        items: input.length,
        anchored: anchor !== undefined,
        warmUp: body.generate === false,
        deltas: 0,
        exact: null,
        end: null,
        outcome: null,
      };
      seen.push(create);
      const before = anchor === undefined ? [] : (contexts.get(anchor)?.items ?? [{ unknown: anchor }]);
      running = { create, body, items: [...before, ...input], output: [] };
      bridge.send(text);
    });
    bridge.on('message', (data) => {
      const text = data.toString();
      const event = JSON.parse(text) as SocketEvent & { item?: object };
      if (running) {
        const { create, body, items, output } = running;
        if (event.type === 'response.output_text.delta') create.deltas += 1;
        if (event.type === 'response.output_item.done') output.push(event.item!);
        if (event.type === 'response.metadata') create.outcome ??= event.headers?.['x-holdfast-outcome'] ?? null;
        if (isTerminal(event)) {
          create.end = event.type;
          if (event.type === 'response.completed') {
            const { instructions, tools, reasoning } = body;
            const reported = digestOf(event.response as never);
            if (reported !== null)
              create.exact = reported === expectedDigest({ items: items as never, instructions, tools, reasoning });
            contexts.set(event.response!.id, { items: [...items, ...output] });
          }
          running = null;
        }
      }
      if (client.readyState === WebSocket.OPEN) client.send(text);
    });
    client.on('close', () => bridge.terminate());
    bridge.on('close', (code) => {
      if (code >= 1000 && code < 1016 && ![1004, 1005, 1006, 1015].includes(code)) client.close(code);
      else client.terminate();
    });
  }

  server.on('upgrade', (req, socket, head) => {
    const headers = Object.fromEntries(
      Object.entries(req.headers).filter(([name]) => !/^(sec-websocket-|connection|upgrade|host)/.test(name)),
    ) as Record<string, string>;
    const bridge = new WebSocket(`${target().replace(/^http/, 'ws')}${req.url}`, { headers, perMessageDeflate: false });
    bridge.on('error', () => {});
    bridge.once('open', () => sockets.handleUpgrade(req, socket, head, (client) => relay(client, bridge)));
    bridge.once('unexpected-response', (_request, { statusCode }) =>
      socket.end(`HTTP/1.1 ${statusCode} Refused\r\nconnection: close\r\n\r\n`),
    );
    bridge.once(
      'close',
      () => bridge.readyState === WebSocket.CLOSED && sockets.clients.size === 0 && socket.destroy(),
    );
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  return {
    url: `http://127.0.0.1:${(server.address() as { port: number }).port}`,
    seen,
    plain,
    async close() {
      for (const client of sockets.clients) client.terminate();
      server.closeAllConnections();
      await new Promise<void>((closed) => server.close(() => closed()));
    },
  };
}
