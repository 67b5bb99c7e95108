import { afterEach, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { user } from '../support/messages.ts';
import { message, scripted } from './scripted.ts';

let at: TestBridge | undefined;
afterEach(async () => {
  await at?.close();
  at = undefined;
});

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

/** Sends the same conversation to an upstream that answers every request alone. Returns anchor and items of each request there. */
async function toForgetful(named: object, env: Record<string, string>) {
  await using upstream = await scripted({
    env,
    turn(turn) {
      turn.send('response.created', { response: turn.response(named) });
      turn.send('response.output_item.done', { output_index: 0, item: message(`answer-${turn.n}`) });
      const output = [message(`answer-${turn.n}`)];
      turn.send('response.completed', { response: turn.response({ ...named, status: 'completed', output }) });
      turn.end();
    },
  });
  let id: string | undefined;
  for (const word of ['one', 'two', 'three']) {
    const body = { model: 'm', stream: true, store: true, input: [user(word)], previous_response_id: id };
    const answer = await post(upstream.url, body);
    expect(answer.status).toBe(200);
    id = answer.body.id;
  }
  return upstream.turns.map(({ body }) => [body.previous_response_id ?? null, body.input.length]);
}

it.each([
  ['WebSocket', {}],
  ['HTTP', { HOLDFAST_UPSTREAM_TRANSPORT: 'http' }],
])(
  'An upstream that ignores anchors gets the whole context in a second attempt, and from then on in the first: %s',
  async (_how, env) => {
    const sent = await toForgetful({ previous_response_id: null }, env);
    expect(sent).toEqual([
      [null, 1],
      ['resp_0', 1],
      [null, 3],
      [null, 5],
    ]);
  },
);

it('An upstream that ignores anchors and does not show it gets none with HOLDFAST_UPSTREAM_ANCHORS=off', async () => {
  const sent = await toForgetful({}, { HOLDFAST_UPSTREAM_ANCHORS: 'off' });
  expect(sent).toEqual([
    [null, 1],
    [null, 3],
    [null, 5],
  ]);
});
