import { describe, expect, it } from 'vitest';
import { classifyRefusal, normaliseError, refusesAnchor, refusesAnchors } from '../../src/upstream/errors.ts';
import { UpstreamTurnState, upstreamHeaders } from '../../src/upstream/headers.ts';
import { requestOfFrame } from '../../src/upstream/http.ts';
import { httpAddress, webSocketAddress } from '../../src/upstream/port.ts';

const own = (authorization: string | null) => ({ authorization, keys: {}, isClients: true });

describe('headers that go upstream', () => {
  const codex = {
    authorization: 'Bearer sk-lab',
    'user-agent': 'codex_exec/0.169.0',
    originator: 'codex_exec',
    'session-id': 's1',
    'thread-id': 't1',
    'x-client-request-id': 't1',
    'x-codex-window-id': 't1:0',
    'x-codex-turn-metadata': '{"turn_id":"u1"}',
    'x-codex-beta-features': 'remote_compaction_v2',
    'chatgpt-account-id': 'acct',
  };

  it('Headers that identify the client, its thread and its account go upstream', () => {
    expect(upstreamHeaders({ client: codex, credential: own('Bearer sk-lab'), transport: 'http' })).toEqual(codex);
  });

  it('All other headers are dropped', () => {
    const client = {
      host: 'here',
      cookie: 'a=b',
      connection: 'keep-alive',
      'transfer-encoding': 'chunked',
      'content-length': '5',
      'content-type': 'application/json',
      'accept-encoding': 'gzip',
      'x-codex-turn-state': 'our-token',
      'x-holdfast-session': 'x',
      'x-forwarded-for': '10.0.0.1',
      'idempotency-key': 'k',
      'x-stainless-retry-count': '1',
      'proxy-authorization': 'Basic x',
      'x-unknown': 'y',
      originator: '',
    };
    expect(upstreamHeaders({ client, credential: own(null), transport: 'http' })).toEqual({});
  });

  it('The WebSocket protocol version of the bridge is sent beside the client’s own beta flags', () => {
    const beta = (given: string | undefined, transport: 'http' | 'websocket') =>
      upstreamHeaders({
        client: given === undefined ? {} : { 'openai-beta': given },
        credential: own(null),
        transport,
      })['openai-beta'];
    expect(beta(undefined, 'websocket')).toBe('responses_websockets=2026-02-06');
    expect(beta('assistants=v2, responses_websockets=2025-01-01', 'websocket')).toBe(
      'assistants=v2, responses_websockets=2026-02-06',
    );
    expect(beta('assistants=v2, responses_websockets=2026-02-06', 'http')).toBe('assistants=v2');
    expect(beta(undefined, 'http')).toBeUndefined();
  });

  it('Account headers are sent only with the credential that they came with', () => {
    const client = { ...codex, 'openai-organization': 'org', 'openai-project': 'proj' };
    const theirs = upstreamHeaders({ client, credential: own('Bearer sk-lab'), transport: 'websocket' });
    expect(theirs).toMatchObject({
      'openai-organization': 'org',
      'openai-project': 'proj',
      'chatgpt-account-id': 'acct',
    });
    const shared = upstreamHeaders({
      client,
      credential: { ...own('Bearer shared'), isClients: false },
      transport: 'websocket',
    });
    expect(shared.authorization).toBe('Bearer shared');
    for (const name of ['openai-organization', 'openai-project', 'chatgpt-account-id']) {
      expect(shared).not.toHaveProperty(name);
    }
  });
});

