import { afterEach, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { user } from '../support/messages.ts';

let at: TestBridge;
afterEach(() => at.close());

const unsupported = {
  status: 400,
  type: 'invalid_request_error',
  code: 'unsupported_parameter',
  message: "Unsupported parameter: 'previous_response_id'.",
  param: 'previous_response_id',
};

it.each([
  ['a WebSocket, unstored', 'on', false],
  ['a WebSocket, stored', 'on', true],
  ['HTTP, stored', 404, true],
] as const)(
  'An upstream that refuses anchors gets the whole context in a second attempt, and from then on in the first: %s',
  async (_how, webSocket, store) => {
    at = await startTestBridge({ simulator: { webSocket } });
    at.simulator.script.onTurn(
      { anchored: true },
      { kind: 'error', error: unsupported, at: 'before_created' },
      { times: 'always' },
    );
    const items: unknown[] = [];
    let id: string | undefined;
    for (const word of ['one', 'two', 'three', 'four']) {
      const body = { model: 'm', stream: true, store, input: [user(word)], previous_response_id: id };
      const answer = await post(at.url, body);
      expect(digestOf(answer.body)).toBe(expectedDigest({ items: [...items, user(word)] as never }));
      items.push(user(word), ...answer.body.output);
      id = answer.body.id;
    }
    const anchored = at.simulator.journal.of('create').map(({ previousResponseId }) => previousResponseId !== null);
    expect(anchored).toEqual([false, true, false, false, false]);
  },
);

it('A refusal of anchors is relayed when the context cannot be rebuilt', async () => {
  at = await startTestBridge({ simulator: { webSocket: 404 } });
  at.simulator.script.onTurn({ anchored: true }, { kind: 'error', error: unsupported, at: 'before_created' });
  const answer = await post(at.url, {
    model: 'm',
    stream: true,
    input: [user('two')],
    previous_response_id: 'resp_elsewhere',
  });
  expect(answer.status).toBe(400);
  expect(answer.body.error).toMatchObject({ code: 'unsupported_parameter' });
});
