import { connect } from 'node:net';
import { type At, checkText, judgeEnvelope } from './judge.ts';
import type { Random } from './random.ts';
import { type Edit, edited, editOf, type Tree } from './tree.ts';
import { ADMIN_TOKEN, LONGEST_MS } from './world.ts';

/** Raw bytes over TCP. `%host%`, `%auth%`, `%admin%` and `%thread%` are replaced by values of the worker. */
interface Input {
  /** Requests in latin1, pipelined without waiting for answers. */
  requests?: { line?: string; headers?: string[]; body?: string; ends?: string }[];
  edits?: Partial<Edit>[];
  /** Sizes of the chunks in which the bytes are sent. */
  pieces?: number[];
  /** Resets the connection immediately. */
  reset?: boolean;
}

const methods = [
  'GET',
  'POST',
  'PUT',
  'DELETE',
  'PATCH',
  'HEAD',
  'OPTIONS',
  'TRACE',
  'CONNECT',
  'PRI',
  'get',
  'BREW',
  'PROPFIND',
  'M-SEARCH',
  'SOURCE',
  'QUERY',
];
const versions = [
  'HTTP/1.1',
  'HTTP/1.1',
  'HTTP/1.1',
  'HTTP/1.1',
  'HTTP/1.0',
  'HTTP/2.0',
  'HTTP/0.9',
  'HTTP/9.9',
  'http/1.1',
  '',
];
const paths = [
  '/v1/responses',
  '/v1/responses',
  '/v1/responses/resp_1',
  '/v1/responses/resp_1/input_items?limit=1&after=x',
  '/v1/responses/resp_1/cancel',
  '/v1/responses/compact',
  '/v1/models',
  '/v1/models/a/b/c',
  '/backend-api/codex/responses',
  '/backend-api/codex/models?client_version=1',
  '/health',
  '/ready',
  '/metrics',
  '/inspect',
  '/inspect/',
  '/inspect/ws',
  '/inspect/ticket',
  '/inspect/socket',
  '/inspect/socket?session=x&sample=1&ticket=y',
  '/admin/ui',
  '/admin/ui/',
  '/admin/ui/x/main.js',
  '/admin/workers',
  '/admin/sessions',
  '/admin/sessions?limit=1&state=live&q=x&owner=y&busy=1',
  '/admin/sessions/x',
  '/admin/sessions/x/close',
  '/admin/sessions/x/release',
  '/admin/sessions/x/drop-anchor',
  '/admin/stories/x',
  '/admin/machines/session',
  '/internal/worker',
  '/',
  '//',
  '///',
  '//evil.example/v1/responses',
  '/\\evil.example',
  '*',
  'http://evil.example/v1/responses',
  'http://',
  'https://[::1',
  'http://a:b@c:99999/v1/responses',
  'evil.example:443',
  '?',
  '#',
  '',
  '/v1/responses/..',
  '/v1/../admin/sessions',
  '/v1/responses/../../admin/sessions',
  '/v1//responses',
  '/V1/Responses',
  '/v1/responses/',
  '/v1/responses/__proto__',
  '/v1/responses/constructor/cancel',
];
const pathBits = [
  '%',
  '%0',
  '%00',
  '%ff',
  '%2e%2e',
  '%2F',
  '%5c',
  '%c0%80',
  '%ed%a0%80',
  '%E0%A4%A',
  '%zz',
  '..',
  '/',
  '//',
  '?',
  '?a[b]=c',
  '?a[__proto__]=1',
  '?limit=1E400',
  '?cursor=%00',
  '?q=%00',
  '?q=%27',
  '#x',
  '\xe9',
  '\xff',
  '\0',
  '\t',
  ';a=b',
  'x'.repeat(300),
  'x'.repeat(9000),
  '+',
  '__proto__',
  '%u0041',
];
const heads = [
  'Host: %host%',
  'Host: evil.example',
  'Host: ',
  'Host: %host%:99999999',
  'Host: [::1',
  'Host: a b',
  'Host: %host%, evil.example',
  'Host: \xff',
  'Origin: https://evil.example',
  'Origin: null',
  'Origin: %%%',
  'Origin: http://%host%',
  'Authorization: %auth%',
  'Authorization: Bearer %admin%',
  'Authorization: Bearer %admin%',
  'Authorization: Bearer',
  'Authorization: Digest x',
  'Authorization: Bearer \xff',
  'Content-Type: application/json',
  'Content-Type: application/json',
  'Content-Type: text/html',
  'Content-Length: 2',
  'Content-Length: 0',
  'Content-Length: -1',
  'Content-Length: 1E3',
  'Content-Length: 0x10',
  'Content-Length: 99999999999999999999',
  'Content-Length: 100000000',
  'Content-Length: 4, 4',
  'Content-Length : 4',
  'Transfer-Encoding: chunked',
  'Transfer-Encoding: chunked, chunked',
  'Transfer-Encoding: gzip, chunked',
  'Transfer-Encoding: identity',
  'Transfer-Encoding:\x0bchunked',
  'Content-Encoding: gzip',
  'Content-Encoding: constructor',
  'Content-Encoding: __proto__',
  'Content-Encoding: hasOwnProperty',
  'Content-Encoding: br',
  'Expect: 100-continue',
  'Expect: constructor',
  'Expect: 200-ok',
  'Connection: close',
  'Connection: keep-alive',
  'Connection: Upgrade',
  'Connection: Upgrade, HTTP2-Settings',
  'Upgrade: websocket',
  'Upgrade: h2c',
  'Upgrade: TLS/1.0',
  'HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA',
  'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
  'Sec-WebSocket-Key: x',
  'Sec-WebSocket-Version: 13',
  'Sec-WebSocket-Version: 99',
  'Sec-WebSocket-Protocol: x, y, ',
  'Sec-WebSocket-Protocol: \x01',
  'Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=99',
  'Sec-WebSocket-Extensions: ;;;',
  'X-Forwarded-For: 127.0.0.1',
  'Forwarded: for=127.0.0.1',
  'X-Forwarded-Host: 127.0.0.1',
  'Thread-Id: %thread%',
  'Thread-Id: __proto__',
  'Session-Id: %thread%',
  'X-Codex-Turn-State: a.b.c',
  'X-Codex-Turn-Metadata: {"turn_id":{}}',
  'Idempotency-Key: x',
  '__proto__: x',
  'constructor: x',
  'Cookie: a=b',
  'Range: bytes=0-1,2-3',
  'If-None-Match: *',
  'If-Modified-Since: x',
  'Accept: application/xml',
  'Accept-Encoding: constructor',
  'Trailer: x',
  'TE: trailers',
  ': x',
  'no colon',
  ' folded: x',
  'a\0b: c',
  'a: b\0c',
  `X-Long: ${'x'.repeat(20_000)}`,
];
const handshake = [
  'Upgrade: websocket',
  'Connection: Upgrade',
  'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
  'Sec-WebSocket-Version: 13',
];
const jsonBody = '{"model":"m","input":"hi","stream":true}';
const bodies = [
  '',
  '{}',
  jsonBody,
  '5\r\nhello\r\n0\r\n\r\n',
  '2\r\n{}\r\n0\r\n\r\n',
  `28\r\n${jsonBody}\r\n0\r\n\r\n`,
  'FFFFFFFFFFFFFFFF\r\nx',
  '-1\r\nx',
  '2;ext=1\r\n{}\r\n0\r\nTrailer: x\r\n\r\n',
  '0\r\n\r\n',
  '2\n{}\n0\n\n',
  '\x81\x05hello',
  '\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff',
  '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
  '\0\0\0\0',
  'x'.repeat(70_000),
];

