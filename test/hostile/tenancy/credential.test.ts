import { pino } from 'pino';
import { request } from 'undici';
import { describe, expect, it } from 'vitest';
import { testBridge } from '../../../src/testing/index.ts';
import { post } from '../../support/client.ts';
import { type ProviderHandlers, startProvider } from '../../upstream/servers.ts';

/** The shared key, parts of which an upstream quotes. */
const KEY = 'sk-proj-0123456789abcdefWXYZ';
const MASKED = 'sk-proj-********WXYZ';
const ORGANISATION = 'org-AbCdEfGh12345678';
const quoted = {
  error: {
    message: `Incorrect API key provided: ${MASKED} (${KEY}) of ${ORGANISATION}. Check the OpenAI-Organization header.`,
    type: 'invalid_request_error',
    param: null,
    code: 'invalid_api_key',
  },
};
const pieces = /sk-proj|WXYZ|0123456789abcdef|org-AbCd/;
const headers = { 'content-type': 'application/json', 'openai-organization': ORGANISATION, 'x-models-etag': KEY };
const fields = { ...headers, 'x-request-id': KEY, 'www-authenticate': `Bearer realm="${MASKED}"` };

/**
 * Starts a bridge with a shared key in front of an upstream that the test writes, and collects everything it sends and
 * stores.
 */
async function bridged(handlers: ProviderHandlers, env: Record<string, string> = {}) {
  const provider = await startProvider(handlers);
  const lines: string[] = [];
  const at = await testBridge({
    env: {
      HOLDFAST_UPSTREAM_URL: provider.url,
      HOLDFAST_UPSTREAM_KEY: KEY,
      HOLDFAST_API_KEYS: 'ann:key-ann',
      ...env,
    },
    logger: pino({ level: 'debug' }, { write: (line: string) => void lines.push(line) }),
  });
  const call = async (method: 'GET' | 'POST', path: string, body?: string) => {
    const answer = await request(`${at.url}/v1${path}`, {
      method,
      headers: { authorization: 'Bearer key-ann', ...(body ? { 'content-type': 'application/json' } : {}) },
      body: body ?? null,
    });
    return { status: answer.statusCode, headers: answer.headers, text: await answer.body.text() };
  };
  return {
    url: at.url,
    lines,
    call,
    ask: (stream: boolean, more: object = {}) =>
      post(at.url, { model: 'm', stream, input: 'hi', ...more }, { authorization: 'Bearer key-ann' }),
    async stored() {
      const sessions = await at.store.sessions(10);
      const turns = await Promise.all(sessions.map(({ id }) => at.store.turnsOf(id, 10)));
      const details = await Promise.all(sessions.map(({ id }) => at.store.turnDetails(id, 10)));
      const stories = await Promise.all(sessions.map(({ id }) => at.store.story(id)));
      return JSON.stringify([sessions, turns, details, stories]);
    },
    async [Symbol.asyncDispose]() {
      await at.close();
      await provider.close();
    },
  };
}

type Bridged = Awaited<ReturnType<typeof bridged>>;
type Shown = { status: number; headers: object; text: string };

/** Checks that the client sees the redacted refusal, on every path. */
async function expectDiscretion(at: Bridged, answer: Shown, reported = true): Promise<void> {
  expect(JSON.stringify(answer.headers) + answer.text).not.toMatch(pieces);
  expect(await at.stored()).not.toMatch(pieces);
  expect(at.lines.join('')).not.toMatch(pieces);
  const refusals = at.lines
    .map((line) => JSON.parse(line))
    .filter(({ msg }) => /refused the shared credential/.test(msg));
  if (reported) expect(refusals[0]).toMatchObject({ level: 50, status: expect.any(Number) });
}

