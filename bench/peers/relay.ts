import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { WebSocket } from 'ws';

/**
 * The floor of the benchmark of peers: a relay from HTTP to WebSocket that keeps one socket for each conversation, reads no
 * body and no frame, and stores nothing. Its argument is the URL of the upstream; the first line on stdout is the port.
 */
const target = process.argv[2]!.replace(/^http/, 'ws');
/** Time after the end of a turn after which the socket of a silent conversation is closed, in milliseconds. */
const IDLE_MS = 20_000;

interface Line {
  ws: WebSocket;
  opened: Promise<void>;
  res: ServerResponse | null;
  /** Runs between turns only: it would end a turn that lasts longer. */
  idle: NodeJS.Timeout | undefined;
}
const lines = new Map<string, Line>();

function lineOf(name: string): Line {
  const known = lines.get(name);
  if (known && known.ws.readyState <= WebSocket.OPEN) return known;
  const ws = new WebSocket(`${target}/responses`, {
    perMessageDeflate: false,
    headers: { authorization: 'Bearer sk' },
  });
  const { promise: opened, resolve, reject } = Promise.withResolvers<void>();
  const line: Line = { ws, opened, res: null, idle: undefined };
  lines.set(name, line);
  ws.once('open', resolve);
  ws.on('error', reject);
  ws.on('close', () => {
    reject(new Error('closed'));
    line.res?.destroy();
    clearTimeout(line.idle);
    if (lines.get(name) === line) lines.delete(name);
  });
  opened.catch(() => {});
  ws.on('message', (data: Buffer) => {
    const frame = data.toString();
    const { res } = line;
    if (!res) return;
    const type = frame.slice(9, frame.indexOf('"', 9));
    const written = res.write(`event: ${type}\ndata: ${frame}\n\n`);
    if (type === 'response.completed') {
      line.res = null;
      // An ended response emits no `drain`.
      res.end();
      ws.resume();
      line.idle = setTimeout(() => ws.close(), IDLE_MS);
    } else if (!written && !ws.isPaused) {
      // Frames that were read before still arrive.
      ws.pause();
      res.once('drain', () => ws.resume());
    }
  });
  return line;
}

async function bodyOf(req: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of req) parts.push(part);
  return Buffer.concat(parts);
}

const server = createServer(async (req, res) => {
  res.on('error', () => {});
  try {
    if (req.method !== 'POST') return void res.end('ok');
    const body = await bodyOf(req);
    const line = lineOf(String(req.headers['thread-id']));
    clearTimeout(line.idle);
    await line.opened;
    res.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
    line.res = res;
    line.ws.send(Buffer.concat([Buffer.from('{"type":"response.create",'), body.subarray(1)]), { binary: false });
  } catch {
    res.destroy();
  }
});
server.keepAliveTimeout = 600_000;
server.listen(0, '127.0.0.1', () => process.stdout.write(`${(server.address() as AddressInfo).port}\n`));
process.stdin.resume().once('end', () => process.exit(0));
