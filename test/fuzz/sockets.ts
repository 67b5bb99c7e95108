import { WebSocket } from 'ws';
import { type At, checkText, judgeEnvelope, takesTurn } from './judge.ts';
import type { Random } from './random.ts';
import { requests } from './shapes.ts';
import { type Edit, edited, editOf, mutate, odd, render, spoilItems, type Tree } from './tree.ts';
import { LONGEST_MS } from './world.ts';

/** Messages of a client on its WebSocket. */
interface Input {
  path?: string;
  headers?: { [key: string]: string };
  messages?: {
    tree?: Tree;
    edits?: Partial<Edit>[];
    /** Sends the bytes as a binary message. */
    binary?: boolean;
    /** Sizes of the fragments in which the message is sent; the last fragment has the rest. */
    fragments?: number[];
    /** The client leaves in the middle of the message. */
    unfinished?: boolean;
  }[];
  /** Bytes in latin1 that are written to the connection as they are, after the messages. */
  raw?: string;
  /** Milliseconds after which the client disconnects without a close. */
  leaveAfter?: number;
  /** The client does not read its answers for this time, in milliseconds. */
  pause?: number;
  afterwards?: boolean;
}

const lanes: Tree[] = [
  'a',
  'b',
  'a',
  'b',
  '',
  'x y',
  'é',
  '__proto__',
  'constructor',
  7,
  null,
  {},
  [],
  '\u0000',
  { $: 'long', n: 300, text: 'a' },
];
const types: Tree[] = [
  'response.create',
  'response.create',
  'response.create',
  'response.steer',
  'response.inject',
  'response.processed',
  'response.append',
  'response.cancel',
  'session.update',
  '',
  '__proto__',
  'error',
  7,
  null,
  {},
  { $: 'long', n: 100_000, text: 'a' },
];
const metadata: Tree[] = [
  { 'x-codex-turn-state': 'x' },
  { 'x-codex-turn-state': { $: 'long', n: 40_000, text: 'a' } },
  { thread_id: 'x\r\ny', session_id: '\u0000' },
  { thread_id: { a: 1 }, session_id: [], 'x-codex-turn-metadata': '{"turn_id":{}}' },
  { thread_id: { $: 'long', n: 100_000, text: 'é' } },
  [],
  7,
  null,
];
const raws = [
  '\x89\x00',
  '\x8a\x80\x00\x00\x00\x00',
  '\x88\x80\x00\x00\x00\x00',
  '\x88\x82\x00\x00\x00\x00\x03\xe8',
  '\x88\x82\x00\x00\x00\x00\xff\xff',
  '\x88\x81\x00\x00\x00\x00\x00',
  '\xc1\x80\x00\x00\x00\x00',
  '\x80\x80\x00\x00\x00\x00',
  '\x01\x81\x00\x00\x00\x00{\x01\x81\x00\x00\x00\x00}',
  '\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00',
  '\x81\xff\x00\x00\x00\x00\x00\x41\x00\x00\x00\x00\x00\x00',
  '\x83\x80\x00\x00\x00\x00',
  '\x81\x02{}',
  '\x81\x82\x00\x00\x00\x00\xff\xfe',
  'GET / HTTP/1.1\r\n\r\n',
];

function messageOf(r: Random): NonNullable<Input['messages']>[number] {
  const base = structuredClone(r.pick(requests)) as { [key: string]: Tree };
  const message = { type: r.chance(0.8) ? 'response.create' : r.pick(types), ...base } as { [key: string]: Tree };
  if (r.chance(0.5)) message.stream_id = r.pick(lanes);
  if (r.chance(0.15)) message.generate = r.pick<Tree>([false, true, null, 0]);
  if (r.chance(0.2)) message.client_metadata = r.pick(metadata);
  if (r.chance(0.2)) message.previous_response_id = r.pick<Tree>(['resp_1', '', null, 7, '@@']);
  const tree = r.chance(0.05)
    ? odd(r)
    : r.chance(0.2)
      ? spoilItems(r, message)
      : mutate(
          r,
          message,
          r.weighted([
            [4, 0],
            [4, 1],
            [2, 3],
            [1, 10],
          ]),
        );
  return {
    tree,
    ...(r.chance(0.15) && { edits: Array.from({ length: 1 + r.int(3) }, () => editOf(r)) }),
    ...(r.chance(0.05) && { binary: true }),
    ...(r.chance(0.15) && { fragments: Array.from({ length: 1 + r.int(4) }, () => r.int(2_000)) }),
    ...(r.chance(0.02) && { unfinished: true }),
  };
}

const oddHeaders: [string, string[]][] = [
  ['openai-beta', ['responses_websockets=2026-02-06', 'responses_websockets', ',', 'a'.repeat(6000)]],
  ['session-id', ['x', '__proto__', 'a'.repeat(6000)]],
  ['x-codex-turn-state', ['x', 'a'.repeat(6000)]],
  ['idempotency-key', ['k', '__proto__']],
  ['x-codex-turn-metadata', ['{', '[]', 'null', '['.repeat(6000)]],
  ['origin', ['null', 'https://evil.example', 'http://127.0.0.1']],
  ['authorization', ['', 'Bearer', 'Basic eDp5']],
];