export const http = {
  name: 'http' as const,

  make(r: Random): Tree {
    const one = () => {
      let path = r.pick(paths);
      for (let n = r.int(3); n > 0 && r.chance(0.5); n -= 1) {
        const at = r.int(path.length + 1);
        path = path.slice(0, at) + r.pick(pathBits) + path.slice(at);
      }
      const headers = r.chance(0.85) ? ['Host: %host%'] : [];
      if (r.chance(0.15)) headers.push(...handshake);
      if (r.chance(0.3)) headers.push('Authorization: Bearer %admin%');
      else if (r.chance(0.6)) headers.push('Authorization: %auth%');
      let body = '';
      if (r.chance(0.4)) {
        body = r.pick(bodies);
        if (r.chance(0.7)) headers.push('Content-Type: application/json', `Content-Length: ${body.length}`);
        else if (r.chance(0.5)) headers.push('Transfer-Encoding: chunked');
      }
      for (let n = r.int(r.pick([1, 3, 6])); n > 0; n -= 1) headers.splice(r.int(headers.length + 1), 0, r.pick(heads));
      if (r.chance(0.1) && headers.length > 0) headers.push(r.pick(headers));
      if (r.chance(0.02)) headers.push(...Array.from({ length: 300 }, (_, n) => `x-${n}: y`));
      const line = `${r.weighted([
        [4, 'GET'],
        [5, 'POST'],
        [3, r.pick(methods)],
      ])} ${path} ${r.pick(versions)}`;
      return {
        line,
        headers,
        ...(body === '' ? {} : { body }),
        ...(r.chance(0.05) ? { ends: r.pick(['\n', '\r', '\r\n ', '\r\r\n']) } : {}),
      };
    };
    const input: Input = {
      requests: Array.from(
        {
          length: r.weighted([
            [7, 1],
            [2, 2],
            [1, 5],
          ]),
        },
        one,
      ),
    };
    if (r.chance(0.2)) input.edits = Array.from({ length: 1 + r.int(3) }, () => editOf(r));
    if (r.chance(0.15)) input.pieces = Array.from({ length: 1 + r.int(3) }, () => 1 + r.int(r.pick([3, 50, 400])));
    if (r.chance(0.03)) input.reset = true;
    return input as Tree;
  },

  async run(given: Tree, at: At): Promise<void> {
    const { requests = [], edits = [], pieces = [], reset } = given as Input;
    const { world } = at;
    const text = requests
      .map(({ line = '', headers = [], body = '', ends = '\r\n' }) => [line, ...headers, '', body].join(String(ends)))
      .join('')
      .replaceAll('%host%', `127.0.0.1:${world.port}`)
      .replaceAll('%auth%', world.authorization)
      .replaceAll('%admin%', ADMIN_TOKEN)
      .replaceAll('%thread%', at.thread);
    const bytes = edited(Buffer.from(text, 'latin1'), edits);
    const answer = await exchange(world.port, bytes, pieces, reset === true ? null : requests.length);
    if (world.crash !== null) return;
    const what = 'bytes over TCP';
    if (answer === null)
      return at.found('hang', `${what}: the connection stays open`, `${LONGEST_MS} ms after our end was closed`);
    // An answer never echoes its request, so any secret found in it came from the worker.
    checkText(at, answer, 'an answer');
    for (const { status, body } of answersIn(answer, true)) {
      // The answer of a HEAD has no body; with several answers it is unknown which one belongs to the HEAD.
      if (status >= 400 && !(body === '' && /HEAD\b/i.test(text))) judgeEnvelope(at, status, body, { what });
    }
  },
};

