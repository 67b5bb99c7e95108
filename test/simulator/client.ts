import { once } from 'node:events';
import { WebSocket } from 'ws';
import type { Item } from '../../src/transcript/types.ts';

// biome-ignore lint/suspicious/noExplicitAny: frames are read as the untyped JSON they are
export type Frame = Record<string, any>;

const ENDS = new Set(['response.completed', 'response.incomplete', 'response.failed', 'error']);

interface Answered {
  frames: Frame[];
  last: Frame;
  /** Event types in order, with equal neighbours merged. */
  types: string[];
}

/** One raw WebSocket client. Frames are read in order, each once. */
export interface RawClient {
  ws: WebSocket;
  headers: Record<string, string | string[] | undefined>;
  closed: Promise<{ code: number; reason: string }>;
  next(): Promise<Frame>;
  send(body: Frame): void;
  /** Sends a create and reads frames until one ends it. */
  turn(body: Frame): Promise<Answered>;
  /** Reads frames until one ends a turn. */
  read(): Promise<Answered>;
}

export const folded = (frames: readonly Frame[]): string[] =>
  frames.map(({ type }) => String(type)).filter((type, index, all) => type !== all[index - 1]);

/** Opens a WebSocket; rejects with the HTTP status when the upgrade is refused. */
export async function connect(
  url: string,
  headers: Record<string, string> = { authorization: 'Bearer one' },
): Promise<RawClient> {
  const ws = new WebSocket(`${url.replace('http', 'ws')}/responses`, { headers });
  const frames: Frame[] = [];
  const readers: { resolve(frame: Frame): void; reject(error: Error): void }[] = [];
  let answered: Record<string, string | string[] | undefined> = {};
  ws.on('upgrade', (res) => {
    answered = res.headers;
  });
  const closed = new Promise<{ code: number; reason: string }>((resolve) =>
    ws.on('close', (code, reason) => {
      for (const reader of readers.splice(0)) reader.reject(new Error(`closed ${code}`));
      resolve({ code, reason: reason.toString() });
    }),
  );
  ws.on('message', (data) => {
    const text = data.toString();
    let frame: Frame;
    try {
      frame = JSON.parse(text);
    } catch {
      frame = { type: 'malformed', text };
    }
    const reader = readers.shift();
    if (reader) reader.resolve(frame);
    else frames.push(frame);
  });
  await new Promise<void>((resolve, reject) => {
    ws.on('open', () => resolve());
    ws.on('unexpected-response', (req, res) => {
      reject(new Error(`refused ${res.statusCode}`));
      req.destroy();
    });
    ws.on('error', reject);
  });

  const client: RawClient = {
    ws,
    headers: answered,
    closed,
    next() {
      const frame = frames.shift();
      if (frame) return Promise.resolve(frame);
      if (ws.readyState !== ws.OPEN) return Promise.reject(new Error('closed'));
      return new Promise((resolve, reject) => readers.push({ resolve, reject }));
    },
    send: (body) => ws.send(JSON.stringify({ type: 'response.create', model: 'gpt-sim', ...body })),
    turn(body) {
      client.send(body);
      return client.read();
    },
    async read() {
      const got: Frame[] = [];
      for (;;) {
        const frame = await client.next();
        got.push(frame);
        if (ENDS.has(frame.type)) return { frames: got, last: frame, types: folded(got) };
      }
    },
  };
  return client;
}

/** Waits until the socket is closed, so that a test leaves none behind. */
export async function hangUp(client: RawClient): Promise<void> {
  if (client.ws.readyState === client.ws.CLOSED) return;
  client.ws.terminate();
  await once(client.ws, 'close').catch(() => undefined);
}

export const user = (text: string): Item => ({
  type: 'message',
  role: 'user',
  content: [{ type: 'input_text', text }],
});
