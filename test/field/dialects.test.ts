import { describe, expect, it } from 'vitest';
import { post, terminalsOf } from '../support/client.ts';
import { message, type ScriptedTurn, scripted, user, usual } from './scripted.ts';

const ask = (text: string, more: object = {}) => ({
  model: 'm',
  stream: true,
  store: false,
  input: [user(text)],
  ...more,
});
const transports = ['websocket', 'http'] as const;
/** Short deadlines, so that a turn that is not understood fails with a terminal that names its deadline. */
const limits = (transport: string) => ({
  HOLDFAST_UPSTREAM_TRANSPORT: transport,
  HOLDFAST_FIRST_EVENT_MS: '5000',
  HOLDFAST_STREAM_SILENCE_MS: '5000',
});
const item = { output_index: 0, item: message('ok') };
const whole = (turn: ScriptedTurn, fields: object = {}) =>
  turn.response({ status: 'completed', output: [message('ok')], ...fields });

describe.each(transports)('a provider over %s', (transport) => {
  const answered = async (turn: (turn: ScriptedTurn) => void) => {
    await using at = await scripted({
      env: limits(transport),
      turn(given) {
        turn(given);
        given.end();
      },
    });
    return await post(at.url, ask('one'), { 'session-id': 's' });
  };

  it.each<[string, (turn: ScriptedTurn) => void]>([
    ['has no beginning', () => {}],
    ['begins with response.in_progress', (turn) => turn.send('response.in_progress', { response: turn.response() })],
    ['begins with response.queued', (turn) => turn.send('response.queued', { response: turn.response() })],
    ['creates without an id', (turn) => turn.send('response.created', { response: turn.response({ id: undefined }) })],
    [
      'begins with telemetry',
      (turn) => {
        turn.send('codex.rate_limits', { rate_limits: {} });
        turn.send('codex.response.metadata', { headers: { a: 'b' } });
        turn.send('response.created', { response: turn.response() });
      },
    ],
  ])('A stream of the provider that %s is understood', async (_, begin) => {
    const answer = await answered((turn) => {
      begin(turn);
      turn.send('response.output_item.done', item);
      turn.send('responsesapi.websocket_timing', { ms: 3 });
      turn.send('response.completed', { response: whole(turn) });
    });
    expect(terminalsOf(answer).map(({ type }) => type)).toEqual(['response.completed']);
    expect(answer.events.filter(({ type }) => type === 'response.output_item.done')).toHaveLength(1);
    expect(answer.body.id).toBe('resp_0');
  });

  it.each<[string, object, string]>([
    ['response.done', { status: 'completed' }, 'response.completed'],
    ['response.done', { status: 'incomplete' }, 'response.incomplete'],
    ['response.done', { status: 'failed', error: { code: 'boom', message: 'b' } }, 'response.failed'],
    ['response.done', { status: undefined }, 'response.completed'],
    ['response.cancelled', { status: 'cancelled' }, 'response.failed'],
    ['response.canceled', { status: 'canceled' }, 'response.failed'],
    ['response.expired', { status: 'incomplete' }, 'response.incomplete'],
  ])('A stream that ends with %s %j ends the turn as %s', async (type, fields, shown) => {
    const answer = await answered((turn) => {
      turn.send('response.created', { response: turn.response() });
      turn.send('response.output_item.done', item);
      turn.send(type, { response: whole(turn, fields), n: 1 });
    });
    const last = answer.events.at(-1)!;
    expect([last.type, last.data.type, last.data.n]).toEqual([shown, shown, 1]);
    if (shown === 'response.failed') expect(answer.body.error?.message).toBeTruthy();
  });

  it('Tools and items may end without ending the response', async () => {
    const ends = [
      'response.mcp_call.failed',
      'response.code_interpreter_call.completed',
      'response.mcp_list_tools.failed',
    ];
    const answer = await answered((turn) => {
      turn.send('response.created', { response: turn.response() });
      for (const type of ends) turn.send(type, { response: whole(turn), item_id: 'x' });
      turn.send('response.in_progress', { response: whole(turn) });
      turn.send('response.something_new', { response: turn.response() });
      turn.send('response.completed', { response: whole(turn) });
    });
    expect(answer.events.map(({ type }) => type)).toEqual([
      'response.created',
      ...ends,
      'response.in_progress',
      'response.something_new',
      'response.completed',
    ]);
  });

  it('A response whose id differs in every event is known by its last id', async () => {
    await using at = await scripted({
      env: limits(transport),
      turn(turn) {
        turn.send('response.created', { response: turn.response({ id: `${turn.id}_a` }) });
        turn.send('response.in_progress', { response: turn.response({ id: `${turn.id}_b` }) });
        turn.send('response.output_item.done', { ...item, response_id: `${turn.id}_c` });
        turn.send('response.completed', { response: whole(turn, { id: `${turn.id}_d` }) });
        turn.end();
      },
    });
    const first = await post(at.url, ask('one'), { 'session-id': 's' });
    expect(first.events.map(({ type }) => type)).toEqual([
      'response.created',
      'response.in_progress',
      'response.output_item.done',
      'response.completed',
    ]);
    expect(first.body.id).toBe('resp_0_d');
    const second = await post(at.url, ask('two', { previous_response_id: 'resp_0_d' }), { 'session-id': 's' });
    expect(second.status).toBe(200);
    if (transport !== 'websocket') return;
    expect(second.headers['x-holdfast-outcome']).toBe('live_reuse');
    expect(at.turns[1]!.body.previous_response_id).toBe('resp_0_d');
  });

  it('JSON over several lines reaches the client as one data line per event, digits unchanged', async () => {
    const answer = await answered((turn) => {
      for (const [type, response] of [
        ['response.created', turn.response()],
        ['response.completed', whole(turn)],
      ] as const) {
        const pretty = JSON.stringify({ type, response }, null, 2);
        turn.raw(pretty.replace(/\}$/, ',\r\n "seed": 9223372036854775807\n}'));
      }
    });
    // The client of these tests accepts exactly one `event` and one `data` line.
    expect(answer.events.map(({ type }) => type)).toEqual(['response.created', 'response.completed']);
    expect(answer.text).toContain('9223372036854775807');
  });

  it('A terminal without output gets the streamed items in a JSON answer', async () => {
    const send = (turn: ScriptedTurn) => {
      turn.send('response.created', { response: turn.response() });
      turn.raw(
        '{"type":"response.output_item.done","output_index":0,"item":{"type":"message","role":"assistant","content":[],"n":1.0}}',
      );
      turn.raw(`{"type":"response.completed","response":{"id":"${turn.id}","output":[],"big":9223372036854775807}}`);
      turn.end();
    };
    await using at = await scripted({ env: limits(transport), turn: send });
    const json = await post(at.url, ask('one', { stream: false }), { 'session-id': 'a' });
    expect(json.text).toContain('"output":[{"type":"message","role":"assistant","content":[],"n":1.0}]');
    expect(json.text).toContain('"big":9223372036854775807');
    const streamed = await post(at.url, ask('one'), { 'session-id': 'b' });
    expect(streamed.text).toContain('"output":[],"big":9223372036854775807');
  });
});

