import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { explore, transitionCover, turnModel } from '../../../src/testing/index.ts';
import { openRealWorld, type RealWorld } from './session-world.ts';
import { driveTurn } from './turn-driver.ts';
import { turnGraph, uncausable } from './turn-facts.ts';
import { watchMachine } from './watch.ts';

const watch = watchMachine(explore(turnModel));
const paths = transitionCover(turnGraph);
let world: RealWorld;

beforeAll(async () => {
  world = await openRealWorld([watch as never]);
});
afterAll(async () => world?.close());

describe('a real turn', () => {
  it.each(paths)('A real turn follows its machine: $name', (path) => driveTurn(world, watch, path));

  it('The paths take every turn transition that a world can cause', () => {
    const { transitions, states, line } = watch.coverage.report();
    console.log(`executed, ${line}; ${paths.length} paths`);
    expect(states.missing).toEqual([]);
    expect(transitions.missing.toSorted()).toEqual(Object.keys(uncausable).toSorted());
  });
});
