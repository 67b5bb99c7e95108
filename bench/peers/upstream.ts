import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { type WebSocket, WebSocketServer } from 'ws';
import type { Script } from './load.ts';

/**
 * The provider of the benchmark of peers, as a process of its own: the same answer over HTTP and WebSocket, as its script
 * says, at the least cost. Each delta holds the time of its sending in microseconds of the system's monotonic clock, which
 * all processes of a machine share. `POST /__script` sets the script; the first line on stdout is the port.
 */
let script: Script = { reply: 'text', deltas: 3, gapMs: 0, echo: '"instructions":null,"tools":[]', reasoningBytes: 0 };
let answers = 0;

/** Frames written before the event loop runs again, where the deltas are not paced. */
const BATCH = 64;

const microseconds = () => Number(process.hrtime.bigint() / 1_000n);
/** Letters that a reasoning item consists of; compression must not make it small. */
const sealed = Array.from({ length: 65_536 }, () => Math.floor(Math.random() * 36).toString(36)).join('');

interface Sink {
  /** Sends frames as one write. Returns false when the reader is behind. */
  send(frames: readonly string[]): boolean;
  drained(): Promise<void>;
  readonly gone: boolean;
  end(): void;
}

function responseText(id: string, anchor: string | null, status: string, output: string, usage: string): string {
  const at = Math.floor(Date.now() / 1_000);
  return (
    `{"id":"${id}","object":"response","created_at":${at},"status":"${status}","background":false,"completed_at":null,` +
    `"error":null,"incomplete_details":null,${script.echo},"max_output_tokens":null,"model":"gpt-5.5","output":[${output}],` +
    `"parallel_tool_calls":true,"previous_response_id":${JSON.stringify(anchor)},"reasoning":{"effort":"medium","summary":null},` +
    `"service_tier":"default","store":false,"temperature":1,"text":{"format":{"type":"text"}},"tool_choice":"auto",` +
    `"top_p":1,"truncation":"disabled","usage":${usage},"user":null,"metadata":{}}`
  );
}

const USAGE =
  '{"input_tokens":100,"input_tokens_details":{"cached_tokens":0},"output_tokens":10,' +
  '"output_tokens_details":{"reasoning_tokens":0},"total_tokens":110}';

/**
 * Returns the frames before the deltas, one delta, and the frames after them.
 *
 * @param anchor response that the request continues; each response names it
 */
function framesOf(anchor: string | null) {
  answers += 1;
  const n = answers.toString(16).padStart(32, '0');
  const id = `resp_${n}`;
  let sequence = 0;
  const frame = (type: string, rest: string) => `{"type":"${type}",${rest},"sequence_number":${sequence++}}`;
  const begin = [
    frame('response.created', `"response":${responseText(id, anchor, 'in_progress', '', 'null')}`),
    frame('response.in_progress', `"response":${responseText(id, anchor, 'in_progress', '', 'null')}`),
  ];
  const done: string[] = [];
  if (script.reasoningBytes > 0) {
    const from = (answers * 97) % (sealed.length - script.reasoningBytes);
    const reasoning = (content: string) =>
      `{"id":"rs_${n}","type":"reasoning","summary":[],"encrypted_content":"${content}"}`;
    const item = reasoning(`gAAAAAB${n}${sealed.slice(from, from + script.reasoningBytes)}`);
    begin.push(
      frame('response.output_item.added', `"output_index":0,"item":${reasoning(`gAAAAAB${n}`)}`),
      frame('response.output_item.done', `"output_index":0,"item":${item}`),
    );
    done.push(item);
  }
  const index = done.length;
  const isCall = script.reply === 'call';
  const itemId = `${isCall ? 'fc' : 'msg'}_${n}`;
  const call = (text: string, status: string) =>
    `{"id":"${itemId}","type":"function_call","status":"${status}","name":"exec_command","call_id":"call_${n}","arguments":"${text}"}`;
  const part = (text: string) => `{"type":"output_text","text":"${text}","annotations":[],"logprobs":[]}`;
  const message = (content: string, status: string) =>
    `{"id":"${itemId}","type":"message","status":"${status}","role":"assistant","content":[${content}]}`;
  const text = isCall
    ? `{\\"cmd\\":\\"sed -n '1,200p' src/file-${answers}.ts\\",\\"timeout_ms\\":10000}`
    : `The answer number ${answers}.`;
  const at = `"item_id":"${itemId}","output_index":${index}`;
  const item = isCall ? call(text, 'completed') : message(part(text), 'completed');
  begin.push(
    frame(
      'response.output_item.added',
      `"output_index":${index},"item":${isCall ? call('', 'in_progress') : message('', 'in_progress')}`,
    ),
  );
  if (!isCall) begin.push(frame('response.content_part.added', `${at},"content_index":0,"part":${part('')}`));
  done.push(item);
  const [kind, extra] = isCall
    ? ['response.function_call_arguments', '']
    : ['response.output_text', ',"content_index":0,"logprobs":[],"obfuscation":"aYq1xW2mZ8"'];
  const first = `{"type":"${kind}.delta",${at}${extra},"delta":"T`;
  const delta = (now: number) => `${first}${now} ","sequence_number":${sequence++}}`;
  const end = () => [
    frame(
      `${kind}.done`,
      isCall ? `${at},"arguments":"${text}"` : `${at},"content_index":0,"text":"${text}","logprobs":[]`,
    ),
    ...(isCall ? [] : [frame('response.content_part.done', `${at},"content_index":0,"part":${part(text)}`)]),
    frame('response.output_item.done', `"output_index":${index},"item":${item}`),
    frame('response.completed', `"response":${responseText(id, anchor, 'completed', done.join(','), USAGE)}`),
  ];
  return { begin, delta, end };
}

