import { createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { WebSocket, WebSocketServer } from 'ws';
import type { SocketEvent } from '../support/websocket.ts';
import { createMeanings, type Meanings } from './meaning.ts';

/** One request for a response, and its answer as the client got it. */
export interface Recorded {
  readonly transport: 'HTTP' | 'WebSocket';
  readonly body: Record<string, unknown>;
  /** Outputs of tools among its items. */
  readonly toolOutputs: number;
  /** Status of an HTTP answer; 101 over WebSocket. */
  status: number;
  /** Type of the terminal event, or `response.<status>` of a JSON answer. Null when the connection ended before it. */
  end: string | null;
  /** Code of the error with which it ended. */
  code: string | null;
  /** Deltas of texts that the client got. */
  deltas: number;
  /** True if the model was given the context that the client meant; null without a digest in the answer. */
  exact: boolean | null;
}

/** A transparent proxy in front of the workers: a balancer that also notes what it passes. */
export interface Recorder {
  readonly url: string;
  readonly seen: readonly Recorded[];
  /** Paths of all other requests, with their methods. */
  readonly others: readonly string[];
  /** Forgets everything that was noted. */
  clear(): void;
  close(): Promise<void>;
}

interface Event {
  type: string;
  item?: Record<string, unknown>;
  response?: { id?: string; output?: Record<string, unknown>[]; status?: string; error?: { code?: string } };
  error?: { code?: string };
  code?: string;
}

const terminals = new Set(['response.completed', 'response.incomplete', 'response.failed', 'error']);

/** Notes a request, and returns the function that takes the events of its answer. */
function note(seen: Recorded[], meanings: Meanings, transport: Recorded['transport'], body: Record<string, unknown>) {
  const input = Array.isArray(body.input) ? (body.input as { type?: string }[]) : [];
  const one: Recorded = {
    transport,
    body,
    toolOutputs: input.filter(({ type }) => type?.endsWith('_call_output')).length,
    status: 101,
    end: null,
    code: null,
    deltas: 0,
    exact: null,
  };
  const items = meanings.of(body);
  const output: Record<string, unknown>[] = [];
  seen.push(one);
  const take = (event: Event) => {
    if (event.type === 'response.output_text.delta') one.deltas += 1;
    if (event.type === 'response.output_item.done') output.push(event.item!);
    if (!terminals.has(event.type)) return;
    one.end = event.type;
    one.code = event.response?.error?.code ?? event.error?.code ?? event.code ?? null;
    if (event.type === 'response.completed') one.exact = meanings.answered(body, items, event.response!, output);
  };
  const takeWhole = (text: string) => {
    const response = JSON.parse(text) as NonNullable<Event['response']>;
    output.push(...(response.output ?? []));
    take({ type: `response.${response.status ?? 'failed'}`, response });
  };
  return { one, take, takeWhole };
}

/**
 * Starts the recorder.
 *
 * @param targets returns the base URLs of the workers that run; connections are spread over them, and a worker that refuses one
 *   is skipped
 */
export async function startRecorder(targets: () => readonly string[]): Promise<Recorder> {
  const seen: Recorded[] = [];
  const others: string[] = [];
  let meanings = createMeanings();
  let next = 0;

  async function answer(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of req) chunks.push(chunk as Buffer);
    const sent = Buffer.concat(chunks);
    const path = new URL(req.url!, 'http://recorder').pathname;
    const creates = req.method === 'POST' && path.endsWith('/responses');
    if (!creates) others.push(`${req.method} ${path}`);
    const noted = creates ? note(seen, meanings, 'HTTP', JSON.parse(sent.toString())) : null;

    const attempt = (left: number) => {
      const urls = targets();
      const onward = httpRequest(
        urls[next++ % urls.length] + req.url!,
        { method: req.method, headers: { ...req.headers, connection: 'close' }, agent: false },
        (got) => {
          res.writeHead(got.statusCode!, got.headers);
          if (noted) noted.one.status = got.statusCode!;
          const streamed = got.headers['content-type']?.startsWith('text/event-stream') ?? false;
          let text = '';
          got.setEncoding('utf8').on('data', (chunk: string) => {
            res.write(chunk);
            text += chunk;
            if (!noted || !streamed) return;
            const blocks = text.split('\n\n');
            text = blocks.pop()!;
            for (const block of blocks) {
              const data = /^data: (.*)$/m.exec(block)?.[1];
              if (data?.startsWith('{')) noted.take(JSON.parse(data));
            }
          });
          got.on('end', () => {
            if (noted && !streamed && got.statusCode === 200) noted.takeWhole(text);
            res.end();
          });
          got.on('error', () => res.destroy());
        },
      );
      onward.on('error', () => {
        if (res.headersSent || left === 0 || res.destroyed) res.destroy();
        else attempt(left - 1);
      });
      res.on('close', () => onward.destroy());
      onward.end(sent);
    };
    attempt(1);
  }

  const server = createServer((req, res) => void answer(req, res).catch(() => res.destroy()));
  const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false });

  function relay(client: WebSocket, worker: WebSocket): void {
    let running: ReturnType<typeof note> | null = null;
    client.on('message', (data) => {
      const text = data.toString();
      const { type, ...body } = JSON.parse(text) as Record<string, unknown>;
      if (type === 'response.create') running = note(seen, meanings, 'WebSocket', body);
      worker.send(text);
    });
    worker.on('message', (data) => {
      const text = data.toString();
      running?.take(JSON.parse(text) as SocketEvent as Event);
      if (client.readyState === WebSocket.OPEN) client.send(text);
    });
    client.on('error', () => {});
    client.on('close', () => worker.terminate());
    worker.on('close', (code) => {
      if (code >= 1000 && code < 1016 && ![1004, 1005, 1006, 1015].includes(code)) client.close(code);
      else client.terminate();
    });
  }

  function upgrade(req: IncomingMessage, socket: Duplex, head: Buffer, left: number): void {
    const urls = targets();
    const headers = Object.fromEntries(
      Object.entries(req.headers).filter(([name]) => !/^(sec-websocket-|connection|upgrade|host)/.test(name)),
    ) as Record<string, string>;
    const url = `${urls[next++ % urls.length]!.replace(/^http/, 'ws')}${req.url}`;
    const worker = new WebSocket(url, { headers, perMessageDeflate: false });
    let opened = false;
    worker.on('error', () => {
      if (opened) return;
      if (left > 0) upgrade(req, socket, head, left - 1);
      else socket.destroy();
    });
    worker.once('open', () => {
      opened = true;
      sockets.handleUpgrade(req, socket, head, (client) => relay(client, worker));
    });
    worker.once('unexpected-response', (_request, { statusCode }) => {
      opened = true;
      socket.end(`HTTP/1.1 ${statusCode} Refused\r\nconnection: close\r\n\r\n`);
    });
  }
  server.on('upgrade', (req, socket, head) => {
    socket.on('error', () => socket.destroy());
    upgrade(req, socket, head, 1);
  });

  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  return {
    url: `http://127.0.0.1:${(server.address() as { port: number }).port}`,
    seen,
    others,
    clear() {
      seen.length = 0;
      others.length = 0;
      meanings = createMeanings();
    },
    async close() {
      for (const client of sockets.clients) client.terminate();
      server.closeAllConnections();
      await new Promise<void>((closed) => server.close(() => closed()));
    },
  };
}
