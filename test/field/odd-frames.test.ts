import { describe, expect, it } from 'vitest';
import { type Asked, bodyOf, endsOf, startBoth, user } from './support.ts';

/** Replaces the sender of a turn, so that its events are not sent as one text frame each. */
function through(asked: Asked, send: (text: string) => void): void {
  const means = asked.socket!;
  const original = means.send.bind(means);
  means.send = ((data: string | Buffer, ...rest: never[]) =>
    typeof data === 'string' && rest.length === 0 ? send(data) : original(data, ...rest)) as never;
  asked.answer();
  means.send = original;
}

describe('frames on a socket', () => {
  it.each<[string, (asked: Asked) => void]>([
    ['binary frames', (asked) => through(asked, (text) => asked.socket!.send(Buffer.from(text), { binary: true }))],
    [
      'fragments that cut characters in two',
      (asked) =>
        through(asked, (text) => {
          const bytes = Buffer.from(text.replace('answer', 'é😀'));
          for (let at = 0; at < bytes.length; at += 3) {
            asked.socket!.send(bytes.subarray(at, at + 3), { binary: false, fin: at + 3 >= bytes.length });
          }
        }),
    ],
    [
      'an empty fragment at the end',
      (asked) =>
        through(asked, (text) => {
          asked.socket!.send(Buffer.from(text), { binary: false, fin: false });
          asked.socket!.send(Buffer.alloc(0), { binary: false, fin: true });
        }),
    ],
    [
      'frames with space in and around them',
      (asked) =>
        through(asked, (text) =>
          asked.socket!.send(Buffer.from(` ${text.replaceAll('":', '" : ')} `), { binary: false }),
        ),
    ],
    [
      'text frames that are no events',
      (asked) => {
        for (const noise of [
          '',
          'ping',
          '[]',
          'null',
          '"x"',
          '{}',
          '7',
          ': keepalive',
          '{"type":7}',
          '{"type":"ping"}',
        ]) {
          asked.send(noise);
        }
        asked.answer();
        asked.send('ping');
      },
    ],
    [
      'events of other protocols',
      (asked) => {
        asked.send({ type: 'session.updated', session: {} });
        asked.send({ type: 'conversation.item.created', item: { id: 'x' } });
        asked.answer();
      },
    ],
    [
      'telemetry about a reached limit',
      (asked) => {
        asked.send({ type: 'codex.rate_limits', rate_limits: { allowed: true, limit_reached: true, primary: null } });
        asked.send({ type: 'codex.rate_limits', rate_limits: null, credits: { has_credits: false } });
        asked.answer();
      },
    ],
  ])('A turn with %s is answered like any other', async (_, turn) => {
    const { ask, asked } = await startBoth(turn);
    const first = await ask(bodyOf([user('one')]), { 'thread-id': 't' });
    expect([first.status, endsOf(first)]).toEqual([200, ['response.completed']]);
    const second = await ask(bodyOf([user('one'), ...first.body.output, user('two')]), { 'thread-id': 't' });
    expect(endsOf(second)).toEqual(['response.completed']);
    expect(asked[1]!.body).toMatchObject({ input: [user('two')], previous_response_id: 'resp_1' });
  });

  it('Events of unknown types reach the client, and none of them ends the turn', async () => {
    const strange = [
      { type: 'response.brand_new.delta', delta: 'x' },
      { type: 'response.mcp_call.failed', item_id: 'mcp_1', output_index: 0 },
      { type: 'response.web_search_call.completed', item_id: 'ws_1' },
      { type: 'response.image_generation_call.incomplete', item_id: 'ig_1' },
    ];
    const { ask } = await startBoth((asked) => {
      asked.send({ type: 'response.created', response: { id: `resp_${asked.n}`, status: 'in_progress' } });
      for (const event of strange) asked.send(event);
      asked.send({ type: 'response.completed', response: { id: `resp_${asked.n}`, status: 'completed', output: [] } });
    });
    const answer = await ask(bodyOf([user('one')]));
    expect(answer.events.map(({ type }) => type)).toEqual([
      'response.created',
      ...strange.map(({ type }) => type),
      'response.completed',
    ]);
  });
});

describe('an error in the middle of a turn', () => {
  const error = {
    type: 'service_unavailable_error',
    code: 'server_is_overloaded',
    message: 'Overloaded.',
    param: null,
  };
  const failed = { id: 'resp_1', object: 'response', status: 'failed' };
  it.each<[string, object, string | null, number | null]>([
    ['as an error object', { type: 'error', sequence_number: 2, error }, 'server_is_overloaded', null],
    ['followed by a close', { type: 'error', error }, 'server_is_overloaded', 1011],
    [
      'with its fields on the event',
      { type: 'error', code: 'server_error', message: 'Sorry.', param: null },
      'server_error',
      null,
    ],
    ['as a failed response', { type: 'response.failed', response: { ...failed, error } }, 'server_is_overloaded', null],
    [
      'as a failed response without a reason',
      { type: 'response.failed', response: { ...failed, error: null } },
      null,
      null,
    ],
  ])(
    'An error sent %s is the turn’s only terminal with the provider’s code, and the next turn is served',
    async (_, frame, code, close) => {
      const { ask } = await startBoth((asked) => {
        if (asked.n > 1) return asked.answer();
        asked.send({ type: 'response.created', response: { id: 'resp_1', status: 'in_progress' } });
        asked.send({ type: 'response.in_progress', response: { id: 'resp_1', status: 'in_progress' } });
        asked.send(frame);
        if (close !== null) asked.socket!.close(close);
      });
      const answer = await ask(bodyOf([user('one')]), { 'thread-id': 't' });
      expect(endsOf(answer)).toEqual(['response.failed']);
      if (code !== null) expect(answer.body.error?.code).toBe(code);
      expect(endsOf(await ask(bodyOf([user('one')]), { 'thread-id': 't' }))).toEqual(['response.completed']);
    },
  );
});
