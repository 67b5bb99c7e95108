import { describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { post } from '../support/client.ts';
import { bodyOf, endsOf, message, startBoth, startBridge, user } from './support.ts';

describe('an anchor that was not created through the bridge', () => {
  it.each([
    ['over WebSocket, streamed', 'websocket', true],
    ['over WebSocket, in one object', 'websocket', false],
    ['over HTTP, streamed', 'http', true],
    ['over HTTP, in one object', 'http', false],
  ])(
    'An unknown anchor is resolved by the provider, and the line continues from it: %s',
    async (_, transport, stream) => {
      const at = await startBridge({ env: { HOLDFAST_UPSTREAM_TRANSPORT: transport } });
      const more = { stream, store: true };
      const elsewhere = await post(at.simulator.url.replace(/\/v1$/, ''), bodyOf([user('earlier')], more));
      const first = await post(at.url, bodyOf([user('one')], { ...more, previous_response_id: elsewhere.body.id }));
      const known = [user('earlier'), ...elsewhere.body.output, user('one')];
      expect(digestOf(first.body)).toBe(expectedDigest({ items: known as never }));
      expect(first.body.previous_response_id).toBe(elsewhere.body.id);
      await at.restart();
      const second = await post(at.url, bodyOf([user('two')], { ...more, previous_response_id: first.body.id }));
      expect(digestOf(second.body)).toBe(
        expectedDigest({ items: [...known, ...first.body.output, user('two')] as never }),
      );
      // A second line from the same anchor.
      const fork = await post(at.url, bodyOf([user('other')], { ...more, previous_response_id: elsewhere.body.id }));
      const forked = [user('earlier'), ...elsewhere.body.output, user('other')];
      expect(digestOf(fork.body)).toBe(expectedDigest({ items: forked as never }));
      const unknown = await post(at.url, bodyOf([user('x')], { ...more, previous_response_id: 'resp_never_was' }));
      expect([unknown.status, unknown.body.error?.code]).toEqual([400, 'previous_response_not_found']);
      expect(unknown.body.error).not.toHaveProperty('bridge_code');
    },
  );
});

it.each([
  ['auto', 'previous_response_not_found'],
  ['http', 'previous_response_not_found'],
  ['auto', 'unsupported_parameter'],
  ['http', 'unsupported_parameter'],
])('A refused anchor is recovered also after response.created has arrived (%s, %s)', async (transport, code) => {
  const env = { HOLDFAST_UPSTREAM_TRANSPORT: transport };
  const { ask, asked } = await startBoth((turn) => {
    if (turn.body.previous_response_id === undefined) return turn.answer(message(`msg_${turn.n}`, 'ok'));
    const id = `resp_x${turn.n}`;
    turn.send({ type: 'response.created', response: { id, status: 'in_progress', output: [] } });
    const error = { code, message: "Unsupported parameter: 'previous_response_id'." };
    turn.send({ type: 'response.failed', response: { id, status: 'failed', output: [], error } });
    turn.end();
  }, env);
  const first = await ask(bodyOf([user('one')], { store: true }), { 'thread-id': 't' });
  const body = bodyOf([user('two')], { store: true, previous_response_id: first.body.id });
  const second = await ask(body, { 'thread-id': 't' });
  expect(endsOf(second)).toEqual(['response.completed']);
  expect(second.events.filter(({ type }) => type === 'response.created')).toHaveLength(1);
  expect(asked.at(-1)!.body.input).toMatchObject([
    user('one'),
    { content: message('msg_1', 'ok').content },
    user('two'),
  ]);
});
