import OpenAI from 'openai';
import { describe, expect, it } from 'vitest';
import { decodeMessage, encodeMessage, headMessage } from '../../src/cluster/forward/protocol.ts';
import { clientHeaders, headersOfRateLimits } from '../../src/upstream/headers.ts';
import { framesOfAnswer } from '../../src/upstream/http.ts';
import { post } from '../support/client.ts';
import { until } from '../support/until.ts';
import { connectSocket } from '../support/websocket.ts';
import { message, scripted, user, usual } from './scripted.ts';
import { startBridge } from './support.ts';

const ask = (text: string, more: object = {}) => ({
  model: 'm',
  stream: true,
  store: false,
  input: [user(text)],
  ...more,
});
const said = {
  'x-reasoning-included': 'true',
  'openai-model': 'gpt-test-2026',
  'x-models-etag': 'W/"abc"',
  'openai-version': '2020-10-01',
  'openai-processing-ms': '7',
  'x-codex-primary-used-percent': '42',
  'x-codex-safety-buffering-enabled': 'true',
  'x-codex-promo-message': 'half price',
  'x-ratelimit-remaining-requests': '9',
  'x-request-id': 'req_up_1',
  'x-codex-turn-state': 'the providers own',
  'set-cookie': 'a=b',
  'cf-ray': 'zzz',
};
const lines = Object.entries(said).map(([name, value]) => `${name}: ${value}`);
const limits = (used: number, more: object = {}) => ({
  plan_type: 'pro',
  rate_limits: { allowed: true, primary: { used_percent: used, window_minutes: 300, reset_at: 1_779_398_785 } },
  ...more,
});

describe.each(['websocket', 'http'] as const)('response headers of the provider over %s', (transport) => {
  it.each([true, false])(
    'Signal headers of the provider reach the client of the turn, and its other headers do not (streamed: %s)',
    async (stream) => {
      await using at = await scripted({
        env: { HOLDFAST_UPSTREAM_TRANSPORT: transport },
        handshake: lines,
        answerHead: said,
        turn: (turn) => usual(turn),
      });
      const { headers } = await post(at.url, ask('one', { stream }), { 'session-id': 's' });
      const { 'x-request-id': id, 'x-codex-turn-state': _state, 'set-cookie': _c, 'cf-ray': _r, ...carried } = said;
      expect(headers).toMatchObject({ ...carried, 'x-upstream-request-id': id });
      expect(headers['x-request-id']).not.toBe(id);
      expect(headers['x-codex-turn-state']).not.toBe(said['x-codex-turn-state']);
      expect(headers).not.toHaveProperty('set-cookie');
      expect(headers).not.toHaveProperty('cf-ray');
      await until(() => at.lines.length === 1);
      expect(at.lines[0]!.upstreamRequest).toBe(id);
    },
  );
});

it('Headers of an upgrade apply to every turn on its socket, except those of a single answer, which apply to the first', async () => {
  await using at = await scripted({ handshake: lines, turn: (turn) => usual(turn) });
  const first = await post(at.url, ask('one'), { 'session-id': 's' });
  const second = await post(at.url, ask('two', { previous_response_id: first.body.id }), { 'session-id': 's' });
  expect(at.turns.map(({ transport }) => transport)).toEqual(['websocket', 'websocket']);
  const { 'x-reasoning-included': a, 'openai-model': b, 'x-codex-primary-used-percent': c } = said;
  expect(second.headers).toMatchObject({
    'x-reasoning-included': a,
    'openai-model': b,
    'x-codex-primary-used-percent': c,
  });
  for (const once of ['openai-processing-ms', 'x-upstream-request-id', 'x-ratelimit-remaining-requests'])
    expect(second.headers).not.toHaveProperty(once);
  await until(() => at.lines.length === 2);
  expect(at.lines[1]!.upstreamRequest).toBeNull();
  // The model name of the first turn must not appear on a request for another model.
  const other = ask('three', { previous_response_id: second.body.id, model: 'gpt-other' });
  const third = await post(at.url, other, { 'session-id': 's' });
  expect(third.headers).toMatchObject({ 'x-reasoning-included': a });
  expect(third.headers).not.toHaveProperty('openai-model');
});

