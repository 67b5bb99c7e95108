import { afterEach, expect, it } from 'vitest';
import { type TestBridge, testBridge } from '../../src/testing/index.ts';
import { answerEvents, user } from '../recordings/conversation.ts';
import { type Player, startPlayer } from '../recordings/player.ts';
import { post } from '../support/client.ts';

let at: TestBridge;
let player: Player;
afterEach(async () => {
  await at.close();
  await player.close();
});

const said = (text: string) => ({
  id: 'msg_1',
  type: 'message',
  status: 'completed',
  role: 'assistant',
  content: [{ type: 'output_text', text, annotations: [] }],
});

it('Only the newest response is continued when an upstream gives every response the same id', async () => {
  player = await startPlayer();
  player.program(
    'Bearer sk-test',
    ['A', 'B', 'C'].map((text) => ({ events: answerEvents('resp_same', [said(text)]) })),
  );
  at = await testBridge({ env: { HOLDFAST_UPSTREAM_URL: player.url } });
  const ask = (...input: object[]) => post(at.url, { model: 'm', stream: true, input }, { 'thread-id': 'a-thread' });
  await ask(user('one'));
  await ask(user('one'), said('A'), user('two'));
  await ask(user('one'), said('A'), user('two, edited'));
  const sent = player.received('Bearer sk-test').map(({ body }) => [body.previous_response_id, body.input]);
  expect(sent).toEqual([
    [undefined, [user('one')]],
    ['resp_same', [user('two')]],
    [undefined, [user('one'), said('A'), user('two, edited')]],
  ]);
});
