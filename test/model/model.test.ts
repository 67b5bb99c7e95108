import { describe, expect, it } from 'vitest';
import { sessionMachine } from '../../machines/session.ts';
import {
  createWorld,
  explore,
  replay,
  tellStory,
  traceOf,
  visitedStates,
  type Weakness,
  weaknesses,
} from '../verification/model/index.ts';
import { small } from './bounds.ts';
import { explored } from './table.ts';

/** Weakenings that take longer to find are planted only by `npm run test:model -- --weakenings`. */
const slow: readonly Weakness[] = ['startIgnoresEpoch', 'startIgnoresOwner'];
const cheap = (Object.keys(weaknesses) as Weakness[]).filter((name) => !slow.includes(name));

describe('the ownership protocol explored exhaustively', () => {
  it.each(small)('The protocol keeps its guarantees within the bounds "$name"', ({ name, bounds }) => {
    const exploration = explore({ bounds });
    console.log(explored(name, exploration));
    const { violation } = exploration;
    expect(violation && tellStory(createWorld(bounds), violation.actions)).toBeNull();
    expect(exploration.exhausted).toBe(true);
  });

  it('The exploration visits every state of the session machine', () => {
    const leaves: string[] = [];
    const collect = ({ id, type, states }: { id: string; type: string; states: object }): void => {
      if (type === 'atomic' || type === 'final') leaves.push(id);
      for (const child of Object.values(states)) collect(child);
    };
    collect(sessionMachine.root);
    const visited = visitedStates();
    expect(leaves.filter((leaf) => !visited.has(leaf))).toEqual([]);
  });
});

describe('the checker', () => {
  it.each(cheap)('The checker finds the planted weakening %s', (name) => {
    const { bounds } = weaknesses[name];
    const { violation, states } = explore({ bounds, weakness: name });
    expect(violation).not.toBeNull();
    // The sound protocol has no violation within the same number of states.
    expect(explore({ bounds, mostStates: states }).violation).toBeNull();
  });

  it('A stored trace can be printed and replayed, and leads to no violation without the weakness', () => {
    const exploration = explore({ bounds: weaknesses.noSelfClaim.bounds, weakness: 'noSelfClaim' });
    const trace = JSON.parse(JSON.stringify(traceOf(exploration)));
    const again = replay(trace);
    expect(again.broken).toBe(true);
    expect(again.story).toContain('The store refuses');
    expect(replay({ ...trace, weakness: null }).broken).toBe(false);
  });

  it('The checker reports a bound that it did not exhaust', () => {
    const { exhausted, violation } = explore({ bounds: weaknesses.oldHead.bounds, mostStates: 1_000 });
    expect([exhausted, violation]).toEqual([false, null]);
  });
});