describe('rate limits in events', () => {
  it('Rate-limit events before the status line become headers of the same answer and replace older values', async () => {
    await using at = await scripted({
      handshake: [...lines, 'x-codex-primary-reset-after-seconds: 1'],
      turn(turn) {
        turn.send(
          'codex.rate_limits',
          limits(51, { credits: { has_credits: true, unlimited: false, balance: '12.5' } }),
        );
        usual(turn);
      },
    });
    const { headers, events } = await post(at.url, ask('one'), { 'session-id': 's' });
    expect(headers).toMatchObject({
      'x-codex-primary-used-percent': '51',
      'x-codex-primary-window-minutes': '300',
      'x-codex-primary-reset-at': '1779398785',
      'x-codex-credits-has-credits': 'true',
      'x-codex-credits-unlimited': 'false',
      'x-codex-credits-balance': '12.5',
      'x-codex-plan-type': 'pro',
      'x-codex-promo-message': 'half price',
    });
    expect(headers).not.toHaveProperty('x-codex-primary-reset-after-seconds');
    expect(events.map(({ type }) => type)).not.toContain('codex.rate_limits');
  });

  it('Rate-limit events after a turn become headers of the next turn on that socket', async () => {
    await using at = await scripted({
      turn(turn) {
        usual(turn);
        if (turn.n === 0) turn.send('codex.rate_limits', limits(77));
      },
    });
    const first = await post(at.url, ask('one'), { 'session-id': 's' });
    const second = await post(at.url, ask('two', { previous_response_id: first.body.id }), { 'session-id': 's' });
    expect(second.headers['x-codex-primary-used-percent']).toBe('77');
  });

  it('Events of a named limit get headers of their own and replace no other limit', async () => {
    await using at = await scripted({
      turn(turn) {
        turn.send('codex.rate_limits', limits(1));
        turn.send('codex.rate_limits', limits(2, { metered_limit_name: 'codex_other' }));
        usual(turn);
      },
    });
    const { headers } = await post(at.url, ask('one'), { 'session-id': 's' });
    expect(headers['x-codex-primary-used-percent']).toBe('1');
    expect(headers['x-codex-other-primary-used-percent']).toBe('2');
  });

  it.each<[string, object]>([
    ['no limits', {}],
    ['a limit that has no headers', limits(1, { metered_limit_name: 'evil\r\nset-cookie' })],
    ['other types', { rate_limits: { primary: { used_percent: {} }, secondary: 7 }, credits: [] }],
  ])('Rate-limit events with %s add no headers', (_, event) => {
    expect(headersOfRateLimits(event as never)).toBeNull();
  });
});

it('A metadata event is shown over WebSocket, without the provider’s turn state, and not over HTTP', async () => {
  await using at = await scripted({
    turn(turn) {
      turn.send('codex.response.metadata', { headers: { 'X-Codex-Turn-State': 'secret', 'openai-model': 'routed' } });
      usual(turn);
    },
  });
  const answer = await post(at.url, ask('one'), { 'session-id': 's' });
  expect(answer.headers['openai-model']).toBe('routed');
  expect(answer.text).not.toMatch(/secret|metadata/);
  using client = await connectSocket(at.url);
  const [first] = await client.create(ask('one'));
  expect(first).toMatchObject({ type: 'codex.response.metadata', headers: { 'openai-model': 'routed' } });
  expect(JSON.stringify(client.events)).not.toContain('secret');
});

it('The openai package, which rejects unknown events, streams an answer that the provider surrounds with telemetry', async () => {
  const at = await startBridge();
  const client = new OpenAI({ baseURL: `${at.url}/v1`, apiKey: 'sk-test', maxRetries: 0 });
  const answer = await client.responses.stream({ model: 'm', input: 'one' }).finalResponse();
  expect(answer.status).toBe('completed');
});