describe('upstream addresses', () => {
  it('An upstream address is below the base URL, and keeps its query', () => {
    expect(httpAddress('https://api.test/v1/', '/responses').href).toBe('https://api.test/v1/responses');
    expect(httpAddress('https://api.test/v1?api-version=3', '/responses/r?stream=false').href).toBe(
      'https://api.test/v1/responses/r?api-version=3&stream=false',
    );
    expect(webSocketAddress('https://api.test/v1', '/responses').href).toBe('wss://api.test/v1/responses');
    expect(webSocketAddress('http://127.0.0.1:81', '/responses').href).toBe('ws://127.0.0.1:81/responses');
  });

  it.each(['/../admin', '/responses/../../admin', '/responses/%2e%2e/x', '/a/./b', 'responses', '\\..\\x', '/a#b'])(
    'An upstream address cannot leave the base URL by %s',
    (path) => {
      expect(() => httpAddress('https://api.test/v1', path)).toThrow(TypeError);
    },
  );

  it('An upstream address is http or https only', () => {
    expect(() => httpAddress('file:///etc', '/passwd')).toThrow(TypeError);
    expect(() => httpAddress('nonsense', '/responses')).toThrow(TypeError);
  });
});

describe('a refused upgrade', () => {
  it.each([
    ['relay', [400, 401, 402, 403, 409, 410, 413, 429]],
    ['no_websocket', [404, 405, 426, 501, 200, 201, 204]],
    ['retry', [500, 502, 503, 504, 529]],
  ] as const)('A refused upgrade with an error of the API means %s for %j', (meaning, statuses) => {
    const body = Buffer.from('{"error":{"message":"no","type":"invalid_request_error"}}');
    for (const status of statuses) expect(classifyRefusal({ status, body })).toBe(meaning);
  });

  it.each([
    ['a challenge page', '<!DOCTYPE html><title>Just a moment...</title>', [400, 403, 302, 429]],
    ['an empty body', '', [400, 401, 403]],
    ['plain text', 'Bad Request', [400, 403]],
    ['a framework’s answer for a missing route', '{"detail":"Forbidden"}', [400, 403]],
  ] as const)('A refused upgrade with %s comes from an intermediary without WebSocket', (_what, text, statuses) => {
    for (const status of statuses) expect(classifyRefusal({ status, body: Buffer.from(text) })).toBe('no_websocket');
  });

  it.each([401, 429])(
    'A refused upgrade about the credential or the quota is relayed also in the form of Python services: %i',
    (status) => {
      expect(classifyRefusal({ status, body: Buffer.from('{"detail":"slow"}') })).toBe('relay');
    },
  );
});

describe('a refusal of the anchor', () => {
  const meaning = (status: number, body: object) => {
    const error = normaliseError({ status, headers: {}, body: Buffer.from(JSON.stringify(body)) });
    return refusesAnchors(error) ? 'any' : refusesAnchor(error) ? 'this one' : 'neither';
  };

  it.each([
    ['any', 400, { detail: 'Unsupported parameter: previous_response_id' }],
    [
      'any',
      400,
      { error: { code: 'unknown_parameter', param: 'previous_response_id', message: 'Unknown parameter.' } },
    ],
    ['any', 422, { detail: [{ loc: ['body', 'previous_response_id'], type: 'extra_forbidden', msg: 'Extra inputs' }] }],
    [
      'any',
      400,
      {
        error: {
          code: 'invalid_prompt',
          message: 'Invalid',
          metadata: { raw: 'previous_response_id is not supported' },
        },
      },
    ],
    [
      'this one',
      400,
      { error: { message: "Previous response with id 'resp_1' not found.", param: 'previous_response_id' } },
    ],
    ['any', 400, { error: { message: 'Stateful conversation via previous_response_id is not supported' } }],
    ['any', 400, { error: { message: 'Together does not support previous_response_id.' } }],
    ['any', 501, { error: { message: 'previous_response_id is not implemented' } }],
    [
      'any',
      400,
      {
        error: {
          message: 'Previous response cannot be used for this organization due to Zero Data Retention.',
          param: 'previous_response_id',
        },
      },
    ],
    ['this one', 404, { error: { message: "Response with id 'resp_1' not found.", param: 'response_id', code: 404 } }],
    ['neither', 400, { error: { message: 'previous_response_id cannot be used together with conversation' } }],
    ['neither', 400, { error: { message: 'previous_response_id is not supported together with a conversation' } }],
    ['neither', 400, { error: { message: 'Unsupported parameter: temperature', param: 'temperature' } }],
    ['neither', 500, { error: { message: 'Unsupported parameter: previous_response_id' } }],
  ] as const)('A refusal of the anchor is recognised as %s (%i %j)', (expected, status, body) => {
    expect(meaning(status, body)).toBe(expected);
  });
});

