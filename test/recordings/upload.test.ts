import { afterEach, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest, type TestBridge, testBridge } from '../../src/testing/index.ts';
import type { Item } from '../../src/transcript/types.ts';
import { keptItems, sentAgain } from '../support/answered.ts';
import { post } from '../support/client.ts';
import { answeredItems, user, WAYS } from './conversation.ts';

/** Size of the client's context before its first question, in bytes. */
const HISTORY = 36 * 1024;
const TURNS = 20;

let at: TestBridge;
afterEach(() => at?.close());

describe.each(WAYS)('a conversation of twenty turns over 36 KB, continued $name', ({ form, drops }) => {
  it.each([true, false])(
    'A conversation of twenty turns uploads a twentieth of what its client sends, on one socket, keyed %s',
    async (keyed) => {
      at = await testBridge({ simulator: { seed: 51, reasoning: true } });
      const items: Item[] = [user('A long story. '.repeat(HISTORY / 14))];
      let client = 0;
      const sessions = new Set<string | undefined>();
      for (let turn = 0; turn < TURNS; turn += 1) {
        items.push(user(`Question ${turn}?`));
        const body = JSON.stringify({
          model: 'gpt-5.5',
          stream: true,
          store: false,
          include: ['reasoning.encrypted_content'],
          input: items,
        });
        client += Buffer.byteLength(body);
        const answer = await post(at.url, body, keyed ? { 'thread-id': 'long' } : {});
        expect(digestOf(answer.body)).toBe(expectedDigest({ items: items as never }));
        expect(answer.body).not.toHaveProperty('input_transformations');
        sessions.add(answer.headers['x-holdfast-session']);
        items.push(...sentAgain(keptItems(answeredItems(answer), form), drops));
      }
      const creates = at.simulator.journal.of('create');
      const up = creates.reduce((sum, { bytes }) => sum + bytes, 0);
      expect(creates).toHaveLength(TURNS);
      expect(up / client, `${up} of ${client} bytes`).toBeLessThanOrEqual(0.06);
      expect(sessions.size).toBe(1);
      expect(new Set(creates.map(({ connection }) => connection)).size).toBe(1);
    },
  );
});