it('The provider’s turn state is not sent as a header of a refusal, nor of an API call other than a turn', async () => {
  const at = await startBridge();
  const headers = { 'x-codex-turn-state': 'the providers own', 'openai-version': '2020-10-01' };
  const error = { message: 'No.', type: 'invalid_request_error', code: 'nope', param: null };
  at.simulator.script.onUpgrade({}, { kind: 'refuse', status: 429, headers, body: { error } });
  const refused = await post(at.url, ask('one'));
  expect([refused.status, refused.headers['openai-version']]).toEqual([429, '2020-10-01']);
  expect(refused.headers).not.toHaveProperty('x-codex-turn-state');
  at.simulator.script.onRequest({ method: 'GET' }, { kind: 'respond', status: 200, headers, body: '{}' });
  const listed = await fetch(`${at.url}/v1/models`);
  expect([listed.status, listed.headers.get('openai-version')]).toEqual([200, '2020-10-01']);
  expect(listed.headers.get('x-codex-turn-state')).toBeNull();
});

it('An error frame sets the same headers that an HTTP error answer would', async () => {
  await using at = await scripted({
    turn: (turn) =>
      turn.send('error', {
        status: 429,
        error: { code: 'usage_limit_reached', message: 'No.', resets_in_seconds: 30 },
        headers: { 'x-codex-primary-used-percent': 100, 'set-cookie': 'a', 'x-codex-turn-state': 'x' },
      }),
  });
  const { status, headers } = await post(at.url, ask('one'), { 'session-id': 's' });
  expect([status, headers['x-codex-primary-used-percent'], headers['retry-after']]).toEqual([429, '100', '30']);
  expect(headers).not.toHaveProperty('set-cookie');
});

it('A turn that failed with a rate limit has a retry delay on its JSON answer', async () => {
  const error = { code: 'rate_limit_exceeded', message: 'Rate limit reached. Please try again in 7.5s.' };
  await using at = await scripted({
    turn(turn) {
      turn.send('response.created', { response: turn.response() });
      turn.send('response.failed', { response: turn.response({ status: 'failed', error }) });
    },
  });
  const { status, headers } = await post(at.url, ask('one', { stream: false }), { 'session-id': 's' });
  expect([status, headers['retry-after']]).toEqual([429, '8']);
});

it('A value that no header can carry does not end the answer, and UTF-8 is sent as its bytes', () => {
  expect(clientHeaders({ 'x-codex-promo-message': 'a\r\nb', 'openai-model': 'm' })).toEqual({ 'openai-model': 'm' });
  const { 'x-codex-promo-message': promo } = clientHeaders({ 'x-codex-promo-message': '50 % – now' });
  expect(Buffer.from(promo!, 'latin1').toString('utf8')).toBe('50 % – now');
});

it('The head of an answer is forwarded between workers with its headers', () => {
  const headers = { 'x-codex-promo-message': 'half price, today', 'openai-model': 'm' };
  const line = headMessage({ outcome: 'created', sessionId: 's', token: null, headers });
  expect(decodeMessage(Buffer.from(encodeMessage(line)))).toEqual(line);
  expect(() => decodeMessage(Buffer.from(encodeMessage({ ...line, headers: { a: 'b\r\nc' } } as never)))).toThrow();
});

it('A response.failed event that the bridge makes has the fields that SDKs require', async () => {
  await using at = await scripted({
    env: { HOLDFAST_STATUS_HOLD_MS: '0', HOLDFAST_FIRST_EVENT_MS: '200' },
    turn: () => {},
  });
  const { events } = await post(at.url, ask('one', { model: 'gpt-asked' }), { 'session-id': 's' });
  expect(events.map(({ type }) => type)).toEqual(['response.created', 'response.failed']);
  for (const { data } of events) {
    expect(data.response).toMatchObject({ model: 'gpt-asked', created_at: expect.any(Number), output: [], tools: [] });
    expect(data.response).toHaveProperty('incomplete_details', null);
  }
});

it('The JSON answer of a provider without streams keeps its digits', () => {
  const item = JSON.stringify(message('ok')).replace(/\}$/, ',"big":9223372036854775807,"n":1.0}');
  const body = Buffer.from(`{"id":"r","status":"completed","output":[${item}],"created_at":1.0}`);
  const frames = framesOfAnswer({ status: 200, headers: {}, body });
  expect(frames.map((frame) => JSON.parse(frame).sequence_number)).toEqual([0, 1, 2, 3]);
  expect(frames[2]).toContain(`"item":${item}`);
  expect(frames[3]).toContain(`"response":${body}`);
});
