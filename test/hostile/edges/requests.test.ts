import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type TestBridge, testBridge } from '../../../src/testing/index.ts';
import { answerTo, raw } from './raw.ts';

let at: TestBridge;
beforeAll(async () => {
  at = await testBridge();
});
afterAll(() => at.close());

const upgrade =
  'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n';
const host = 'Host: localhost\r\n';
const alive = async () => expect((await fetch(`${at.url}/health`)).status).toBe(200);

const targets = [
  '//',
  'http://[',
  'x://',
  'x://h',
  'mailto:a',
  'ws://127.0.0.1/v1/models',
  '*',
  `http://${'a'.repeat(256)}/v1/models`,
  '/%',
  '/%ff%fe%',
  `/${'a'.repeat(20_000)}`,
  '?',
  '/inspect/socket?%',
  '//inspect/socket',
];

describe('malformed request targets', () => {
  // With a query, well-formed or not, the inspector's own path is a valid upgrade.
  it.each(targets.filter((target) => target !== '/inspect/socket?%'))(
    'A malformed target of an upgrade gets an error and the process continues: %s',
    async (target) => {
      const { status, code } = await answerTo(at.url, `GET ${target} HTTP/1.1\r\n${host}${upgrade}\r\n`);
      expect(status).toBeGreaterThanOrEqual(400);
      expect(code).not.toBeNull();
      expect(code).not.toBe('bridge_internal');
      await alive();
    },
  );

  it.each(targets)(
    'A malformed target of a plain request gets an error and the process continues: %s',
    async (target) => {
      const { status, code } = await answerTo(at.url, `GET ${target} HTTP/1.1\r\n${host}\r\n`);
      expect(status).toBeGreaterThanOrEqual(400);
      expect(code).not.toBeNull();
      expect(code).not.toBe('bridge_internal');
      await alive();
    },
  );

  it.each([
    '/v1/responses/%ff',
    '/v1/models/%zz',
    '/admin/sessions/%E0%A4%A',
    '/admin/stories/%',
    '/v1/responses/%ff/cancel',
    '/v1/responses/resp%00',
    '/admin/sessions?q=%00',
  ])('Invalid percent-encoding is reported as the client’s mistake: %s', async (path) => {
    const { status, code } = await answerTo(at.url, `GET ${path} HTTP/1.1\r\n${host}\r\n`);
    expect([status, code]).toEqual([400, 'bridge_malformed_request']);
  });
});

describe('errors of the HTTP parser', () => {
  it.each([
    ['a broken request line', 'GET\r\n\r\n', 400, 'bridge_malformed_request'],
    ['a broken header', `GET / HTTP/1.1\r\n${host}a b: c\r\n\r\n`, 400, 'bridge_malformed_request'],
    [
      'two lengths',
      `POST / HTTP/1.1\r\n${host}Content-Length: 1\r\nContent-Length: 2\r\n\r\n`,
      400,
      'bridge_malformed_request',
    ],
    [
      'headers over the limit',
      `GET / HTTP/1.1\r\n${host}a: ${'b'.repeat(40_000)}\r\n\r\n`,
      431,
      'bridge_headers_too_large',
    ],
    ['no Host', 'GET /v1/models HTTP/1.1\r\n\r\n', 400, 'bridge_malformed_request'],
    ['no Host of a probe', 'GET /health HTTP/1.1\r\n\r\n', 400, 'bridge_malformed_request'],
    ['CONNECT', `CONNECT a:1 HTTP/1.1\r\n${host}\r\n`, 405, 'bridge_method_not_allowed'],
    ['an unknown expectation', `GET / HTTP/1.1\r\n${host}Expect: tea\r\n\r\n`, 417, 'bridge_expectation_failed'],
    ['OPTIONS *', `OPTIONS * HTTP/1.1\r\n${host}\r\n`, 404, 'bridge_not_found'],
  ])('The HTTP parser’s refusal of %s has the error envelope', async (_, bytes, status, code) => {
    expect(await answerTo(at.url, bytes)).toEqual({ status, code });
    await alive();
  });

  it('An invalid chunk that arrives while a body is read is answered with the error envelope', async () => {
    const head = `POST /v1/responses HTTP/1.1\r\n${host}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n`;
    expect(await answerTo(at.url, `${head}zz\r\n`)).toEqual({ status: 400, code: 'bridge_malformed_request' });
  });

  it('A content coding named like a member of every object is answered with the error envelope', async () => {
    for (const coding of ['constructor', '__proto__', 'toString']) {
      const answer = await fetch(`${at.url}/v1/responses`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'content-encoding': coding },
        body: '{}',
      });
      expect(answer.status).toBe(415);
    }
  });
});

