import { describe, expect, it } from 'vitest';
import { answerHeadFrame, headersIn, isBeginning, parseFrame, responseIdOf } from '../../src/upstream/frames.ts';
import { MOST_FRAME_LEVELS } from '../../src/upstream/port.ts';

const read = (frame: unknown) => parseFrame(JSON.stringify(frame));
const nothing = {
  kind: 'malformed',
  type: '',
  data: null,
  responseId: null,
  end: null,
  error: null,
  turnState: null,
  headers: null,
};
const response = (more: object = {}) => ({ id: 'resp_1', ...more });

describe('frames that end a response', () => {
  it.each([
    ['response.completed', 'completed'],
    ['response.incomplete', 'incomplete'],
    ['response.failed', 'failed'],
    ['response.cancelled', 'failed'],
    ['response.canceled', 'failed'],
  ])('A frame named %s ends its response as %s, whatever status it carries', (type, end) => {
    for (const status of [undefined, 'in_progress', 'completed', 'failed'])
      expect(read({ type, response: response({ status }) })).toMatchObject({ kind: 'terminal', end });
    expect(read({ type })).toMatchObject({ kind: 'terminal', end, responseId: null });
  });

  it.each([
    ['completed', 'completed'],
    ['incomplete', 'incomplete'],
    ['failed', 'failed'],
    ['cancelled', 'failed'],
    ['canceled', 'failed'],
  ])('A frame of unknown name ends its response with the status %s of a whole response', (status, end) => {
    for (const type of ['response.done', 'response.finished', 'response.all_over']) {
      const frame = { type, response: response({ status, output: [] }) };
      expect(read(frame)).toMatchObject({ kind: 'terminal', end });
    }
  });

  it('A response.done frame without another status ends its response as completed', () => {
    for (const given of [{}, { response: null }, { response: response() }, { response: response({ status: 'x' }) }])
      expect(read({ type: 'response.done', ...given })).toMatchObject({ kind: 'terminal', end: 'completed' });
  });
});

describe('frames that do not end a response', () => {
  it.each<[string, object]>([
    ['when its output is missing', { type: 'response.finished', response: response({ status: 'completed' }) }],
    [
      'when its output is no list',
      { type: 'response.finished', response: response({ status: 'completed', output: {} }) },
    ],
    [
      'when it is about an item',
      { type: 'response.item.done', response: response({ status: 'completed', output: [] }) },
    ],
    ['when its name differs in case', { type: 'response.Done', response: response({ status: 'failed', output: [] }) }],
    [
      'when its name has another prefix',
      { type: 'x.response.finished', response: response({ status: 'failed', output: [] }) },
    ],
    [
      'when its status is not final',
      { type: 'response.finished', response: response({ status: 'queued', output: [] }) },
    ],
    ['when its response is a list', { type: 'response.finished', response: [] }],
    ['when its response is null', { type: 'response.finished', response: null }],
    ['when it is a delta', { type: 'response.delta', response: response({ status: 'completed', output: [] }) }],
  ])('A frame does not end its response %s', (_, frame) => {
    expect(read(frame)).toMatchObject({ kind: 'event', end: null, error: null });
  });

  it.each(['response.created', 'response.queued', 'response.in_progress'])(
    'A frame that begins a response does not end it, whatever its status: %s',
    (type) => {
      const parsed = read({ type, response: response({ status: 'completed', output: [] }) });
      expect(parsed).toMatchObject({ kind: type === 'response.created' ? 'created' : 'event', end: null });
      expect(isBeginning(parsed)).toBe(true);
    },
  );

  it('A frame of any other type does not begin a response', () => {
    for (const type of ['response.output_item.added', 'response.completed', 'error', ''])
      expect(isBeginning({ type })).toBe(false);
  });

  it('A steered frame does not end its response, and only an incomplete one can be steered', () => {
    const steered = response({ incomplete_details: { reason: 'steered' } });
    expect(read({ type: 'response.incomplete', response: steered })).toMatchObject({ kind: 'event', end: null });
    expect(read({ type: 'response.completed', response: steered })).toMatchObject({ kind: 'terminal' });
    expect(read({ type: 'response.failed', response: steered })).toMatchObject({ kind: 'terminal', end: 'failed' });
    for (const incomplete_details of [null, 'steered', [], { reason: 'max_output_tokens' }])
      expect(read({ type: 'response.incomplete', response: response({ incomplete_details }) })).toMatchObject({
        kind: 'terminal',
        end: 'incomplete',
      });
    expect(read({ type: 'response.incomplete', incomplete_details: { reason: 'steered' } })).toMatchObject({
      kind: 'terminal',
    });
  });
});

