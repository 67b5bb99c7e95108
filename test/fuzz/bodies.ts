import { brotliCompressSync, constants, deflateSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { type At, judge, send, takesTurn } from './judge.ts';
import type { Random } from './random.ts';
import { requests } from './shapes.ts';
import { type Edit, edited, editOf, mutate, odd, render, spoilItems, type Tree } from './tree.ts';

interface Input {
  path?: string;
  method?: string;
  headers?: { [key: string]: string };
  tree?: Tree;
  edits?: Partial<Edit>[];
  /** Content codings applied to the body, innermost first; the header matches them unless `headers` overrides it. */
  pack?: string[];
  afterwards?: boolean;
}

const paths = [
  '/v1/responses',
  '/v1/responses/compact',
  '/v1/responses/input_tokens',
  '/backend-api/codex/responses',
  '/v1/responses/resp_x/cancel',
];

const packers = new Map<string, (bytes: Buffer) => Buffer>([
  ['gzip', (bytes) => gzipSync(bytes, { level: 1 })],
  ['deflate', (bytes) => deflateSync(bytes, { level: 1 })],
  ['br', (bytes) => brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 1 } })],
  ['zstd', (bytes) => zstdCompressSync(bytes)],
]);
/** Values of Content-Encoding that clients might send, matching the body or not. */
const encodings = [
  'gzip',
  'GZIP',
  ' gzip ',
  'x-gzip',
  'br',
  'zstd',
  'deflate',
  'identity',
  '',
  'gzip, gzip',
  'gzip,br',
  'constructor',
  '__proto__',
  'toString',
  'compress',
  'x'.repeat(2000),
];

const oddHeaders: [string, string[]][] = [
  [
    'content-type',
    [
      'application/json; charset=utf-16',
      'application/problem+json',
      'text/plain',
      'application/json;;;',
      '',
      'APPLICATION/JSON',
      'multipart/form-data; boundary=x',
    ],
  ],
  ['thread-id', ['', ' ', '__proto__', 'a'.repeat(6000), '\xe9\xff']],
  ['session-id', ['x', '__proto__', 'a'.repeat(6000)]],
  [
    'x-codex-turn-metadata',
    ['{', '{"turn_id":{}}', '[]', 'null', '"x"', `{"turn_id":"${'a'.repeat(6000)}"}`, '['.repeat(6000)],
  ],
  ['idempotency-key', ['k', '', '__proto__', 'a'.repeat(6000)]],
  ['authorization', ['', 'Bearer', 'Bearer ', 'Bearer a b', 'Basic eDp5', `bearer ${'a'.repeat(6000)}`, 'Bearer \xe9']],
  ['openai-organization', ['org-x', 'a'.repeat(6000)]],
  ['openai-beta', ['responses_websockets=1', ',,,', '=', 'a'.repeat(6000)]],
  ['x-stainless-retry-count', ['1', '-1', '1E400', 'x']],
  ['accept', ['text/event-stream', 'application/xml', '']],
  ['traceparent', ['x', '00-00-00-00']],
  ['x-holdfast-session', ['x']],
  ['x-forwarded-for', ['127.0.0.1', ',', '\xff']],
  ['origin', ['null', 'https://evil.example', 'http://127.0.0.1']],
];

/** Unpacked size in bytes, over the worker's limit. */
const BOMB = 24_000_000;
const bomb = { model: 'm', input: { $: 'long', n: BOMB, text: 'a' } };

const isBomb = (tree: Tree) => (tree as { input?: { n?: Tree } } | null)?.input?.n === BOMB;
const textOf = (tree: Tree) => Buffer.from(render(tree).replaceAll('@@', 'fz'), 'utf8');

function packed(text: Buffer, edits: readonly Partial<Edit>[], pack: readonly string[]): Buffer {
  return pack.reduce((bytes, name) => packers.get(name)?.(bytes) ?? bytes, edited(text, edits));
}

/** Cache: the bombs are the same in every case, and slow to pack. */
const bombs = new Map<string, Buffer>();
function bombOf(pack: readonly string[]): Buffer {
  const key = pack.join();
  const bytes = bombs.get(key) ?? packed(textOf(bomb), [], pack);
  bombs.set(key, bytes);
  return bytes;
}

export const bodies = {
  name: 'bodies' as const,

  make(r: Random): Tree {
    const base = structuredClone(r.pick(requests));
    const input: Input = {
      tree: r.chance(0.03)
        ? odd(r)
        : r.chance(0.2)
          ? spoilItems(r, base)
          : mutate(
              r,
              base,
              r.weighted([
                [1, 0],
                [4, 1],
                [3, 2],
                [2, 5],
                [1, 12],
              ]),
            ),
    };
    if (r.chance(0.25)) input.path = r.pick(paths);
    if (r.chance(0.25)) input.edits = Array.from({ length: 1 + r.int(3) }, () => editOf(r));
    const headers: { [key: string]: string } = {};
    if (r.chance(0.12)) input.pack = [r.pick([...packers.keys()])];
    if (r.chance(0.08)) headers['content-encoding'] = r.pick(encodings);
    for (let n = r.chance(0.2) ? 1 + r.int(2) : 0; n > 0; n -= 1) {
      const [name, values] = r.pick(oddHeaders);
      headers[name] = r.pick(values);
    }
    if (r.chance(0.004)) {
      input.pack = r.pick([['gzip'], ['br'], ['zstd'], ['deflate'], ['gzip', 'gzip']]);
      input.tree = structuredClone(bomb);
    }
    if (Object.keys(headers).length > 0) input.headers = headers;
    if (r.chance(0.05)) input.afterwards = true;
    return input as Tree;
  },

  async run(given: Tree, at: At): Promise<void> {
    const {
      path = '/v1/responses',
      method = 'POST',
      tree = null,
      edits = [],
      pack = [],
      headers = {},
      afterwards,
    } = given as Input;
    const body = edits.length === 0 && isBomb(tree) ? bombOf(pack) : packed(textOf(tree), edits, pack);
    const answer = await send(at, {
      method,
      path,
      body,
      headers: { ...(pack.length > 0 ? { 'content-encoding': pack.join(', ') } : {}), ...headers },
    });
    if (answer) judge(at, answer, { what: `POST ${path}` });
    if (afterwards && at.world.crash === null) await takesTurn(at, 'a hostile body');
  },
};
