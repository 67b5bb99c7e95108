import { connect } from 'node:net';
import { Readable } from 'node:stream';
import { brotliCompressSync, deflateSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { request } from 'undici';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Face, openFace } from './face.ts';

let face: Face;
beforeAll(async () => {
  face = await openFace({ HOLDFAST_MAX_BODY_BYTES: '10000' });
});
afterAll(() => face.close());

const send = async (
  body: string | Buffer | null,
  { path = '/v1/responses', method = 'POST', headers = {} as Record<string, string> } = {},
) => {
  const answer = await request(face.url + path, {
    method: method as 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body,
  });
  const text = await answer.body.text();
  return { status: answer.statusCode, headers: answer.headers, text, error: text ? JSON.parse(text).error : null };
};

describe('refused requests', () => {
  it.each([
    ['malformed JSON', '{"model":', 400, 'bridge_invalid_json', null],
    ['a body that is no object', '[1]', 400, 'bridge_invalid_request', null],
    ['no body', '', 400, 'bridge_invalid_json', null],
    ['bytes that are no UTF-8', Buffer.from([0x7b, 0xff, 0x7d]), 400, 'bridge_invalid_json', null],
    ['a model that is no string', '{"model":1}', 400, 'bridge_invalid_request', 'model'],
    ['input of the wrong type', '{"input":5}', 400, 'bridge_invalid_request', 'input'],
    ['an item that is no object', '{"input":["a"]}', 400, 'bridge_invalid_request', 'input'],
    ['instructions of the wrong type', '{"instructions":[]}', 400, 'bridge_invalid_request', 'instructions'],
    ['an empty anchor', '{"previous_response_id":""}', 400, 'bridge_invalid_request', 'previous_response_id'],
    ['stream of the wrong type', '{"stream":"yes"}', 400, 'bridge_invalid_request', 'stream'],
    ['store of the wrong type', '{"store":1}', 400, 'bridge_invalid_request', 'store'],
    ['tools of the wrong type', '{"tools":{}}', 400, 'bridge_invalid_request', 'tools'],
    ['include of the wrong type', '{"include":[1]}', 400, 'bridge_invalid_request', 'include.0'],
    ['metadata of the wrong type', '{"client_metadata":"x"}', 400, 'bridge_invalid_request', 'client_metadata'],
    [
      'a conversation with an anchor',
      '{"conversation":"conv_1","previous_response_id":"resp_1"}',
      400,
      'bridge_invalid_request',
      'previous_response_id',
    ],
    ['a body that is too large', JSON.stringify({ input: 'x'.repeat(10_001) }), 413, 'bridge_body_too_large', null],
  ])('A request with %s gets an error envelope and opens nothing', async (_, body, status, code, param) => {
    const answer = await send(body);
    expect(answer.status).toBe(status);
    expect(answer.error).toMatchObject({ bridge_code: code, message: expect.any(String), type: expect.any(String) });
    if (param) expect(answer.error.param).toBe(param);
    expect(answer.headers['x-should-retry']).toBe('false');
    expect(answer.headers['x-request-id']).toMatch(/^[0-9a-f-]{36}$/);
    expect(face.taken).toEqual([]);
    expect(face.simulator.journal.entries).toEqual([]);
  });

  it.each([
    ['another content type', '{}', { headers: { 'content-type': 'text/plain' } }, 415, 'bridge_unsupported_media_type'],
    ['an unknown encoding', '{}', { headers: { 'content-encoding': 'rot13' } }, 415, 'bridge_unsupported_media_type'],
    ['a body that does not unpack', 'xx', { headers: { 'content-encoding': 'gzip' } }, 400, 'bridge_invalid_json'],
    ['an unknown path', '{}', { path: '/v1/nothing' }, 404, 'bridge_not_found'],
    ['a wrong method', null, { method: 'PUT' }, 405, 'bridge_method_not_allowed'],
    ['a GET of responses', null, { method: 'GET' }, 405, 'bridge_method_not_allowed'],
  ])('A request with %s gets an error envelope', async (_, body, options, status, code) => {
    const answer = await send(body, options);
    expect([answer.status, answer.error.bridge_code]).toEqual([status, code]);
    if (status === 405) expect(answer.headers.allow).toBe('POST');
    expect(face.taken).toEqual([]);
  });

  it('A small packed body that unpacks beyond the limit is refused', async () => {
    const packed = gzipSync(JSON.stringify({ input: 'x'.repeat(1_000_000) }));
    expect(packed.length).toBeLessThan(10_000);
    const answer = await send(packed, { headers: { 'content-encoding': 'gzip' } });
    expect([answer.status, answer.error.bridge_code]).toEqual([413, 'bridge_body_too_large']);
  });

  it('A body of unknown length that grows beyond the limit is refused', async () => {
    const answer = await request(`${face.url}/v1/responses`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: Readable.from(Array.from({ length: 20 }, () => Buffer.alloc(1_000, 'x'))),
    });
    expect(answer.statusCode).toBe(413);
    await answer.body.dump();
  });

  it('A WebSocket upgrade at another path gets 426', async () => {
    const port = Number(new URL(face.url).port);
    const socket = connect(port, '127.0.0.1');
    socket.write(
      'GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
        'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
    );
    const first = await new Promise<Buffer>((got) => socket.once('data', got));
    socket.destroy();
    expect(first.toString()).toMatch(/^HTTP\/1\.1 426 /);
    expect(first.toString()).toContain('bridge_websocket_unsupported');
    expect(first.toString().toLowerCase()).toContain('\r\nupgrade: http/1.1\r\n');
  });
});

