import { describe, expect, it } from 'vitest';
import { answerHeadFrame, headersIn, isBeginning, parseFrame } from '../../src/upstream/frames.ts';
import { MOST_FRAME_LEVELS } from '../../src/upstream/limits.ts';

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

describe('a frame ends its response', () => {
  it.each([
    ['response.completed', 'completed'],
    ['response.incomplete', 'incomplete'],
    ['response.failed', 'failed'],
    ['response.cancelled', 'failed'],
    ['response.canceled', 'failed'],
  ])('by the name %s as %s, whatever status it carries', (type, end) => {
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
  ])('by status %s of a whole response under a name that is not known', (status, end) => {
    for (const type of ['response.done', 'response.finished', 'response.all_over']) {
      const frame = { type, response: response({ status, output: [] }) };
      expect(read(frame)).toMatchObject({ kind: 'terminal', end });
    }
  });

  it('as completed by response.done without a status that says otherwise', () => {
    for (const given of [{}, { response: null }, { response: response() }, { response: response({ status: 'x' }) }])
      expect(read({ type: 'response.done', ...given })).toMatchObject({ kind: 'terminal', end: 'completed' });
  });
});

describe('a frame does not end its response', () => {
  it.each<[string, object]>([
    ['when its output is not there', { type: 'response.finished', response: response({ status: 'completed' }) }],
    [
      'when its output is no list',
      { type: 'response.finished', response: response({ status: 'completed', output: {} }) },
    ],
    [
      'when it is about an item',
      { type: 'response.item.done', response: response({ status: 'completed', output: [] }) },
    ],
    [
      'when only its name begins alike',
      { type: 'response.Done', response: response({ status: 'failed', output: [] }) },
    ],
    ['of another kind', { type: 'x.response.finished', response: response({ status: 'failed', output: [] }) }],
    [
      'when its status is not final',
      { type: 'response.finished', response: response({ status: 'queued', output: [] }) },
    ],
    ['when its response is a list', { type: 'response.finished', response: [] }],
    ['when its response is null', { type: 'response.finished', response: null }],
    ['when it is a delta', { type: 'response.delta', response: response({ status: 'completed', output: [] }) }],
  ])('%s', (_, frame) => {
    expect(read(frame)).toMatchObject({ kind: 'event', end: null, error: null });
  });

  it.each(['response.created', 'response.queued', 'response.in_progress'])(
    'when it begins it, whatever status stands in it: %s',
    (type) => {
      const parsed = read({ type, response: response({ status: 'completed', output: [] }) });
      expect(parsed).toMatchObject({ kind: type === 'response.created' ? 'created' : 'event', end: null });
      expect(isBeginning(parsed)).toBe(true);
    },
  );

  it('when another begins: it is no beginning', () => {
    for (const type of ['response.output_item.added', 'response.completed', 'error', ''])
      expect(isBeginning({ type })).toBe(false);
  });

  it('when it was steered, which only an incomplete one can be', () => {
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

describe('why a response failed', () => {
  const cancelled = { code: 'server_error', message: 'The provider cancelled the response.' };

  it('is said for one that was cancelled and says nothing itself', () => {
    for (const frame of [
      { type: 'response.cancelled', response: response() },
      { type: 'response.canceled' },
      { type: 'response.failed', response: response({ status: 'cancelled' }) },
      { type: 'response.failed', response: response({ status: 'canceled', error: null }) },
      { type: 'response.finished', response: response({ status: 'cancelled', output: [] }) },
    ])
      expect(read(frame).error).toMatchObject(cancelled);
  });

  it('is what it says, cancelled or not', () => {
    const error = { code: 'rate_limit_exceeded', message: 'Slow down.' };
    for (const type of ['response.failed', 'response.cancelled']) {
      expect(read({ type, response: response({ error }) }).error).toMatchObject(error);
      expect(read({ type, error, response: response() }).error).toMatchObject(error);
      expect(read({ type, error }).error).toMatchObject(error);
    }
  });

  it('is not that it was cancelled when it was not', () => {
    const { error } = read({ type: 'response.failed', response: response({ status: 'failed' }) });
    expect(error).toMatchObject({ code: null });
    expect(error!.message).not.toBe(cancelled.message);
  });

  it('is not said of one that did not fail', () => {
    for (const type of ['response.completed', 'response.incomplete'])
      expect(read({ type, response: response({ error: { code: 'x', message: 'y' } }) }).error).toBeNull();
  });
});

describe('the id of the response', () => {
  it.each<[string, object, string | null]>([
    ['stands in the response', { response: { id: 'a' }, response_id: 'b' }, 'a'],
    ['or beside it', { response_id: 'b' }, 'b'],
    ['or beside one without an id', { response: {}, response_id: 'b' }, 'b'],
    ['or beside one whose id is no text', { response: { id: 7 }, response_id: 'b' }, 'b'],
    ['or beside what is no response', { response: ['a'], response_id: 'b' }, 'b'],
    ['or nowhere', { id: 'a' }, null],
    ['and is a text', { response_id: 7 }, null],
    ['and is not in null', { response: null }, null],
  ])('%s', (_, more, id) => {
    expect(read({ type: 'response.in_progress', ...more }).responseId).toBe(id);
  });
});

describe('a frame is an error', () => {
  it.each<[string, object]>([
    ['by its type, with or without content', { type: 'error' }],
    ['by a code in the place of the type, with an error', { type: 'invalid_request_error', error: {} }],
    ['by a code in the place of the type, with a message', { type: 'invalid_request_error', message: 'no' }],
    ['without a type, by its error', { error: 'no' }],
    ['without a type, by its detail', { detail: 'no' }],
    ['with a type that is no text, by its error', { type: 7, error: {} }],
  ])('%s', (_, frame) => {
    const parsed = read(frame);
    expect(parsed).toMatchObject({ kind: 'error', type: 'error', end: null });
    expect(parsed.error).not.toBeNull();
  });

  it.each<[string, object]>([
    ['with a code in the place of the type and nothing beside it', { type: 'invalid_request_error' }],
    ['with such a code and an error that is no object', { type: 'invalid_request_error', error: 'no' }],
    ['with such a code and a list of errors', { type: 'invalid_request_error', error: [{}] }],
    ['with a type of its own', { type: 'something', error: {} }],
    ['with a type of a response', { type: 'response.steer.failed', error: {}, message: 'no' }],
  ])('but not %s', (_, frame) => {
    expect(read(frame)).toMatchObject({ kind: 'event', error: null });
  });

  it('and malformed with neither type, error nor detail', () => {
    for (const frame of [{}, { error: null, detail: null }, { message: 'x' }, { type: 7 }, { type: null }])
      expect(read(frame)).toEqual(nothing);
  });

  it('and malformed when it is no JSON object, with every field there', () => {
    for (const text of ['', '{', '[]', '[{"type":"error"}]', 'null', '7', '"x"'])
      expect(parseFrame(text)).toEqual(nothing);
  });
});

describe('a frame that only shows that the connection lives', () => {
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
  ])('is telemetry: %s', (type) => {
    expect(read({ type })).toMatchObject({ kind: 'telemetry', end: null, error: null, turnState: null, headers: null });
  });

  it.each(['codexa', 'x.codex.rate_limits', 'responsesapi', 'a.responsesapi.x', 'keepalives'])(
    'is not one whose name is merely like theirs: %s',
    (type) => {
      expect(read({ type }).kind).toBe('event');
    },
  );

  it('carries headers, and the turn state among them, only as metadata', () => {
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
  it('are texts under names in lower case, of a list its first', () => {
    const headers = { A: 'x', B: 7, C: true, D: ['first', 'second'], E: [], F: null, G: {}, H: [{}] };
    expect(headersIn({ headers })).toEqual({ a: 'x', b: '7', c: 'true', d: 'first' });
  });

  it('are none when there is nothing to read', () => {
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
  it('keeps its place in the stream as a frame with what concerns the client', () => {
    const text = answerHeadFrame({ 'x-request-id': 'req', 'content-type': 'text/event-stream' })!;
    const frame = parseFrame(text);
    expect(frame).toMatchObject({ kind: 'head', end: null, error: null });
    expect(frame.headers).toEqual(expect.not.objectContaining({ 'content-type': expect.anything() }));
    expect(Object.keys(frame.headers!)).toEqual(['x-request-id']);
  });

  it('is none when nothing in it does', () => {
    expect(answerHeadFrame({ 'content-type': 'text/event-stream' })).toBeNull();
    expect(answerHeadFrame({})).toBeNull();
  });
});

it('a frame that nests deeper than can be read is an error, whatever it says', () => {
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