describe('errors of libraries below the bridge', () => {
  it('A request without a Host is answered with the error envelope', async () => {
    const answer = await answerTo(at.url, 'GET /health HTTP/1.1\r\n\r\n');
    expect(answer).toEqual({ status: 400, code: 'bridge_malformed_request' });
    expect((await answerTo(at.url, 'GET /health HTTP/1.0\r\n\r\n')).status).toBe(200);
  });

  it.each<[string, string, number, string]>([
    ['a method', `POST /inspect/socket HTTP/1.1\r\n${host}${upgrade}`, 405, 'bridge_method_not_allowed'],
    [
      'a key',
      `GET /inspect/socket HTTP/1.1\r\n${host}${upgrade.replace(/Key: .*/, 'Key: x')}`,
      400,
      'bridge_malformed_request',
    ],
    [
      'a version',
      `GET /inspect/socket HTTP/1.1\r\n${host}${upgrade.replace('13', '99')}`,
      400,
      'bridge_malformed_request',
    ],
  ])(
    'A WebSocket handshake with an invalid part is answered with the error envelope: %s',
    async (_, head, status, code) => {
      expect(await answerTo(at.url, `${head}\r\n`)).toEqual({ status, code });
      await alive();
    },
  );
});

it('An upgrade to another protocol is ignored, and the request is served without it', async () => {
  const body = JSON.stringify({ model: 'm', input: 'x' });
  const head = `POST /v1/responses HTTP/1.1\r\n${host}Authorization: Bearer sk\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n`;
  const bytes = `${head}Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  expect((await answerTo(at.url, bytes)).status).toBe(200);
});

describe('pipelined requests', () => {
  const statuses = (text: string) => [...text.matchAll(/HTTP\/1\.1 (\d{3})/g)].map(([, status]) => Number(status));
  const body = JSON.stringify({ model: 'm', input: 'x' });
  const turn = `POST /v1/responses HTTP/1.1\r\n${host}Authorization: Bearer sk\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;

  it.each([
    ['bytes that are no request', '\x00\x01garbage\r\n\r\n', 400],
    ['an upgrade where no WebSocket is', `GET /v1/models HTTP/1.1\r\n${host}${upgrade}\r\n`, 426],
    ['CONNECT', `CONNECT a:1 HTTP/1.1\r\n${host}\r\n`, 405],
    ['an unknown expectation', `GET / HTTP/1.1\r\n${host}Expect: tea\r\nConnection: close\r\n\r\n`, 417],
    [
      'an invalid chunk of a body',
      `POST /v1/responses HTTP/1.1\r\n${host}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n`,
      400,
    ],
  ])('A running turn is not lost to a pipelined request after it: %s', async (_, bytes, status) => {
    expect(statuses(await raw(at.url, turn + bytes).over)).toEqual([200, status]);
    await alive();
  });

  it('A reset while an answer is pending ends only its connection', async () => {
    const { socket, over } = raw(at.url, `${turn}\x00garbage`);
    socket.once('connect', () => socket.resetAndDestroy());
    await over;
    await alive();
  });
});

it('Relaying API calls causes no MaxListeners warning', async () => {
  const warnings: string[] = [];
  const hear = ({ name }: Error) => warnings.push(name);
  process.on('warning', hear);
  const got = `GET /v1/models HTTP/1.1\r\n${host}Authorization: Bearer sk\r\nConnection: close\r\n\r\n`;
  expect(await raw(at.url, got).over).toContain('HTTP/1.1 200');
  // Warnings are emitted on a later tick.
  await new Promise((later) => setImmediate(later));
  process.off('warning', hear);
  expect(warnings).toEqual([]);
});

it('A connection that pipelines without limit is closed, and no other', async () => {
  const one = `GET /ready HTTP/1.1\r\n${host}\r\n`;
  const flood = raw(at.url, one.repeat(5_000));
  const text = await flood.over;
  expect(text.split('HTTP/1.1 200').length).toBeLessThan(200);
  await alive();
});

it('A socket that is reset in the middle of an upgrade does not end the process', async () => {
  const { port } = new URL(at.url);
  for (let count = 0; count < 20; count += 1) {
    const socket = connect(Number(port), '127.0.0.1');
    socket.on('error', () => {});
    await new Promise<void>((sent) =>
      socket.write(`GET /v1/responses HTTP/1.1\r\n${host}${upgrade}\r\n`, () => sent()),
    );
    socket.resetAndDestroy();
  }
  await alive();
});