async function answer(sink: Sink, request: string): Promise<void> {
  const { deltas, gapMs } = script;
  const { begin, delta, end } = framesOf(/"previous_response_id":"(\w+)"/.exec(request)?.[1] ?? null);
  sink.send(begin);
  if (gapMs > 0) {
    const from = performance.now();
    for (let sent = 0; sent < deltas && !sink.gone; sent += 1) {
      await new Promise((next) => setTimeout(next, Math.max(0, from + (sent + 1) * gapMs - performance.now())));
      sink.send(sent === deltas - 1 ? [delta(microseconds()), ...end()] : [delta(microseconds())]);
    }
  } else {
    for (let sent = 0; sent < deltas && !sink.gone; sent += BATCH) {
      const now = microseconds();
      const batch = Array.from({ length: Math.min(BATCH, deltas - sent) }, () => delta(now));
      if (sent + BATCH >= deltas) batch.push(...end());
      if (!sink.send(batch)) await sink.drained();
      else await new Promise((next) => setImmediate(next));
    }
  }
  sink.end();
}

/** Returns a promise of the next `drain` or `close` of a stream. */
const drainOf = (stream: Socket | ServerResponse) =>
  new Promise<void>((resolve) => {
    if (stream.destroyed) return resolve();
    const over = () => {
      stream.off('drain', over);
      stream.off('close', over);
      resolve();
    };
    stream.on('drain', over);
    stream.on('close', over);
  });

const nameOf = (frame: string) => frame.slice(9, frame.indexOf('"', 9));

function overHttp(res: ServerResponse): Sink {
  res.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' });
  return {
    send(frames) {
      let text = '';
      for (const frame of frames) text += `event: ${nameOf(frame)}\ndata: ${frame}\n\n`;
      return res.write(text);
    },
    drained: () => drainOf(res),
    get gone() {
      return res.destroyed;
    },
    end: () => void res.end(),
  };
}

function overWebSocket(ws: WebSocket, socket: Socket): Sink {
  return {
    send(frames) {
      socket.cork();
      for (const frame of frames) ws.send(frame);
      socket.uncork();
      return !socket.writableNeedDrain;
    },
    drained: () => drainOf(socket),
    get gone() {
      return ws.readyState !== ws.OPEN;
    },
    end: () => undefined,
  };
}

async function bodyOf(req: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of req) parts.push(part);
  return Buffer.concat(parts).toString();
}

const server = createServer(async (req, res) => {
  res.on('error', () => {});
  try {
    const { pathname } = new URL(req.url!, 'http://upstream');
    if (pathname === '/__script') {
      script = JSON.parse(await bodyOf(req)) as Script;
      res.end();
    } else if (req.method === 'POST' && pathname.endsWith('/responses')) {
      const body = await bodyOf(req);
      await answer(overHttp(res), body);
    } else {
      req.resume();
      res.setHeader('content-type', 'application/json');
      res.end('{"models":[],"data":[],"object":"list"}');
    }
  } catch {
    res.destroy();
  }
});
const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false, maxPayload: 64 * 1024 * 1024 });
server.on('upgrade', (req, socket, head) => {
  socket.on('error', () => {});
  sockets.handleUpgrade(req, socket, head, (ws) => {
    ws.on('error', () => {});
    ws.on('message', (data: Buffer) => {
      if (data.includes('"response.create"')) void answer(overWebSocket(ws, socket as Socket), data.toString());
    });
  });
});
server.keepAliveTimeout = 600_000;
server.listen(0, '127.0.0.1', () => process.stdout.write(`${(server.address() as AddressInfo).port}\n`));
process.stdin.resume().once('end', () => process.exit(0));