describe('packed bodies', () => {
  const text = JSON.stringify({ model: 'm', input: 'packed \u0000 text' });
  it.each([
    ['gzip', gzipSync(text)],
    ['deflate', deflateSync(text)],
    ['br', brotliCompressSync(text)],
    ['zstd', zstdCompressSync(text)],
  ])('A body packed with %s is read', async (encoding, body) => {
    const own = await openFace();
    const answer = request(`${own.url}/v1/responses`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'content-encoding': encoding },
      body,
    });
    const { request: taken, sink } = await own.next();
    expect(taken.text).toBe(text);
    sink.end('response.completed', JSON.stringify({ response: { id: 'r' } }));
    expect((await answer).statusCode).toBe(200);
    await own.close();
  });
});

describe('access', () => {
  it('With API keys only their holders are accepted, and the key itself is not forwarded', async () => {
    const keyed = await openFace({ HOLDFAST_API_KEYS: 'acme:hk-1,other:hk-2', HOLDFAST_UPSTREAM_KEY: 'sk-up' });
    try {
      const ask = (authorization?: string) =>
        request(`${keyed.url}/v1/responses`, {
          method: 'POST',
          headers: { 'content-type': 'application/json', ...(authorization ? { authorization } : {}) },
          body: '{"model":"m"}',
        });
      for (const wrong of [undefined, 'Bearer hk-3', 'Bearer ', 'hk-1']) {
        const answer = await ask(wrong);
        expect(answer.statusCode).toBe(401);
        expect(((await answer.body.json()) as { error: object }).error).toMatchObject({ code: 'invalid_api_key' });
      }
      const right = ask('Bearer hk-1');
      const { request: taken, sink } = await keyed.next();
      expect(taken.caller).toMatchObject({
        scope: 'tenant:acme',
        upstreamAuthorization: 'Bearer sk-up',
        credentialIsClients: false,
      });
      sink.cut();
      await right.catch(() => {});
    } finally {
      await keyed.close();
    }
  });
});

it('A draining bridge refuses new turns and asks clients to close their connections', async () => {
  face.service.shutdown = { leaving: false, refusing: true };
  const answer = await send('{"model":"m"}');
  face.service.shutdown = { leaving: false, refusing: false };
  expect([answer.status, answer.error.bridge_code]).toEqual([503, 'bridge_draining']);
  expect(answer.headers.connection).toBe('close');
});

it('The health and readiness endpoints report their state and the reason', async () => {
  expect((await send(null, { path: '/health', method: 'GET' })).status).toBe(200);
  face.service.readiness = async () => ({ ready: false, reasons: ['database does not answer'] });
  const answer = await send(null, { path: '/ready', method: 'GET' });
  expect([answer.status, JSON.parse(answer.text).reasons]).toEqual([503, ['database does not answer']]);
});
