import { expect, it } from 'vitest';
import { startTestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { user } from '../support/messages.ts';

const OLD = `k1:${'o'.repeat(32)}`;
const NEW = `k2:${'n'.repeat(32)}`;

/** Settings of two workers while the secrets are rotated: one has been restarted with the next setting, the other not yet. */
const steps = [
  ['the new secret is added last', OLD, `${OLD},${NEW}`],
  ['it is put first', `${OLD},${NEW}`, `${NEW},${OLD}`],
  ['the old one is removed', `${NEW},${OLD}`, NEW],
] as const;

it.each(steps)(
  'While secrets are rotated and %s, either worker forwards to the other and takes its tokens',
  async (_, before, after) => {
    await using earlier = await startTestBridge({ env: { HOLDFAST_SECRETS: before } });
    await using later = await startTestBridge({ env: { HOLDFAST_SECRETS: after }, beside: earlier });
    for (const [owner, other] of [
      [earlier, later],
      [later, earlier],
    ] as const) {
      const thread = `thread of ${owner.url}`;
      const ask = (at: typeof owner, input: unknown, token = '') =>
        post(
          at.url,
          { model: 'm', stream: true, store: false, input },
          { 'thread-id': thread, ...(token && { 'x-codex-turn-state': token }) },
        );
      const first = await ask(owner, [user('one')]);
      const token = String(first.headers['x-codex-turn-state']);
      const second = await ask(other, [user('one'), ...first.body.output, user('two')], token);
      // The owner itself answers: no other worker has the session's socket.
      expect([second.status, second.headers['x-holdfast-outcome']]).toEqual([200, 'live_reuse']);
      expect(second.headers['x-holdfast-session']).toBe(first.headers['x-holdfast-session']);
    }
  },
);