describe('the provider’s turn state', () => {
  it('The provider’s turn state is sent back within its own turn, with the turn’s first value', () => {
    const state = new UpstreamTurnState();
    expect(state.for('t1')).toBeNull();
    state.learn('t1', 'a');
    state.learn('t1', 'b');
    expect(state.for('t1')).toBe('a');
    expect(state.for('t1')).toBe('a');
  });

  it('The provider’s turn state is dropped at the next turn', () => {
    const state = new UpstreamTurnState();
    state.learn('t1', 'a');
    expect(state.for('t2')).toBeNull();
    expect(state.for('t1')).toBeNull();
    state.learn('t2', 'b');
    expect(state.for('t2')).toBe('b');
    state.learn('t3', 'c');
    expect(state.for('t3')).toBe('c');
  });

  it('The provider’s turn state is never sent with a request without a turn id', () => {
    const state = new UpstreamTurnState();
    state.learn(null, 'a');
    expect(state.for(null)).toBeNull();
    expect(state.for('t1')).toBeNull();
  });

  it('The provider’s turn state is not kept when it is too long for a header', () => {
    const state = new UpstreamTurnState();
    state.learn('t1', 'x'.repeat(16_385));
    expect(state.for('t1')).toBeNull();
    state.learn('t1', 'x'.repeat(16_384));
    expect(state.for('t1')).toHaveLength(16_384);
  });

  it('The provider’s turn state of a warm-up is used by the first turn after it', () => {
    const state = new UpstreamTurnState();
    state.learn('', 'warm');
    expect(state.for('t1')).toBe('warm');
    state.learn('t1', 'later');
    expect(state.for('t1')).toBe('warm');
    expect(state.for('t2')).toBeNull();
  });
});

describe('a create frame as an HTTP request', () => {
  const frame = (fields: object) => JSON.stringify({ type: 'response.create', model: 'm', input: [], ...fields });

  it('A create frame becomes the flat body with stream: true', () => {
    const { headers, body } = requestOfFrame(frame({ store: false }), { authorization: 'Bearer x' });
    expect(JSON.parse(body)).toEqual({ model: 'm', input: [], store: false, stream: true });
    expect(headers).toEqual({
      authorization: 'Bearer x',
      'content-type': 'application/json',
      accept: 'text/event-stream',
    });
  });

  it('A background request keeps its own choice of stream', () => {
    const stream = (fields: object) =>
      JSON.parse(requestOfFrame(frame({ background: true, ...fields }), {}).body).stream;
    expect(stream({})).toBeUndefined();
    expect(requestOfFrame(frame({ background: true }), {}).headers.accept).toBe('application/json');
    expect(stream({ stream: false })).toBe(false);
    expect(stream({ stream: true })).toBe(true);
  });

  it('A create frame carries the provider’s turn state as a header', () => {
    const client_metadata = { 'x-codex-turn-state': 'ts', thread_id: 't' };
    const { headers, body } = requestOfFrame(frame({ client_metadata }), {});
    expect(headers['x-codex-turn-state']).toBe('ts');
    expect(JSON.parse(body).client_metadata).toEqual({ thread_id: 't' });
  });

  it('A create frame is otherwise sent byte for byte', () => {
    const text = '"10" : 1.0, "n":9223372036854775807,"9":[-0 ,1E400],"s":"\\u0041\\/", "stream":true }';
    expect(requestOfFrame(`{"type":"response.create",${text}`, {}).body).toBe(`{${text}`);
    const state = '{"type":"response.create","client_metadata":{"x-codex-turn-state":"ts", "n": 1.0},"stream":true}';
    expect(requestOfFrame(state, {}).body).toBe('{"client_metadata":{"n": 1.0},"stream":true}');
    expect(requestOfFrame('{"type":"response.create","stream":false, "n":1.0}', {}).body).toBe(
      '{"stream":true, "n":1.0}',
    );
  });
});