/** Time of silence after which the client closes its end, in milliseconds. */
const QUIET_MS = 120;

/**
 * Sends bytes and reads until the worker has closed the connection.
 *
 * @param expected number of answers after which the client closes its end at once; null: it resets the connection
 * @returns the bytes received; null if the worker did not close the connection
 */
function exchange(
  port: number,
  bytes: Buffer,
  pieces: readonly number[],
  expected: number | null,
): Promise<string | null> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    const done = (text: string | null) => {
      clearTimeout(quiet);
      clearTimeout(late);
      socket.destroy();
      resolve(text);
    };
    const all = () => Buffer.concat(chunks).toString('latin1');
    let quiet: NodeJS.Timeout;
    const late = setTimeout(() => done(null), LONGEST_MS);
    const wait = () => {
      clearTimeout(quiet);
      quiet = setTimeout(() => socket.end(), QUIET_MS);
    };
    let sent = 0;
    socket.on('data', (chunk) => {
      chunks.push(chunk);
      if (sent < bytes.length || expected === null) return wait();
      let answers = 0;
      for (const _answer of answersIn(all(), false)) answers += 1;
      if (answers >= expected) socket.end();
      else wait();
    });
    socket.on('end', () => done(all()));
    socket.on('error', () => done(all()));
    socket.on('close', () => done(all()));
    socket.on('connect', async () => {
      socket.setNoDelay(true);
      let n = 0;
      // Many small chunks only cost time: the first hundred cover every effect of chunking.
      while (sent < bytes.length && !socket.destroyed) {
        const size = pieces.length > 0 && n < 100 ? Math.max(1, Number(pieces[n % pieces.length]) || 1) : bytes.length;
        socket.write(bytes.subarray(sent, sent + size));
        sent += size;
        n += 1;
        if (sent < bytes.length) await new Promise(setImmediate);
      }
      if (expected === null) {
        socket.resetAndDestroy();
        return done('');
      }
      wait();
    });
  });
}

/**
 * Parses the answers of a connection leniently. Stops where an answer's length cannot be determined.
 *
 * @param over true if the connection has ended; otherwise only complete answers are returned
 */
function* answersIn(text: string, over: boolean): Generator<{ status: number; body: string }> {
  for (let at = 0; at < text.length; ) {
    const head = /^HTTP\/1\.[01] (\d{3})[^\r\n]*\r\n/.exec(text.slice(at, at + 200));
    const headEnd = text.indexOf('\r\n\r\n', at);
    if (!head || headEnd < 0) return;
    const status = Number(head[1]);
    const headers = text.slice(at, headEnd).toLowerCase();
    at = headEnd + 4;
    if (status < 200) {
      if (status === 101) return;
      continue;
    }
    const length = /\r\ncontent-length: *(\d+)/.exec(headers)?.[1];
    let body = '';
    if (length !== undefined) {
      body = text.slice(at, at + Number(length));
      if (!over && body.length < Number(length)) return;
      // The answer of a HEAD announces a length but has no body.
      if (body.startsWith('HTTP/1.')) body = '';
      else at += Number(length);
    } else if (/\r\ntransfer-encoding: *chunked/.test(headers)) {
      for (;;) {
        const size = /^([0-9a-f]+)\r\n/.exec(text.slice(at, at + 20));
        if (!size) {
          if (!over) return;
          break;
        }
        at += size[0].length;
        const n = Number.parseInt(size[1]!, 16);
        body += text.slice(at, at + n);
        at += n + 2;
        if (n === 0) break;
      }
    } else if (![204, 304].includes(status)) {
      if (!over) return;
      // Only the answer of a HEAD, which has neither a body nor always a length, is followed by another one.
      const isLast = !text.startsWith('HTTP/1.', at);
      body = isLast ? text.slice(at) : '';
      if (isLast) at = text.length;
    }
    yield { status, body: Buffer.from(body, 'latin1').toString('utf8') };
  }
}
