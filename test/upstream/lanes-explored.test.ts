import { expect, it } from 'vitest';
import { exploreLanes, type Weakening, weakenings } from '../verification/lanes.ts';

it('Within seven steps no session gets another context, another frame or an anchor that the provider does not hold', () => {
  const { states, complete, violation } = exploreLanes(null, 7);
  expect(violation).toBeNull();
  expect(complete).toBe(true);
  console.log(`shared sockets: ${states} states`);
}, 120_000);

it.each(Object.entries(weakenings) as [Weakening, string][])(
  '%s is found: %s',
  (weak) => {
    const { violation } = exploreLanes(weak, 8);
    expect(violation).not.toBeNull();
  },
  120_000,
);