it.each(transports)('Items that end out of order are listed by index in a JSON answer over %s', async (transport) => {
  await using at = await scripted({
    env: limits(transport),
    turn(turn) {
      if (turn.n > 0) return usual(turn);
      turn.send('response.created', { response: turn.response() });
      for (const output_index of [2, 0, 1])
        turn.send('response.output_item.done', { output_index, item: message(`${output_index}`) });
      turn.send('response.completed', { response: turn.response({ status: 'completed' }) });
      turn.end();
    },
  });
  const output = ['0', '1', '2'].map((text) => message(text));
  const first = await post(at.url, ask('one', { stream: false }), { 'session-id': 's' });
  expect(first.body.output).toEqual(output);
  const second = await post(at.url, ask('one', { stream: false, input: [user('one'), ...output, user('two')] }));
  expect(second.status).toBe(200);
  if (transport === 'websocket') expect(at.turns[1]!.body.input).toEqual([user('two')]);
});

it('A stream that ends without a terminal is an error', async () => {
  await using at = await scripted({
    env: limits('http'),
    turn(turn) {
      turn.send('response.created', { response: turn.response() });
      turn.send('response.output_item.done', item);
      turn.end();
    },
  });
  const answer = await post(at.url, ask('one'));
  expect(terminalsOf(answer).map(({ type }) => type)).toEqual(['response.failed']);
  expect(answer.body.error?.bridge_code).toBe('bridge_upstream_lost');
});

it('A response without an id is continued without an anchor, because the provider never issued one', async () => {
  await using at = await scripted({
    env: limits('websocket'),
    turn(turn) {
      turn.send('response.created', { response: turn.response({ id: undefined }) });
      turn.send('response.output_item.done', item);
      turn.send('response.completed', { response: whole(turn, { id: undefined }) });
    },
  });
  const input = [user('one')];
  await post(at.url, { ...ask(''), input }, { 'session-id': 's' });
  await post(at.url, { ...ask(''), input: [...input, message('ok'), user('two')] }, { 'session-id': 's' });
  expect(at.turns[1]!.body.previous_response_id ?? null).toBeNull();
  expect(at.turns[1]!.body.input).toHaveLength(3);
});

describe('a late frame of an earlier turn on its socket', () => {
  const late = (turn: ScriptedTurn, id: string) => {
    turn.send('response.output_text.delta', { delta: 'late', response_id: id });
    turn.send('response.completed', {
      response: turn.response({ id, status: 'completed', output: [message('late')] }),
    });
  };

  it.each<[string, (turn: ScriptedTurn) => void]>([
    [
      'before the next turn begins',
      (turn) => {
        late(turn, 'resp_0');
        usual(turn);
      },
    ],
    [
      'without an id, before the next turn begins',
      (turn) => {
        turn.send('response.output_text.delta', { delta: 'late' });
        usual(turn);
      },
    ],
    [
      'with a failed or running status, before the next turn begins',
      (turn) => {
        turn.send('response.in_progress', { response: turn.response({ id: 'resp_0', output: [message('late')] }) });
        turn.send('response.failed', { response: turn.response({ id: 'resp_0', status: 'failed', error: null }) });
        usual(turn);
      },
    ],
    [
      'after the next turn began',
      (turn) => {
        turn.send('response.created', { response: turn.response() });
        late(turn, 'resp_0');
        turn.send('response.completed', { response: whole(turn) });
      },
    ],
    [
      'of a response that began during the turn',
      (turn) => {
        turn.send('response.created', { response: turn.response() });
        turn.send('response.created', { response: turn.response({ id: 'resp_other' }) });
        late(turn, 'resp_other');
        turn.send('response.completed', { response: whole(turn) });
      },
    ],
  ])('A late frame %s does not reach another turn', async (_, second) => {
    await using at = await scripted({
      env: limits('websocket'),
      turn: (turn) => (turn.n === 0 ? usual(turn) : second(turn)),
    });
    const first = await post(at.url, ask('one'), { 'session-id': 's' });
    const answer = await post(at.url, ask('two', { previous_response_id: first.body.id }), { 'session-id': 's' });
    expect(at.turns).toHaveLength(2);
    expect(answer.text).not.toContain('late');
    expect(answer.body.id).toBe('resp_1');
  });
});
