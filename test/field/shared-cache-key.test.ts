import { describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { post } from '../support/client.ts';
import { bodyOf, type Item, startBridge, user } from './support.ts';

const CONVERSATIONS = 8;
const TURNS = 3;

describe('conversations of one application that names them all alike', () => {
  it.each<[string, object, (index: number) => string]>([
    ['by one prompt_cache_key', { prompt_cache_key: 'my-app' }, (index) => `I am ${index}`],
    [
      'by one user and one cache key',
      { prompt_cache_key: 'my-app', user: 'service', safety_identifier: 's' },
      (index) => `I am ${index}`,
    ],
    ['and that begin with the same words', { prompt_cache_key: 'my-app', instructions: 'Be kind.' }, () => 'hello'],
  ])('%s run at once, each on its own line, and continue as deltas', async (_, more, opening) => {
    const at = await startBridge();
    const lines = Array.from({ length: CONVERSATIONS }, (): Item[] => []);
    for (let turn = 0; turn < TURNS; turn += 1) {
      // Every turn of the round is held at the provider until all of them are there: none waits for another.
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
  });
});
