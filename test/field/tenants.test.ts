import { request } from 'undici';
import { describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { post } from '../support/client.ts';
import { bodyOf, endsOf, startBridge, user } from './support.ts';

const shared = { HOLDFAST_UPSTREAM_KEY: 'sk-shared', HOLDFAST_API_KEYS: 'ann:key-ann,bob:key-bob' };

describe.each([
  ['of one upstream key', shared, true],
  ['with keys of their own', {}, false],
])('two tenants %s that use the same names', (_, env, oneKey) => {
  const names = { 'thread-id': 's', 'session-id': 's', 'idempotency-key': 'i' };
  const ask = (url: string, who: string, body: object, more: Record<string, string> = {}) =>
    post(url, { prompt_cache_key: 'same', ...body }, { ...names, authorization: `Bearer key-${who}`, ...more });

  it.each([true, false])(
    'Two tenants with the same names never see each other’s context (store: %s)',
    async (store) => {
      const at = await startBridge({ env });
      const secret = [user('the secret of ann')];
      const anns = await ask(at.url, 'ann', bodyOf(secret, { store }));
      const session = anns.headers['x-holdfast-session'];
      const token = anns.headers['x-codex-turn-state']!;
      const bobs = await ask(at.url, 'bob', bodyOf([user('bob')], { store }));
      expect(digestOf(bobs.body)).toBe(expectedDigest({ items: [user('bob')] as never }));
      expect(bobs.headers['x-holdfast-session']).not.toBe(session);

      const withToken = await ask(at.url, 'bob', bodyOf([user('more')], { store }), { 'x-codex-turn-state': token });
      if (withToken.status === 200) {
        expect(digestOf(withToken.body)).toBe(expectedDigest({ items: [user('more')] as never }));
        expect(withToken.headers['x-holdfast-session']).not.toBe(session);
      } else expect(withToken.status).toBe(400);

      // Repeating another tenant's words gives no access to what was generated from them.
      const words = [...secret, ...anns.body.output, user('and?')];
      const repeated = await ask(at.url, 'bob', bodyOf(words, { store }));
      expect(digestOf(repeated.body)).toBe(expectedDigest({ items: words as never }));
      expect(repeated.headers['x-holdfast-session']).not.toBe(session);
      expect(at.simulator.journal.of('create').at(-1)!.previousResponseId).toBeNull();

      const own = await ask(at.url, 'ann', bodyOf(words, { store }));
      expect(digestOf(own.body)).toBe(expectedDigest({ items: words as never }));
      expect(own.headers['x-holdfast-session']).toBe(session);

      if (!oneKey) return;
      const sent = at.simulator.journal.of('create').length;
      for (const stream of [true, false]) {
        const stolen = bodyOf([user('what was it?')], { store, stream, previous_response_id: anns.body.id });
        const refused = await ask(at.url, 'bob', stolen);
        expect([refused.status, refused.body.error?.code]).toEqual([400, 'previous_response_not_found']);
      }
      expect(at.simulator.journal.of('create')).toHaveLength(sent);
      for (const [method, path] of [
        ['GET', ''],
        ['DELETE', ''],
        ['POST', '/cancel'],
      ] as const) {
        const answer = await request(`${at.url}/v1/responses/${anns.body.id}${path}`, {
          method,
          headers: { authorization: 'Bearer key-bob' },
        });
        await answer.body.dump();
        expect([method, answer.statusCode]).toEqual([method, 404]);
      }
      const again = await ask(at.url, 'ann', bodyOf([user('go on')], { store, previous_response_id: own.body.id }));
      expect(endsOf(again)).toEqual(['response.completed']);
    },
  );
});
