import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import { type WebSocket, WebSocketServer } from 'ws';
import { type Edit, edited, render, type Tree } from './tree.ts';

/** One action of the upstream in a turn. Over HTTP a frame becomes an event. */
export interface Step {
  frame?: Tree;
  /** Text sent unchanged instead of a frame. */
  text?: string;
  /** Bytes in latin1: a binary message, or raw bytes in an event stream. */
  binary?: string;
  /** Bytes in latin1, written below the WebSocket protocol. */
  wire?: string;
  pause?: number;
  close?: number;
  reason?: string;
  reset?: boolean;
  ping?: boolean;
  edits?: Partial<Edit>[];
}

/** Behaviour of the upstream for one case. `@@` in its texts is replaced by a name unique to the turn. */
export interface Script {
  /** Answer to the upgrade instead of 101. */
  upgrade?: Refusal;
  /** Header lines of the 101 answer. */
  handshake?: string[];
  /** Answer to an HTTP request instead of the steps. */
  http?: Refusal;
  /** Headers of the streamed HTTP answer. */
  headers?: Record<string, string>;
  steps?: Step[];
  /** HTTP: sizes of the chunks in which the stream is written. */
  pieces?: number[];
  /** HTTP: line terminator. */
  newline?: string;
}

export interface Refusal {
  status?: number;
  headers?: Record<string, string>;
  /** JSON, or text with edits. */
  body?: Tree;
  text?: string;
  /** Disconnects instead of answering, before or after the head. */
  reset?: boolean;
  /** Echoes the credential it received, as providers do in a 401. */
  echo?: boolean;
}

export interface Upstream {
  readonly url: string;
  /** Plays the script for the turns of that thread until `calm`. */
  play(thread: string, script: Script): void;
  calm(thread: string): void;
  /** Returns the number of open connections. */
  connections(): number;
  close(): Promise<void>;
}

/** Error code that only this upstream uses, to distinguish its refusals from the bridge's. */
export const UPSTREAM_CODE = 'fuzz_upstream';

const usual: Step[] = [
  {
    frame: {
      type: 'response.created',
      response: { id: 'resp_@@', object: 'response', model: 'm', status: 'in_progress', output: [] },
    },
  },
  { frame: { type: 'response.output_item.done', output_index: 0, item: messageOf('ok') } },
  {
    frame: {
      type: 'response.completed',
      response: { id: 'resp_@@', object: 'response', model: 'm', status: 'completed', output: [messageOf('ok')] },
    },
  },
];

export function messageOf(text: string): Tree {
  return {
    id: 'msg_@@',
    type: 'message',
    role: 'assistant',
    status: 'completed',
    content: [{ type: 'output_text', text, annotations: [] }],
  };
}

