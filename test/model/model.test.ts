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
} from '../../src/testing/model/index.ts';
import { small } from './bounds.ts';
import { explored } from './table.ts';

/** Weakenings that take longer to find are planted by `npm run test:model -- --weakenings` only. */
const slow: readonly Weakness[] = ['startIgnoresEpoch', 'startIgnoresOwner'];
const cheap = (Object.keys(weaknesses) as Weakness[]).filter((name) => !slow.includes(name));

describe('the ownership protocol, explored exhaustively', () => {
  it.each(small)('keeps its promises within "$name"', ({ name, bounds }) => {
    const exploration = explore({ bounds });
    console.log(explored(name, exploration));
    const { violation } = exploration;
    expect(violation && tellStory(createWorld(bounds), violation.actions)).toBeNull();
    expect(exploration.exhausted).toBe(true);
  });

  it('has met every state of the session machine', () => {
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
  it.each(cheap)('notices by itself: %s', (name) => {
    const { bounds } = weaknesses[name];
    const { violation, states } = explore({ bounds, weakness: name });
    expect(violation).not.toBeNull();
    // As far as the weakened world had to be looked at, the sound one breaks nothing.
    expect(explore({ bounds, mostStates: states }).violation).toBeNull();
  });

  it('keeps a trace that can be told and gone again, and that leads nowhere without the weakness', () => {
    const exploration = explore({ bounds: weaknesses.noSelfClaim.bounds, weakness: 'noSelfClaim' });
    const trace = JSON.parse(JSON.stringify(traceOf(exploration)));
    const again = replay(trace);
    expect(again.broken).toBe(true);
    expect(again.story).toContain('The store refuses');
    expect(replay({ ...trace, weakness: null }).broken).toBe(false);
  });

  it('says when it has not seen everything', () => {
    const { exhausted, violation } = explore({ bounds: weaknesses.oldHead.bounds, mostStates: 1_000 });
    expect([exhausted, violation]).toEqual([false, null]);
  });
});
