import { fork } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, request as httpRequest, type IncomingMessage } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { user } from '../test/support/messages.ts';
import { freePort, startWorker } from '../test/support/worker-process.ts';
import { percentile, show, thisMachine } from './machine.ts';

/**
 * Measures how long one large request delays others. Paced streams run through a worker while a hostile body arrives.
 * Reported with and without the body: the worst gap between two events of any stream, and the longest stall of the
 * worker's event loop. The upstream is a process of its own that counts the bytes of a request without parsing them, so
 * that a gap is attributable to the worker.
 */
const STREAMS = Number(process.env.BENCH_STREAMS ?? 32);
const EVENT_GAP_MS = 20;
const QUIET_MS = Number(process.env.BENCH_QUIET_MS ?? 3_000);
const REPEATS = Number(process.env.BENCH_REPEATS ?? 2);
/** Time after which an unanswered body is abandoned, in milliseconds. */
const GIVE_UP_MS = 60_000;
const ONLY = process.env.BENCH_ONLY;
const MB = 1_000_000;

/** Threshold in bytes: larger requests get a short answer, all others a paced answer without end. */
const PACED_BELOW = 65_536;

const outputItem = (id: string) => ({
  type: 'message',
  id: `msg_${id}`,
  role: 'assistant',
  status: 'completed',
  content: [{ type: 'output_text', text: 'noted', annotations: [] }],
});

// --- the upstream, in its own process ---

/** Sends the frames of an answer one by one. With `end` false it continues until the connection closes. */
function answer(id: string, paced: boolean, say: (frame: object) => void, done: () => void): () => void {
  const response = { id: `resp_${id}`, object: 'response', status: 'in_progress', model: 'm', output: [] as object[] };
  say({ type: 'response.created', response });
  say({ type: 'response.in_progress', response });
  if (!paced) {
    const item = outputItem(id);
    say({ type: 'response.output_item.done', output_index: 0, item });
    say({ type: 'response.completed', response: { ...response, status: 'completed', output: [item] } });
    done();
    return () => {};
  }
  const timer = setInterval(
    () => say({ type: 'response.output_text.delta', item_id: `msg_${id}`, output_index: 0, delta: 'word ' }),
    EVENT_GAP_MS,
  );
  return () => clearInterval(timer);
}