/** Starts the scripted upstream on loopback. */
export async function startUpstream(): Promise<Upstream> {
  const scripts = new Map<string, Script>();
  const sockets = new Set<Socket>();
  let turns = 0;

  const scriptOf = (request: IncomingMessage): Script | undefined => {
    const thread = request.headers['thread-id'];
    return typeof thread === 'string' ? scripts.get(thread) : undefined;
  };
  const textOf = ({ frame, text }: Step, name: string): string | null =>
    frame !== undefined
      ? render(frame).replaceAll('@@', name)
      : text !== undefined
        ? String(text).replaceAll('@@', name)
        : null;

  const refuse = (refusal: Refusal, request: IncomingMessage): string => {
    const { status = 400, headers, body, text } = refusal;
    const echo = refusal.echo ? `Incorrect API key provided: ${request.headers.authorization ?? ''}` : null;
    const content = echo
      ? JSON.stringify({
          error: { message: echo, type: 'invalid_request_error', code: 'invalid_api_key', param: null },
        })
      : body === undefined
        ? String(text ?? '')
        : render(body);
    const lines = Object.entries(headers ?? {}).map(([name, value]) => `${name}: ${value}`);
    return `HTTP/1.1 ${status} X\r\n${lines.map((line) => `${line}\r\n`).join('')}content-length: ${Buffer.byteLength(content)}\r\nconnection: close\r\n\r\n${content}`;
  };

  async function overWebSocket(socket: WebSocket, raw: Duplex, script: Script | undefined): Promise<void> {
    const name = String((turns += 1));
    for (const step of script?.steps ?? usual) {
      if (socket.readyState !== socket.OPEN) return;
      const text = textOf(step, name);
      if (step.pause !== undefined) await pause(Math.min(3_000, Number(step.pause) || 0));
      if (step.ping) socket.ping();
      if (text !== null) {
        const bytes = step.edits ? edited(Buffer.from(text, 'utf8'), step.edits) : Buffer.from(text, 'utf8');
        socket.send(bytes, { binary: false });
      }
      if (step.binary !== undefined) socket.send(Buffer.from(String(step.binary), 'latin1'), { binary: true });
      if (step.wire !== undefined) raw.write(Buffer.from(String(step.wire), 'latin1'));
      if (step.reset) return void (raw as Socket).resetAndDestroy();
      if (step.close !== undefined) return closeWith(socket, raw, Number(step.close), String(step.reason ?? ''));
    }
  }

  async function overHttp(response: ServerResponse, script: Script | undefined): Promise<void> {
    const name = String((turns += 1));
    const newline = script?.newline ?? '\n';
    const pieces = script?.pieces?.map((size) => Math.max(1, Number(size) || 1)) ?? [];
    let written = 0;
    const write = async (bytes: Buffer) => {
      for (let at = 0; at < bytes.length && !response.destroyed; ) {
        const size = pieces.length > 0 ? pieces[written++ % pieces.length]! : bytes.length;
        response.write(bytes.subarray(at, at + size));
        at += size;
        if (at < bytes.length) await new Promise(setImmediate);
      }
    };
    try {
      response.writeHead(200, { 'content-type': 'text/event-stream', ...script?.headers });
    } catch {
      return void response.destroy();
    }
    for (const step of script?.steps ?? usual) {
      if (response.destroyed) return;
      const text = textOf(step, name);
      if (step.pause !== undefined) await pause(Math.min(3_000, Number(step.pause) || 0));
      if (text !== null) {
        const bytes = step.edits ? edited(Buffer.from(text, 'utf8'), step.edits) : Buffer.from(text, 'utf8');
        await write(Buffer.concat([Buffer.from('data: '), bytes, Buffer.from(newline + newline)]));
      }
      for (const bytes of [step.binary, step.wire])
        if (bytes !== undefined) await write(Buffer.from(String(bytes), 'latin1'));
      if (step.reset) return void response.socket?.resetAndDestroy();
      if (step.close !== undefined) break;
    }
    response.end();
  }

  const server = createServer(async (request, response) => {
    response.on('error', () => {});
    request.on('error', () => {});
    try {
      for await (const _chunk of request);
    } catch {
      return;
    }
    const script = scriptOf(request);
    const turn = request.method === 'POST' && /\/responses(?:\?|$)/.test(request.url ?? '');
    if (!turn) {
      response.writeHead(404, { 'content-type': 'application/json' });
      return void response.end(
        JSON.stringify({
          error: { message: 'No such thing.', type: 'invalid_request_error', code: UPSTREAM_CODE, param: null },
        }),
      );
    }
    if (script?.http) {
      if (script.http.reset) return void request.socket.resetAndDestroy();
      request.socket.write(refuse(script.http, request));
      return void request.socket.end();
    }
    await overHttp(response, script);
  });
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
  });
  const upgrader = new WebSocketServer({ noServer: true, maxPayload: 64 * 1024 * 1024 });
  upgrader.on('headers', (lines: string[], request: IncomingMessage) =>
    lines.push(...(scriptOf(request)?.handshake ?? [])),
  );
  server.on('upgrade', (request, raw, head) => {
    raw.on('error', () => {});
    const refusal = scriptOf(request)?.upgrade;
    if (refusal) {
      if (refusal.reset) return void (raw as Socket).resetAndDestroy();
      return void raw.end(refuse(refusal, request));
    }
    upgrader.handleUpgrade(request, raw, head, (socket) => {
      socket.on('error', () => {});
      socket.on('message', () => void overWebSocket(socket, raw, scriptOf(request)).catch(() => raw.destroy()));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    play: (thread, script) => void scripts.set(thread, script),
    calm: (thread) => void scripts.delete(thread),
    connections: () => sockets.size,
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Closes with any code, including those that the library refuses to send. */
function closeWith(socket: WebSocket, raw: Duplex, code: number, reason: string): void {
  const payload = Buffer.concat([Buffer.from([(code >> 8) & 0xff, code & 0xff]), Buffer.from(reason).subarray(0, 120)]);
  raw.write(Buffer.concat([Buffer.from([0x88, payload.length]), payload]));
  setTimeout(() => socket.terminate(), 50).unref();
}
