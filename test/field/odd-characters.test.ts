import { describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { post } from '../support/client.ts';
import { bodyOf, endsOf, startBridge, user } from './support.ts';

const ODD =
  'NUL \u0000\u0001\u001f high \ud83d low \udc00 \u2028\u2029 \ufeff \ufffe \uffff \u007f \\u0000 \\ " \u202e';
const called = (name: string) => ({
  type: 'function_call',
  call_id: `call_${ODD}`,
  name,
  arguments: JSON.stringify({ [ODD]: ODD }),
});
const output = { type: 'function_call_output', call_id: `call_${ODD}`, output: ODD };

describe('text that is hard to store or print', () => {
  it.each([
    ['in a message', [user(ODD)]],
    ['in a call and its output', [user('x'), called(ODD), output, user('y')]],
    ['in the names of members', [{ ...user('x'), [ODD]: { [ODD]: 1 }, '\u0000': 2 }]],
  ])('Odd text %s is answered, rebuilt after a restart, and continued', async (_, input) => {
    const at = await startBridge();
    const headers = { 'thread-id': 'odd' };
    const first = await post(at.url, bodyOf(input), headers);
    expect(endsOf(first)).toEqual(['response.completed']);
    expect(digestOf(first.body)).toBe(expectedDigest({ items: input as never }));
    await at.restart();
    const second = await post(at.url, bodyOf([user(ODD)], { previous_response_id: first.body.id }), headers);
    const whole = [...input, ...first.body.output, user(ODD)];
    expect(digestOf(second.body)).toBe(expectedDigest({ items: whole as never }));
    const third = await post(at.url, bodyOf([...whole, ...second.body.output, user('on')], { stream: false }), headers);
    expect(digestOf(third.body)).toBe(
      expectedDigest({ items: [...whole, ...second.body.output, user('on')] as never }),
    );
    // The second turn was sent whole, the third as a delta.
    expect(at.simulator.journal.of('create').map(({ previousResponseId: anchor }) => anchor !== null)).toEqual([
      false,
      false,
      true,
    ]);
  });

  it('Odd text in a model’s answer is stored and continued', async () => {
    const at = await startBridge();
    at.simulator.script.onTurn({ nth: 1 }, { kind: 'reply', output: [called('look')] });
    const headers = { 'thread-id': 'odd' };
    const first = await post(at.url, bodyOf([user('x')]), headers);
    expect(first.body.output).toMatchObject([called('look')]);
    await at.restart();
    const second = await post(at.url, bodyOf([output], { previous_response_id: first.body.id }), headers);
    expect(digestOf(second.body)).toBe(expectedDigest({ items: [user('x'), ...first.body.output, output] as never }));
  });

  it('Odd text in identifying fields fails at most its own request, with and without stream', async () => {
    const at = await startBridge();
    const fields = [
      { client_metadata: { turn_id: ODD, [ODD]: ODD } },
      { prompt_cache_key: ODD },
      { model: ODD },
      { metadata: { [ODD]: ODD } },
      { previous_response_id: `resp_${ODD}` },
      { conversation: `conv_${ODD}` },
      { instructions: ODD },
      { user: ODD, safety_identifier: ODD },
      { tools: [{ type: 'function', name: ODD, parameters: { [ODD]: {} } }] },
      { [ODD]: ODD },
    ];
    for (const [index, more] of fields.entries()) {
      const answer = await post(at.url, bodyOf([user('q')], { stream: index % 2 === 0, ...more }));
      expect([Object.keys(more), answer.status < 500]).toEqual([Object.keys(more), true]);
      if (answer.status === 200 && index % 2 === 0) expect(endsOf(answer)).toHaveLength(1);
    }
    for (const name of ['thread-id', 'session-id', 'idempotency-key', 'x-codex-turn-metadata', 'x-codex-turn-state']) {
      const answer = await post(at.url, bodyOf([user('q')]), { [name]: 'caf\u00e9 \u00ff {"turn_id":"\\u0000"}' });
      expect([name, answer.status]).toEqual([name, 200]);
    }
    expect(endsOf(await post(at.url, bodyOf([user('still here')])))).toEqual(['response.completed']);
  });
});
