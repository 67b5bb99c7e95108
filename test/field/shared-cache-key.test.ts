import { describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { post } from '../support/client.ts';
import { bodyOf, type Item, startBridge, user } from './support.ts';

const CONVERSATIONS = 8;
const TURNS = 3;

describe('conversations of one application that share a name', () => {
  it.each<[string, object, (index: number) => string]>([
    ['by one prompt_cache_key', { prompt_cache_key: 'my-app' }, (index) => `I am ${index}`],
    [
      'by one user and one cache key',
      { prompt_cache_key: 'my-app', user: 'service', safety_identifier: 's' },
      (index) => `I am ${index}`,
    ],
    [
      'by one prompt_cache_key and begin with the same words',
      { prompt_cache_key: 'my-app', instructions: 'Be kind.' },
      () => 'hello',
    ],
  ])(
    'Conversations that are all named %s run concurrently, each on its own line, and continue as deltas',
    async (_, more, opening) => {
      const at = await startBridge();
      const lines = Array.from({ length: CONVERSATIONS }, (): Item[] => []);
      for (let turn = 0; turn < TURNS; turn += 1) {
        // The provider holds every turn of the round until all have arrived, which proves that none waits for another.
        const rules = lines.map((_line, index) =>
          at.simulator.script.onTurn({}, [
            { kind: 'reply', output: `answer ${index} of round ${turn}` },
            { kind: 'hold', at: 'after_created' },
          ]),
        );
        const held = at.simulator.journal.count('held', CONVERSATIONS * (turn + 1));
        const answers = lines.map((line, index) => {
          line.push(user(turn === 0 ? opening(index) : `${index} says ${turn}`));
          return post(at.url, bodyOf(line, more));
        });
        await held;
        for (const rule of rules) rule.release();
        for (const [index, answer] of (await Promise.all(answers)).entries()) {
          const { instructions } = more as { instructions?: string };
          expect(digestOf(answer.body)).toBe(expectedDigest({ items: lines[index] as never, instructions }));
          lines[index]!.push(...answer.body.output);
        }
      }
      const later = at.simulator.journal.of('create').slice(CONVERSATIONS);
      const deltas = later.filter(({ previousResponseId: anchor }) => anchor !== null);
      expect(deltas.length).toBeGreaterThanOrEqual((later.length * 2) / 3);
    },
  );
});