describe('the error of a failed response', () => {
  const cancelled = { code: 'server_error', message: 'The provider cancelled the response.' };

  it('A cancelled response without an error gets one', () => {
    for (const frame of [
      { type: 'response.cancelled', response: response() },
      { type: 'response.canceled' },
      { type: 'response.failed', response: response({ status: 'cancelled' }) },
      { type: 'response.failed', response: response({ status: 'canceled', error: null }) },
      { type: 'response.finished', response: response({ status: 'cancelled', output: [] }) },
    ])
      expect(read(frame).error).toMatchObject(cancelled);
  });

  it('A failed response has its own error, cancelled or not', () => {
    const error = { code: 'rate_limit_exceeded', message: 'Slow down.' };
    for (const type of ['response.failed', 'response.cancelled']) {
      expect(read({ type, response: response({ error }) }).error).toMatchObject(error);
      expect(read({ type, error, response: response() }).error).toMatchObject(error);
      expect(read({ type, error }).error).toMatchObject(error);
    }
  });

  it('A failed response that was not cancelled does not get the cancellation error', () => {
    const { error } = read({ type: 'response.failed', response: response({ status: 'failed' }) });
    expect(error).toMatchObject({ code: null });
    expect(error!.message).not.toBe(cancelled.message);
  });

  it('A response that did not fail has no error', () => {
    for (const type of ['response.completed', 'response.incomplete'])
      expect(read({ type, response: response({ error: { code: 'x', message: 'y' } }) }).error).toBeNull();
  });
});

describe('the id of the response', () => {
  it.each<[string, object, string | null]>([
    ['is the one in the response', { response: { id: 'a' }, response_id: 'b' }, 'a'],
    ['may be beside the response', { response_id: 'b' }, 'b'],
    ['may be beside a response without an id', { response: {}, response_id: 'b' }, 'b'],
    ['may be beside a response whose id is no text', { response: { id: 7 }, response_id: 'b' }, 'b'],
    ['may be beside an invalid response', { response: ['a'], response_id: 'b' }, 'b'],
    ['is never the id of the frame itself', { id: 'a' }, null],
    ['must be a text', { response_id: 7 }, null],
    ['is missing when the response is null', { response: null }, null],
  ])('The response id of a frame %s', (_, more, id) => {
    expect(read({ type: 'response.in_progress', ...more }).responseId).toBe(id);
  });
});

describe('the response that an event announces', () => {
  it.each([
    ['response.created', { response: response() }, 'resp_1'],
    ['response.in_progress', { response: response() }, 'resp_1'],
    ['response.output_text.delta', { response: response() }, null],
    ['response.completed', { response: response() }, null],
    ['response.created', {}, null],
    ['response.created', { response: null }, null],
    ['response.created', { response: {} }, null],
    ['response.created', { response: { id: '' } }, null],
    ['response.created', { response: { id: 7 } }, null],
  ])('%s %j', (type, frame, id) => {
    expect(responseIdOf(type, JSON.stringify({ type, ...frame }))).toBe(id);
  });
});

describe('error frames', () => {
  it.each<[string, object]>([
    ['by its type, with or without content', { type: 'error' }],
    ['by a code in the place of the type, with an error', { type: 'invalid_request_error', error: {} }],
    ['by a code in the place of the type, with a message', { type: 'invalid_request_error', message: 'no' }],
    ['without a type, by its error', { error: 'no' }],
    ['without a type, by its detail', { detail: 'no' }],
    ['with a type that is no text, by its error', { type: 7, error: {} }],
  ])('A frame is an error %s', (_, frame) => {
    const parsed = read(frame);
    expect(parsed).toMatchObject({ kind: 'error', type: 'error', end: null });
    expect(parsed.error).not.toBeNull();
  });

  it.each<[string, object]>([
    ['with a code in the place of the type and nothing beside it', { type: 'invalid_request_error' }],
    [
      'with a code in the place of the type and an error that is no object',
      { type: 'invalid_request_error', error: 'no' },
    ],
    ['with a code in the place of the type and a list of errors', { type: 'invalid_request_error', error: [{}] }],
    ['with an unrelated type', { type: 'something', error: {} }],
    ['with a type of a response', { type: 'response.steer.failed', error: {}, message: 'no' }],
  ])('A frame is not an error %s', (_, frame) => {
    expect(read(frame)).toMatchObject({ kind: 'event', error: null });
  });

  it('A frame without type, error and detail is a malformed error', () => {
    for (const frame of [{}, { error: null, detail: null }, { message: 'x' }, { type: 7 }, { type: null }])
      expect(read(frame)).toEqual(nothing);
  });

  it('A frame that is no JSON object is a malformed error with every field', () => {
    for (const text of ['', '{', '[]', '[{"type":"error"}]', 'null', '7', '"x"'])
      expect(parseFrame(text)).toEqual(nothing);
  });
});