const refusing = (status: number, body: string | object = quoted): ProviderHandlers => ({
  http(incoming, response) {
    incoming.resume();
    response.writeHead(status, fields).end(typeof body === 'string' ? body : JSON.stringify(body));
  },
  upgrade(_incoming, socket) {
    const text = typeof body === 'string' ? body : JSON.stringify(body);
    const head = Object.entries(fields).map(([name, value]) => `${name}: ${value}\r\n`);
    socket.end(`HTTP/1.1 ${status} No\r\n${head.join('')}content-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);
  },
});
const own = { bridge_code: 'bridge_upstream_credential', code: 'bridge_upstream_credential' };

describe.each([401, 403])('an upstream %i for the shared credential', (status) => {
  it.each(['auto', 'websocket', 'http'])(
    'A refusal of the shared credential becomes the bridge’s own error (%s)',
    async (transport) => {
      await using at = await bridged(refusing(status), { HOLDFAST_UPSTREAM_TRANSPORT: transport });
      for (const stream of [true, false]) {
        const answer = await at.ask(stream);
        expect([answer.status, answer.headers['x-should-retry']]).toEqual([400, 'false']);
        expect(JSON.parse(answer.text).error).toMatchObject(own);
        expect(JSON.parse(answer.text).error.message).toContain(`${status} invalid_api_key`);
        await expectDiscretion(at, answer);
      }
    },
  );

  it('A refusal of the shared credential becomes the bridge’s own error also when it is the page of an intermediary', async () => {
    const page = `<html><title>Denied ${KEY}</title></html>`;
    for (const transport of ['auto', 'websocket']) {
      await using at = await bridged(refusing(status, page), { HOLDFAST_UPSTREAM_TRANSPORT: transport });
      const answer = await at.ask(true);
      expect([answer.status, JSON.parse(answer.text).error]).toMatchObject([400, own]);
      await expectDiscretion(at, answer, false);
    }
  });

  it('A refusal of the shared credential becomes the bridge’s own error on routes that open no turn', async () => {
    await using at = await bridged(refusing(status));
    for (const [method, path, body] of [
      ['GET', '/models'],
      ['POST', '/responses/input_tokens', '{"input":"hi"}'],
      ['POST', '/responses/compact', '{"input":"hi"}'],
    ] as const) {
      const answer = await at.call(method, path, body);
      expect([answer.status, answer.headers['x-should-retry'], JSON.parse(answer.text).error]).toMatchObject([
        400,
        'false',
        own,
      ]);
      await expectDiscretion(at, answer);
    }
  });

  it.each(['error', 'response.failed'])(
    'A refusal of the shared credential becomes the bridge’s own error in a frame (%s), before and after output',
    async (type) => {
      for (const begun of [false, true]) {
        await using at = await bridged({
          websocket(socket) {
            socket.on('message', () => {
              const response = { id: 'resp_1', object: 'response', status: 'in_progress', output: [] };
              const say = (frame: object) => socket.send(JSON.stringify(frame));
              if (begun) {
                say({ type: 'response.created', response });
                say({ type: 'response.output_text.delta', delta: 'hi' });
              }
              if (type === 'error') say({ type, status, ...quoted });
              else
                say({
                  type,
                  response: {
                    ...response,
                    status: 'failed',
                    error: { ...quoted.error, code: status === 401 ? 'invalid_api_key' : 'usage_not_included' },
                  },
                });
            });
          },
        });
        for (const stream of [true, false]) {
          const answer = await at.ask(stream);
          expect(answer.text).toContain('bridge_upstream_credential');
          await expectDiscretion(at, answer);
        }
      }
    },
  );
});

it('Other errors lose the text that quotes the account, and keep the rest', async () => {
  const busy = {
    error: {
      ...quoted.error,
      message: `Rate limit reached in ${ORGANISATION} for ${MASKED}. Try again.`,
      code: 'rate_limit_exceeded',
    },
  };
  await using at = await bridged(refusing(429, busy), { HOLDFAST_UPSTREAM_TRANSPORT: 'http' });
  for (const answer of [await at.ask(true), await at.call('GET', '/models')]) {
    expect(answer.status).toBe(429);
    expect(JSON.parse(answer.text).error).toMatchObject({
      code: 'rate_limit_exceeded',
      message: 'Rate limit reached in [redacted] for [redacted]. Try again.',
    });
    await expectDiscretion(at, answer, false);
  }
});

it('An upstream that echoes the shared key in its answer reveals it to no client, however it is split', async () => {
  await using at = await bridged({
    async http(incoming, response) {
      incoming.resume();
      response.writeHead(200, fields);
      const text = JSON.stringify({ object: 'list', data: [{ id: `model of ${KEY}!`, more: 'sk-proj-0' }] });
      for (const at of [0, 1, 2]) {
        response.write(text.slice(Math.floor((at * text.length) / 3), Math.floor(((at + 1) * text.length) / 3)));
        await new Promise((flushed) => setImmediate(flushed));
      }
      response.end();
    },
    websocket(socket) {
      socket.on('message', () => {
        const response = { id: 'resp_1', object: 'response', output: [] };
        const item = {
          type: 'message',
          id: 'msg_1',
          role: 'assistant',
          content: [{ type: 'output_text', text: `<${KEY}>` }],
        };
        for (const frame of [
          { type: 'response.metadata', headers: { 'openai-organization': ORGANISATION, 'openai-model': 'm' } },
          { type: 'response.created', response },
          { type: 'response.output_item.done', output_index: 0, item },
          { type: 'response.completed', response: { ...response, status: 'completed', output: [item] } },
        ])
          socket.send(JSON.stringify(frame));
      });
    },
  });
  const listed = await at.call('GET', '/models');
  expect(JSON.parse(listed.text).data).toEqual([{ id: 'model of [redacted]!', more: 'sk-proj-0' }]);
  const answer = await at.ask(true);
  expect(answer.body.output).toMatchObject([{ content: [{ text: '<[redacted]>' }] }]);
  expect(answer.text + JSON.stringify(answer.headers) + (await at.stored())).not.toMatch(pieces);
});

it('A frame that only mentions an account header is read like any other, whatever its headers are', async () => {
  await using at = await bridged({
    websocket(socket) {
      socket.on('message', () => {
        const response = { id: 'resp_1', object: 'response', output: [] };
        for (const headers of ['secret-of-a-client', '"openai-project"', '["openai-project"]', 'null', '{"a":{"b"']) {
          socket.send(`{"type":"response.extra","delta":"OpenAI-Organization","headers":${headers}}`);
        }
        for (const frame of [
          { type: 'response.created', response },
          { type: 'response.completed', response: { ...response, status: 'completed' } },
        ])
          socket.send(JSON.stringify(frame));
      });
    },
  });
  const answer = await at.ask(true);
  expect(answer.events.at(-1)?.type).toBe('response.completed');
  expect(at.lines.join('')).not.toContain('secret-of');
});

it('A client’s own credential gets every refusal unredacted', async () => {
  const provider = await startProvider(refusing(401));
  await using at = await testBridge({
    env: { HOLDFAST_UPSTREAM_URL: provider.url, HOLDFAST_UPSTREAM_TRANSPORT: 'http' },
  });
  const answer = await post(at.url, { model: 'm', stream: true, input: 'hi' });
  expect([answer.status, JSON.parse(answer.text), answer.headers['openai-organization']]).toEqual([
    401,
    quoted,
    ORGANISATION,
  ]);
  await provider.close();
});
