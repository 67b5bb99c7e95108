import { Readable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import type {
  ConnectionHandlers,
  DialResult,
  UpstreamAnswer,
  UpstreamConnection,
  UpstreamTransport,
} from '../../src/upstream/port.ts';
import {
  type CredentialRefusal,
  createRedactingTransport,
  credentialRefusalAnswer,
} from '../../src/upstream/redact.ts';

const KEY = 'the-"shared"-key';
const ESCAPED = JSON.stringify(KEY).slice(1, -1);
const REDACTED = '[redacted]';

/** Creates a redacting transport over one with the given answers, and records the calls of both. */
function transportOf(answers: Partial<UpstreamTransport> = {}, key = KEY) {
  const refusals: CredentialRefusal[] = [];
  const asked: unknown[] = [];
  let handlers: ConnectionHandlers | null = null;
  const connection: UpstreamConnection = {
    kind: 'websocket',
    open: true,
    attach(given) {
      handlers = given;
    },
    send: (frame) => {
      asked.push(['send', frame]);
      return true;
    },
    pause: () => void asked.push(['pause']),
    resume: () => void asked.push(['resume']),
    close: (code, reason) => void asked.push(['close', code, reason]),
  };
  const inner = {
    exchange: () => connection,
    dial: async () => ({ kind: 'open', connection, headers: {} }),
    shutdown: async () => void asked.push(['shutdown']),
    ...answers,
  } as unknown as UpstreamTransport;
  const transport = createRedactingTransport(inner, { key, onRefused: (refusal) => void refusals.push(refusal) });
  /** Returns the redacted form of a frame. */
  const shown = (frame: unknown): string => {
    let text = '';
    transport.exchange({} as never).attach({
      frame: (given) => {
        text = given;
      },
      closed: () => {},
    });
    handlers!.frame(typeof frame === 'string' ? frame : JSON.stringify(frame));
    return text;
  };
  return { transport, refusals, asked, connection, shown, handlers: () => handlers! };
}

const answer = (status: number, body: unknown, headers: Record<string, string> = {}): UpstreamAnswer => ({
  status,
  headers,
  body: Buffer.from(typeof body === 'string' ? body : JSON.stringify(body)),
});
const refusal = {
  error: { type: 'invalid_request_error', code: 'invalid_api_key', message: `No: ${KEY} of org-A1b2C3d4E5` },
};
const errorIn = ({ body }: { body: Buffer }) =>
  (JSON.parse(body.toString()) as { error: Record<string, unknown> }).error;

describe('a redacted frame', () => {
  it('A frame without the key is unchanged', () => {
    const { shown } = transportOf();
    for (const text of ['{"type":"response.output_text.delta", "delta":"sk-abcdefghijk"}', '{"error": "', 'x'])
      expect(shown(text)).toBe(text);
  });

  it('A frame never contains the key, plain or escaped', () => {
    const { shown } = transportOf();
    expect(shown(`{"delta":"${ESCAPED}, ${ESCAPED}"}`)).toBe(`{"delta":"${REDACTED}, ${REDACTED}"}`);
    expect(shown(`${KEY} and ${KEY}`)).toBe(`${REDACTED} and ${REDACTED}`);
    expect(transportOf({}, 'plain-key').shown('a plain-key b')).toBe(`a ${REDACTED} b`);
  });

  it('A frame is unchanged for a key that is too short to be a secret', () => {
    const text = '{"n":1234567,"error":null}';
    expect(transportOf({}, '1234567').shown(text)).toBe(text);
    expect(transportOf({}, '12345678').shown('{"n":12345678}')).toBe(`{"n":${REDACTED}}`);
  });

  it('A frame loses the headers that identify the account, and no others', () => {
    const { shown } = transportOf();
    const headers = { 'OpenAI-Organization': 'mine', 'openai-project': 'p', 'x-request-id': 'r' };
    expect(JSON.parse(shown({ type: 'response.metadata', headers }))).toEqual({
      type: 'response.metadata',
      headers: { 'x-request-id': 'r' },
    });
    const text = '{"type":"x","text":"openai-organization"}';
    expect(shown(text)).toBe(text);
  });

  it('An error frame loses text that looks like a part of an account, and keeps its members', () => {
    const { shown, refusals } = transportOf();
    const message = 'sk-abc***xyz1 of org-A1b2C3d4E5 in proj_1234567890, a**b*****cd, **bold**';
    const frame = { type: 'error', status: 429, error: { code: 'rate_limit_exceeded', message }, more: 1 };
    expect(JSON.parse(shown(frame))).toEqual({
      ...frame,
      error: {
        code: 'rate_limit_exceeded',
        message: `${REDACTED} of ${REDACTED} in ${REDACTED}, ${REDACTED}, **bold**`,
      },
    });
    expect(refusals).toEqual([]);
  });

  it.each([
    { type: 'error', status: 401 },
    { type: 'error', code: 'invalid_api_key', param: KEY },
  ])('A refusal of the credential without any text becomes an error of this bridge: %j', (frame) => {
    const { shown, refusals } = transportOf();
    expect(JSON.parse(shown(frame))).toMatchObject({ type: 'error', error: { code: 'bridge_upstream_credential' } });
    expect(refusals).toMatchObject([{ status: 401 }]);
  });

  it('An error frame with one word of megabytes is redacted in linear time', () => {
    const { shown } = transportOf();
    const message = 'x'.repeat(16 * 1024 * 1024);
    expect(
      JSON.parse(shown({ type: 'error', status: 500, error: { message: `${message} *** y` } })).error.message,
    ).toBe(`${message} ${REDACTED} y`);
  });

  it.each([401, 403])('An error frame with status %i becomes an error of this bridge', (status) => {
    const { shown, refusals } = transportOf();
    const said = JSON.parse(shown({ type: 'error', status, ...refusal, headers: { a: 'b' } }));
    expect(said).toEqual({
      type: 'error',
      status: 400,
      error: expect.objectContaining({ code: 'bridge_upstream_credential' }),
      headers: { 'x-should-retry': 'false' },
    });
    expect(said.error.message).toContain(`The upstream answered ${status} invalid_api_key.`);
    expect(refusals).toEqual([{ status, code: 'invalid_api_key' }]);
  });

  it('A failed response loses text that looks like a part of an account, only in its error', () => {
    const { shown } = transportOf();
    const error = { code: 'server_error', message: 'sk-abcdefgh1' };
    const frame = { type: 'response.failed', response: { id: 'r', error, text: 'sk-abcdefgh1' } };
    expect(JSON.parse(shown(frame))).toEqual({
      type: 'response.failed',
      response: { id: 'r', error: { code: 'server_error', message: REDACTED }, text: 'sk-abcdefgh1' },
    });
    expect(JSON.parse(shown({ type: 'response.failed', error, response: { id: 'r', error: null } }))).toEqual({
      type: 'response.failed',
      error: { code: 'server_error', message: REDACTED },
      response: { id: 'r', error: null },
    });
    expect(JSON.parse(shown({ type: 'response.failed', error }))).toEqual({
      type: 'response.failed',
      error: { code: 'server_error', message: REDACTED },
    });
  });

  it('A response that failed because of the credential has the bridge’s error instead', () => {
    const { shown, refusals } = transportOf();
    const error = { code: 'invalid_api_key', message: 'no' };
    const { response } = JSON.parse(shown({ type: 'response.failed', response: { id: 'r', error } }));
    expect(response).toEqual({
      id: 'r',
      error: { code: 'bridge_upstream_credential', message: expect.stringContaining('invalid_api_key') },
    });
    expect(refusals).toEqual([{ status: 401, code: 'invalid_api_key' }]);
  });

  it('A credential that is refused beside a response without an error leaves the response as it is', () => {
    const { shown } = transportOf();
    const error = { code: 'invalid_api_key', message: 'no' };
    expect(JSON.parse(shown({ type: 'response.failed', error, response: { id: 'r', error: null } }))).toMatchObject({
      error: { code: 'bridge_upstream_credential' },
      response: { id: 'r', error: null },
    });
  });

  it('An answer that mentions errors is not redacted as an error', () => {
    const { shown } = transportOf();
    const text = '{"type":"response.completed","response":{"id":"r","error":null,"message":"sk-abcdefgh1"}}';
    expect(shown(text)).toBe(text);
  });
});

describe('a redacted connection', () => {
  it('A redacted connection passes all calls of its holder to the inner one', () => {
    const { transport, asked, connection } = transportOf();
    const outer = transport.exchange({} as never);
    expect([outer.kind, outer.open]).toEqual(['websocket', true]);
    Object.assign(connection, { open: false });
    expect(outer.open).toBe(false);
    expect(outer.send('f')).toBe(true);
    outer.pause();
    outer.resume();
    outer.close(1001, 'bye');
    expect(asked).toEqual([['send', 'f'], ['pause'], ['resume'], ['close', 1001, 'bye']]);
  });

  it('A redacted connection reports its close reason without the key', () => {
    const { transport, handlers } = transportOf();
    const closed: unknown[] = [];
    transport.exchange({} as never).attach({ frame: () => {}, closed: (info) => void closed.push(info) });
    handlers().closed({ code: 1008, reason: `bad ${KEY}` });
    expect(closed).toEqual([{ code: 1008, reason: `bad ${REDACTED}` }]);
  });

  it('A redacted connection passes a refusal on as a frame if its holder has no handler for it', () => {
    const { transport, handlers, refusals } = transportOf();
    const frames: string[] = [];
    transport.exchange({} as never).attach({ frame: (text) => void frames.push(text), closed: () => {} });
    handlers().refused!(answer(401, refusal));
    handlers().refused!(answer(400, { error: { code: 'x', message: `no ${KEY}` } }));
    expect(frames.map((text) => JSON.parse(text))).toMatchObject([
      { type: 'error', status: 400, error: { code: 'bridge_upstream_credential' } },
      { type: 'error', status: 400, error: { code: 'x', message: `no ${REDACTED}` } },
    ]);
    expect(refusals).toEqual([{ status: 401, code: 'invalid_api_key' }]);
  });

  it('A redacted connection passes on a refusal if its holder has a handler for it', () => {
    const { transport, handlers, refusals } = transportOf();
    const refused: UpstreamAnswer[] = [];
    transport
      .exchange({} as never)
      .attach({ frame: () => {}, closed: () => {}, refused: (given) => void refused.push(given) });
    handlers().refused!(answer(401, refusal));
    handlers().refused!(
      answer(400, `no ${KEY}, sk-abcdefgh1`, { 'content-length': '7', 'openai-project': 'p', a: KEY }),
    );
    expect([refused[0]!.status, errorIn(refused[0]!).code]).toEqual([400, 'bridge_upstream_credential']);
    expect({ ...refused[1]!, body: refused[1]!.body.toString() }).toEqual({
      status: 400,
      headers: { a: REDACTED },
      body: `no ${REDACTED}, ${REDACTED}`,
    });
    expect(refusals).toEqual([{ status: 401, code: 'invalid_api_key' }]);
  });
});

describe('a redacted dial', () => {
  const dialled = (result: DialResult) => transportOf({ dial: async () => result }).transport.dial({} as never);

  it('A dial that opens shows the remaining headers', async () => {
    const { connection } = transportOf();
    const headers = { 'openai-organization': 'mine', 'x-models-etag': `e ${KEY}` };
    const result = (await dialled({ kind: 'open', connection, headers })) as DialResult & { kind: 'open' };
    expect([result.kind, result.headers]).toEqual(['open', { 'x-models-etag': `e ${REDACTED}` }]);
    expect(result.connection).not.toBe(connection);
  });

  it('A dial that fails reports its reason without the key', async () => {
    expect(await dialled({ kind: 'failed', reason: `no ${KEY}` })).toEqual({
      kind: 'failed',
      reason: `no ${REDACTED}`,
    });
  });

  it('A dial that the API refuses because of the credential reports that, and any other refusal is relayed', async () => {
    const refused = async (given: UpstreamAnswer) =>
      ((await dialled({ kind: 'refused', answer: given })) as DialResult & { kind: 'refused' }).answer;
    expect(errorIn(await refused(answer(401, refusal))).code).toBe('bridge_upstream_credential');
    expect((await refused(answer(429, `slow ${KEY}`))).body.toString()).toBe(`slow ${REDACTED}`);
    // An intermediary that is not the API keeps its status: HTTP may succeed there.
    expect(await refused(answer(403, `<html>${KEY}</html>`, { server: 'x' }))).toEqual({
      status: 403,
      headers: { 'content-type': 'text/plain' },
      body: Buffer.from('Refused.'),
    });
  });
});

describe('a redacted call', () => {
  async function called(status: number, pieces: readonly string[], headers: Record<string, string> = {}, key = KEY) {
    const body = Readable.from(pieces.map((piece) => Buffer.from(piece, 'latin1')));
    const at = transportOf({ call: async () => ({ status, headers, body }) }, key);
    const result = await at.transport.call({} as never);
    let text = '';
    for await (const chunk of result.body) text += (chunk as Buffer).toString('latin1');
    return { ...result, body: text, refusals: at.refusals };
  }

  it('A call that succeeds contains the key nowhere, however it is split into chunks', async () => {
    for (const status of [200, 399]) {
      for (let cut = 0; cut <= KEY.length; cut += 1) {
        const { body } = await called(status, [`a${KEY.slice(0, cut)}`, `${KEY.slice(cut)}b${KEY}${KEY[0]}`]);
        expect(body).toBe(`a${REDACTED}b${REDACTED}${KEY[0]}`);
      }
    }
    expect((await called(200, [...`x${KEY}\u00ffy`])).body).toBe(`x${REDACTED}\u00ffy`);
    expect((await called(200, ['a1234b'], {}, '1234')).body).toBe('a1234b');
    expect((await called(200, ['sk-abcdefgh1'])).body).toBe('sk-abcdefgh1');
  });

  it('A call holds back only a possible beginning of the key', async () => {
    const body = new Readable({ read() {} });
    const { transport } = transportOf({ call: async () => ({ status: 200, headers: {}, body }) });
    const seen = (await transport.call({} as never)).body[Symbol.asyncIterator]();
    body.push(Buffer.from(`whole ${KEY.slice(0, 3)}`));
    expect(String((await seen.next()).value)).toBe('whole ');
    body.push(Buffer.from('more'));
    expect(String((await seen.next()).value)).toBe(`${KEY.slice(0, 3)}more`);
  });

  it('A call shows no header of the account', async () => {
    const headers = { 'OpenAI-Project': 'p', 'www-authenticate': 'Bearer', 'content-length': '2', a: `b${KEY}` };
    expect((await called(200, ['{}'], headers)).headers).toEqual({ 'content-length': '2', a: `b${REDACTED}` });
    expect((await called(404, ['{}'], headers)).headers).toEqual({ a: `b${REDACTED}` });
  });

  it.each([401, 403])('A call that is refused with %i because of the credential reports that', async (status) => {
    const { refusals, headers, body, ...rest } = await called(status, [JSON.stringify(refusal)]);
    expect([rest.status, JSON.parse(body).error.code]).toEqual([400, 'bridge_upstream_credential']);
    expect(headers).toEqual({ 'content-type': 'application/json', 'x-should-retry': 'false' });
    expect(refusals).toEqual([{ status, code: 'invalid_api_key' }]);
  });

  it('A call that fails otherwise keeps its status, and its text loses the key and similar text', async () => {
    for (const status of [199, 400, 402, 500]) {
      const { refusals, ...rest } = await called(status, [`no ${KEY.slice(0, 4)}`, `${KEY.slice(4)}, rk-*****abcd`]);
      expect([rest.status, rest.body, refusals]).toEqual([status, `no ${REDACTED}, ${REDACTED}`, []]);
    }
  });

  it('A call that fails shows at most a megabyte', async () => {
    const megabyte = 'x'.repeat(1024 * 1024);
    expect((await called(500, [megabyte, 'more', 'and more'])).body).toBe(megabyte);
  });

  it('A call that fails is not read further than it is shown', async () => {
    let read = 0;
    const pieces = function* () {
      for (; read < 1_000; read += 1) yield Buffer.alloc(64 * 1024);
    };
    const { transport } = transportOf({
      call: async () => ({ status: 500, headers: {}, body: Readable.from(pieces()) }),
    });
    expect((await transport.call({} as never)).status).toBe(500);
    expect(read).toBeLessThan(100);
  });
});

it('A code that the API does not define is not repeated', () => {
  const said = (code: string) =>
    String(errorIn(credentialRefusalAnswer(answer(401, { error: { code, message: 'x' } }))).message);
  expect(said('invalid_api_key')).toContain('The upstream answered 401 invalid_api_key.');
  expect(said('sk_secret_code')).toContain('The upstream answered 401.');
});

it('A redacted transport ends with the inner one', async () => {
  const { transport, asked } = transportOf();
  await transport.shutdown();
  expect(asked).toEqual([['shutdown']]);
});