describe('telemetry frames', () => {
  it.each([
    'response.metadata',
    'codex.response.metadata',
    'keepalive',
    'heartbeat',
    'ping',
    'pong',
    'response.keepalive',
    'response.heartbeat',
    'codex.rate_limits',
    'responsesapi.websocket_timing',
  ])('A frame of type %s is telemetry', (type) => {
    expect(read({ type })).toMatchObject({ kind: 'telemetry', end: null, error: null, turnState: null, headers: null });
  });

  it.each(['codexa', 'x.codex.rate_limits', 'responsesapi', 'a.responsesapi.x', 'keepalives'])(
    'A frame with a merely similar name is not telemetry: %s',
    (type) => {
      expect(read({ type }).kind).toBe('event');
    },
  );

  it('Only a metadata frame carries headers and the turn state', () => {
    const headers = { 'X-Codex-Turn-State': 'state', Other: 'x' };
    for (const type of ['response.metadata', 'codex.response.metadata'])
      expect(read({ type, headers })).toMatchObject({
        kind: 'turn_state',
        turnState: 'state',
        headers: { 'x-codex-turn-state': 'state', other: 'x' },
      });
    for (const type of ['keepalive', 'codex.rate_limits'])
      expect(read({ type, headers })).toMatchObject({ kind: 'telemetry', turnState: null, headers: null });
    expect(read({ type: 'response.metadata', headers: { Other: 'x' } })).toMatchObject({
      kind: 'telemetry',
      turnState: null,
      headers: { other: 'x' },
    });
  });
});

describe('headers in a frame', () => {
  it('Headers in a frame are texts under lower-case names, the first of a list', () => {
    const headers = { A: 'x', B: 7, C: true, D: ['first', 'second'], E: [], F: null, G: {}, H: [{}] };
    expect(headersIn({ headers })).toEqual({ a: 'x', b: '7', c: 'true', d: 'first' });
  });

  it('A frame without readable headers has none', () => {
    for (const data of [
      null,
      {},
      { headers: null },
      { headers: [] },
      { headers: 'x' },
      { headers: {} },
      { headers: { A: {} } },
    ])
      expect(headersIn(data)).toBeNull();
  });
});

describe('the head of an HTTP answer', () => {
  it('The head of an HTTP answer becomes a frame in the stream with the headers for the client', () => {
    const text = answerHeadFrame({ 'x-request-id': 'req', 'content-type': 'text/event-stream' })!;
    const frame = parseFrame(text);
    expect(frame).toMatchObject({ kind: 'head', end: null, error: null });
    expect(frame.headers).toEqual(expect.not.objectContaining({ 'content-type': expect.anything() }));
    expect(Object.keys(frame.headers!)).toEqual(['x-request-id']);
  });

  it('The head of an HTTP answer without such headers becomes no frame', () => {
    expect(answerHeadFrame({ 'content-type': 'text/event-stream' })).toBeNull();
    expect(answerHeadFrame({})).toBeNull();
  });
});

it('A frame nested deeper than can be read is an error, whatever its content', () => {
  const nested = (levels: number) => {
    const inner = levels - 1;
    return `{"type":"response.output_text.delta","delta":${'['.repeat(inner)}${']'.repeat(inner)}}`;
  };
  expect(parseFrame(nested(MOST_FRAME_LEVELS)).kind).toBe('event');
  expect(parseFrame(nested(MOST_FRAME_LEVELS + 1))).toEqual({
    ...nothing,
    kind: 'error',
    type: 'error',
    error: expect.objectContaining({ status: 502, code: 'server_error', type: 'server_error' }),
  });
});
