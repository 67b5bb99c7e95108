import { describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { type Answer, doneItems, post } from '../support/client.ts';
import { bodyOf, startBridge, user } from './support.ts';

const expired = {
  message: 'Your authentication token has expired.',
  type: 'invalid_request_error',
  code: 'token_expired',
};

describe('an access token that expires during a conversation', () => {
  it.each([
    ['when the socket is dialled again', 'upgrade', true],
    ['on the socket that is open', 'frame', true],
    ['on the socket that is open, without a stream', 'frame', false],
    ['over HTTP', 'http', true],
  ])('An access token refused %s is refreshed by the client, and the turn is completed', async (_, where, stream) => {
    const env: Record<string, string> = where === 'http' ? { HOLDFAST_UPSTREAM_TRANSPORT: 'http' } : {};
    const at = await startBridge({ env });
    const { script } = at.simulator;
    const names = {
      'thread-id': 't',
      'session-id': 't',
      'chatgpt-account-id': 'acc-77',
      'x-codex-turn-metadata': JSON.stringify({ turn_id: 'turn-1' }),
    };
    const ask = (input: object[], token: string, more: Record<string, string> = {}) =>
      post(at.url, bodyOf(input as never, { stream }), { ...names, authorization: `Bearer ${token}`, ...more });
    // With a ChatGPT account the terminal may list no output: a streaming client keeps the streamed items.
    const output = (answer: Answer) => (stream ? doneItems(answer) : answer.body.output);
    const first = await ask([user('one')], 'token-old');
    const state = first.headers['x-codex-turn-state'];
    const kept: Record<string, string> = state === undefined ? {} : { 'x-codex-turn-state': state };
    const input = [user('one'), ...output(first), user('two')];

    if (where === 'upgrade') {
      at.simulator.dropAll();
      script.onUpgrade({}, { kind: 'refuse', status: 401, body: { error: expired } });
    } else script.onTurn({}, { kind: 'error', error: { status: 401, ...expired } });
    const refused = await ask(input, 'token-old', kept);
    expect([refused.status, refused.body.error?.code]).toEqual([401, 'token_expired']);
    expect(refused.body.error).not.toHaveProperty('bridge_code');

    const next = await ask(input, 'token-new', kept);
    expect(next.status).toBe(200);
    expect(digestOf({ output: output(next) })).toBe(expectedDigest({ items: input as never }));
    const last = [...input, ...output(next), user('three')];
    const third = await ask(last, 'token-new');
    expect(digestOf({ output: output(third) })).toBe(expectedDigest({ items: last as never }));
    const { connection } = at.simulator.journal.of('create').at(-1)!;
    const { headers } = at.simulator.journal.of('create').at(-1)!;
    const dialled = at.simulator.connections.find(({ id }) => id === connection)?.headers ?? headers;
    expect(dialled.authorization).toBe('Bearer token-new');
  });
});