/** Closes with which a connection may end: at an end of the worker's choice, or after a violation of the protocol. */
const closes = new Set([1000, 1001, 1002, 1003, 1005, 1007, 1009, 1013]);
const terminals = new Set(['response.completed', 'response.incomplete', 'response.failed', 'error']);
const LAST = 'the-last-lane';

export const sockets = {
  name: 'sockets' as const,

  make(r: Random): Tree {
    const input: Input = { messages: Array.from({ length: 1 + r.int(r.chance(0.1) ? 40 : 4) }, () => messageOf(r)) };
    if (r.chance(0.1))
      input.path = r.pick(['/backend-api/codex/responses', '/v1/responses/?x=%', '/V1/Responses', '/v1//responses']);
    const headers: { [key: string]: string } = {};
    if (r.chance(0.3)) headers['openai-beta'] = 'responses_websockets=2026-02-06';
    for (let n = r.chance(0.2) ? 1 + r.int(2) : 0; n > 0; n -= 1) {
      const [name, values] = r.pick(oddHeaders);
      headers[name] = r.pick(values);
    }
    if (Object.keys(headers).length > 0) input.headers = headers;
    if (r.chance(0.1)) input.raw = r.pick(raws);
    if (r.chance(0.08)) input.leaveAfter = r.int(200);
    if (r.chance(0.05)) input.pause = r.int(1_000);
    if (r.chance(0.05)) input.afterwards = true;
    return input as Tree;
  },

  async run(given: Tree, at: At): Promise<void> {
    const { path = '/v1/responses', headers = {}, messages = [], raw, leaveAfter, pause, afterwards } = given as Input;
    const { world } = at;
    const ws = new WebSocket(`${world.url.replace('http', 'ws')}${path}`, {
      headers: { authorization: world.authorization, 'thread-id': at.thread, ...headers },
      perMessageDeflate: false,
      handshakeTimeout: LONGEST_MS,
    });
    const what = 'a WebSocket';
    const { promise: over, resolve: end } = Promise.withResolvers<'closed' | 'answered' | 'refused'>();
    let code = 0;
    let left = false;
    const ended = new Map<unknown, number>();
    ws.on('error', () => {});
    ws.on('close', (given) => {
      code = given;
      end('closed');
    });
    ws.on('unexpected-response', (_request, response) => {
      let text = '';
      response.on('data', (chunk) => (text += chunk));
      response.on('close', () => {
        checkText(at, text, 'a refused upgrade');
        judgeEnvelope(at, response.statusCode ?? 0, text, { what: 'an upgrade' });
        end('refused');
      });
    });
    ws.on('message', (data: Buffer) => {
      const text = data.toString();
      checkText(at, text, 'an event');
      let event: Record<string, unknown> | null = null;
      try {
        event = JSON.parse(text) as Record<string, unknown>;
      } catch {
        // Reported below.
      }
      if (event === null || typeof event !== 'object')
        return at.found('shape', `${what}: not an event`, text.slice(0, 300));
      const id = (event.headers as Record<string, unknown> | undefined)?.['x-request-id'];
      if (typeof id === 'string') at.saw(id);
      if (event.type === 'error') {
        judgeEnvelope(at, Number(event.status), JSON.stringify({ error: event.error }), { hostile: true, what });
      }
      if (text.includes('"bridge_internal"')) at.found('internal', `${what}: bridge_internal`, text.slice(0, 300));
      if (!terminals.has(String(event.type))) return;
      ended.set(event.stream_id, (ended.get(event.stream_id) ?? 0) + 1);
      if (event.stream_id === LAST) end('answered');
    });
    const late = setTimeout(() => {
      if (world.crash === null && !left)
        at.found('hang', `${what}: no answer to the last turn`, JSON.stringify([...ended]));
      ws.terminate();
    }, LONGEST_MS);
    ws.once('open', () => {
      if (pause !== undefined) {
        ws.pause();
        setTimeout(() => ws.resume(), pause);
      }
      const leave = () => {
        left = true;
        ws.terminate();
      };
      if (leaveAfter !== undefined) setTimeout(leave, leaveAfter);
      for (const { tree = null, edits = [], binary = false, fragments = [], unfinished = false } of messages) {
        const bytes = edited(Buffer.from(render(tree).replaceAll('@@', 'fz'), 'utf8'), edits);
        let from = 0;
        for (const size of fragments) {
          ws.send(bytes.subarray(from, from + size), { binary, fin: false }, () => {});
          from += size;
        }
        ws.send(bytes.subarray(from), { binary, fin: !unfinished }, () => {});
        if (unfinished) return void setTimeout(leave, 100);
      }
      if (raw !== undefined) {
        (ws as unknown as { _socket: { write(bytes: Buffer): void } | null })._socket?.write(
          Buffer.from(raw, 'latin1'),
        );
      }
      const input = [{ role: 'user', content: 'And after all that?' }];
      ws.send(JSON.stringify({ type: 'response.create', model: 'm', store: false, input, stream_id: LAST }), () => {});
    });
    const how = await over;
    clearTimeout(late);
    ws.terminate();
    if (world.crash !== null || left) return;
    // A connection that breaks without a close is one that the worker cut off: only for a client that does not read.
    if (how === 'closed' && !closes.has(code) && pause === undefined) {
      at.found('cut', `${what}: closed with ${code}`, JSON.stringify([...ended]));
    }
    if (afterwards) await takesTurn(at, 'a hostile WebSocket');
  },
};