/** Implements the server side of one WebSocket: parses frame headers, skips payloads. */
function speakWebSocket(socket: Socket, key: string): void {
  const accept = createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: ${accept}\r\n\r\n`,
  );
  socket.setNoDelay(true);
  let header: Buffer = Buffer.alloc(0);
  let left = 0;
  let opcode = 0;
  let isLast = true;
  /** Bytes of the current message, summed over its fragments. */
  let size = 0;
  /** True after a large request: its continuation is small but must get a short answer too. */
  let large = false;
  let stop = () => {};
  const say = (frame: object) => {
    const payload = Buffer.from(JSON.stringify(frame));
    const head = payload.length < 126 ? Buffer.from([0x81, payload.length]) : Buffer.from([0x81, 126, 0, 0]);
    if (payload.length >= 126) head.writeUInt16BE(payload.length, 2);
    socket.write(Buffer.concat([head, payload]));
  };
  const ended = () => {
    if (opcode === 9) socket.write(Buffer.from([0x8a, 0]));
    if (opcode === 8) socket.end();
    if (opcode > 1 || !isLast) return;
    large ||= size >= PACED_BELOW;
    size = 0;
    stop = answer(next(), !large, say, () => {});
  };
  socket.on('data', (chunk: Buffer) => {
    let rest = chunk;
    while (rest.length > 0) {
      if (left === 0) {
        rest = Buffer.concat([header, rest]);
        const short = (rest[1] ?? 0) & 0x7f;
        const length = 6 + (short === 127 ? 8 : short === 126 ? 2 : 0);
        header = rest.length < length ? rest : Buffer.alloc(0);
        if (rest.length < length) return;
        opcode = rest[0]! & 0x0f;
        isLast = (rest[0]! & 0x80) !== 0;
        left = short === 127 ? Number(rest.readBigUInt64BE(2)) : short === 126 ? rest.readUInt16BE(2) : short;
        if (opcode <= 1) size += left;
        rest = rest.subarray(length);
      }
      const skipped = Math.min(left, rest.length);
      left -= skipped;
      rest = rest.subarray(skipped);
      if (left === 0) ended();
    }
  });
  socket.on('error', () => {});
  socket.on('close', () => stop());
}

let count = 0;
const next = () => `${process.pid}_${++count}`;

function serveUpstream(): void {
  const server = createServer((req, res) => {
    let size = 0;
    req.on('data', (chunk: Buffer) => (size += chunk.length));
    req.on('end', () => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      const say = (frame: object) =>
        void res.write(`event: ${(frame as { type: string }).type}\ndata: ${JSON.stringify(frame)}\n\n`);
      res.once(
        'close',
        answer(next(), size < PACED_BELOW, say, () => res.end()),
      );
    });
  });
  server.on('upgrade', (req, socket) => speakWebSocket(socket as Socket, req.headers['sec-websocket-key']!));
  server.listen(0, '127.0.0.1', () => process.send!((server.address() as AddressInfo).port));
  process.once('disconnect', () => process.exit(0));
}

// --- hostile bodies ---

/** Returns a history as agents produce it (prompts, calls, call outputs, answers) of about `bytes` bytes in total. */
function history(bytes: number): object[] {
  const items: object[] = [];
  const output = 'a line of what some tool printed, neither short nor long\n'.repeat(60);
  for (let size = 0, turn = 0; size < bytes; turn += 1, size += output.length + 600) {
    items.push(
      user(`step ${turn}`),
      { type: 'function_call', call_id: `call_${turn}`, name: 'shell', arguments: `{"command":["ls","${turn}"]}` },
      { type: 'function_call_output', call_id: `call_${turn}`, output: `${turn} ${output}` },
      { type: 'message', role: 'assistant', content: [{ type: 'output_text', text: `did step ${turn}` }] },
    );
  }
  return items;
}

const bodyOf = (fields: object) => Buffer.from(JSON.stringify({ model: 'm', stream: true, ...fields }));
/** Builds a body with `text` as the raw value of the member `name`. */
const raw = (name: string, text: string) => Buffer.from(`{"model":"m","stream":true,"${name}":${text}}`);
const listOf = (element: string, count: number) => `[${new Array(count).fill(element).join(',')}]`;

interface Hostile {
  name: string;
  body: Buffer;
  packed?: boolean;
}

function hostiles(): Hostile[] {
  const metadata = Array.from({ length: 2_000_000 }, (_, at) => `"k${at}":""`).join(',');
  const items = listOf('{"role":"user","content":"a"}', 900_000);
  const empty = listOf('[]', 9 * MB - 100);
  const long = JSON.stringify('x'.repeat(25 * MB));
  const past = history(10 * MB);
  // A turn returns the item that the upstream generated. Its id is ignored when items are compared.
  const continued = [...past, outputItem('any'), user('and now?')];
  return [
    { name: '2 M metadata keys', body: raw('metadata', `{${metadata}}`) },
    { name: '900 k items', body: raw('input', items) },
    { name: '9 M empty arrays', body: raw('input', `[{"role":"user","content":${empty}}]`) },
    { name: 'one string of 25 MB', body: raw('input', long) },
    { name: 'one string of 15 MB (a frame)', body: raw('input', JSON.stringify('x'.repeat(15 * MB))) },
    { name: 'nested 12 M deep', body: raw('input', `${'['.repeat(12 * MB)}${']'.repeat(12 * MB)}`) },
    { name: '10 MB history, new', body: bodyOf({ input: past }) },
    { name: '10 MB history, continued', body: bodyOf({ input: continued }) },
    { name: '10 MB history, gzip', body: gzipSync(bodyOf({ input: [user('zip'), ...past] })), packed: true },
    { name: '9 M empty arrays, gzip', body: gzipSync(raw('input', `[${empty}]`)), packed: true },
  ];
}

// --- clients ---

interface Answered {
  status: number;
  ms: number;
}

function send(port: number, path: string, { body, packed = false }: Hostile, headers = {}): Promise<Answered> {
  const startedAt = performance.now();
  return new Promise((resolve) => {
    const finish = (status: number) => resolve({ status, ms: performance.now() - startedAt });
    const req = httpRequest({
      port,
      path,
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        'content-length': body.length,
        authorization: 'Bearer sk-bench',
        ...(packed ? { 'content-encoding': 'gzip' } : {}),
        ...headers,
      },
    });
    req.on('response', (res) => res.resume().on('close', () => finish(res.statusCode ?? 0)));
    req.on('error', () => finish(0));
    req.setTimeout(GIVE_UP_MS, () => req.destroy());
    req.end(body);
  });
}

/** Runs one stream until it is ended; calls `gap` with the time between two events. */
function stream(port: number, at: number, gap: (ms: number) => void): Promise<() => void> {
  return new Promise((resolve, reject) => {
    const body = JSON.stringify({ model: 'm', stream: true, input: `stream ${at}` });
    const headers = {
      'content-type': 'application/json',
      authorization: 'Bearer sk-bench',
      'thread-id': `paced-${at}`,
    };
    const req = httpRequest({ port, path: '/v1/responses', method: 'POST', headers });
    req.on('error', reject);
    req.on('response', (res: IncomingMessage) => {
      let last = performance.now();
      res.on('error', () => {});
      res.on('data', () => {
        const now = performance.now();
        gap(now - last);
        last = now;
        resolve(() => req.destroy());
      });
    });
    req.end(body);
  });
}

/**
 * Preloaded into the worker. On each signal it writes the longest stall of the event loop since the previous signal, by
 * wall clock and by CPU time of the main thread. On a shared machine only the CPU time is attributable to the worker.
 */
const PROBE = `
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { writeFileSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';
if (isMainThread && process.env.BENCH_PROBE) {
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  const used = () => { const { user, system } = process.threadCpuUsage(); return (user + system) / 1000; };
  let last = used();
  let longest = 0;
  setInterval(() => { const now = used(); longest = Math.max(longest, now - last); last = now; }, 1);
  process.on('SIGUSR2', () => {
    writeFileSync(process.env.BENCH_PROBE, JSON.stringify({ clock: delay.max / 1e6, processor: longest }));
    delay.reset();
    longest = 0;
  });
}`;

interface Stall {
  clock: number;
  processor: number;
}

async function measure(): Promise<void> {
  const dataDir = await mkdtemp(join(tmpdir(), 'hf-stall-'));
  const probe = join(dataDir, 'loop-delay');
  const upstream = fork(import.meta.filename, ['upstream'], { stdio: 'inherit' });
  const upstreamPort = await new Promise<number>((resolve) => upstream.once('message', (at) => resolve(at as number)));
  const port = await freePort();
  const worker = await startWorker({
    PORT: String(port),
    HOLDFAST_DATA_DIR: dataDir,
    HOLDFAST_UPSTREAM_URL: `http://127.0.0.1:${upstreamPort}/v1`,
    HOLDFAST_LOG_LEVEL: process.env.BENCH_LOG ?? 'silent',
    NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(PROBE)}`,
    BENCH_PROBE: probe,
  });
  const stops: (() => void)[] = [];
  let gaps: number[] = [];
  const rows: object[] = [];

  /** Returns the longest stall of the worker's event loop since the previous call. */
  const loopStall = async (): Promise<Stall> => {
    await rm(probe, { force: true });
    process.kill(worker.pid, 'SIGUSR2');
    for (;;) {
      const text = await readFile(probe, 'utf8').catch(() => '');
      if (text !== '') return JSON.parse(text) as Stall;
      await pause(5);
    }
  };
  const window = async (name: string, run: () => Promise<Answered | null>) => {
    await loopStall();
    gaps = [];
    const got = await run();
    await pause(300);
    // The event loop answers after its stall has ended, and only then is the streams' gap complete.
    const stall = await loopStall();
    await pause(100);
    const worst = Math.max(...gaps);
    const answered = got ? { status: got.status, 'answered after': show(got.ms) } : {};
    const row = { body: name, 'worst gap': show(worst), 'p99 gap': show(percentile(gaps, 0.99)) };
    console.error(name, show(worst), show(stall.clock), show(stall.processor), got?.status ?? '', show(got?.ms ?? 0));
    const stalls = { 'loop stall': show(stall.clock), 'of it processor': show(stall.processor) };
    rows.push({ ...row, ...stalls, ...answered });
  };

  try {
    for (let at = 0; at < STREAMS; at += 1) stops.push(await stream(port, at, (ms) => gaps.push(ms)));
    await pause(2_000);
    const bodies = hostiles();
    await pause(500);
    const quiet = (name: string) => window(name, () => pause(QUIET_MS).then(() => null));
    await quiet('none, before');
    for (const hostile of bodies) {
      if (ONLY && !hostile.name.includes(ONLY)) continue;
      for (let round = 1; round <= REPEATS; round += 1) {
        await window(`${hostile.name} (${round})`, () => send(port, '/v1/responses', hostile));
        await pause(300);
      }
    }
    await quiet('none, after');
  } finally {
    for (const stop of stops) stop();
    await worker.kill();
    upstream.kill();
    await rm(dataDir, { recursive: true, force: true });
  }
  console.log(`${thisMachine()}; ${STREAMS} streams, one event each ${EVENT_GAP_MS} ms`);
  console.table(rows);
}

if (process.argv[2] === 'upstream') serveUpstream();
else await measure();
