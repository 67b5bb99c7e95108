import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { explore, pathAlong, sessionModel, transitionCover } from '../../../src/testing/index.ts';
import { drive } from './session-driver.ts';
import { sessionGraph, uncausable } from './session-facts.ts';
import { openRealWorld, type RealWorld } from './session-world.ts';
import { watchMachine } from './watch.ts';

const watch = watchMachine(explore(sessionModel));
type SessionStep = (typeof sessionGraph.initial.steps)[number];

/**
 * Coverage goals: every event that is not ignored in every state in which a world can cause it, which is more than
 * every transition. The long form also covers every combination of the world's facts.
 */
const goals =
  process.env.EXECUTED_PATHS === 'all'
    ? ({ from, variant }: SessionStep) => [`${from.key} × ${variant.name}`]
    : ({ from, variant }: SessionStep) => [`${from.configuration} × ${variant.name}`];
const paths = transitionCover(sessionGraph, { maxLength: 14, goals });
let world: RealWorld;
let ignored = 0;

beforeAll(async () => {
  world = await openRealWorld([watch as never]);
});
afterAll(async () => world?.close());

describe('a real session', () => {
  it.each(paths)('A real session follows its machine: $name', async (path) => {
    ignored += await drive(world, watch, path);
  });

  it('A real session ends every orphan it meets, not only the first one', async () => {
    const orphan = ['store.busy', 'store.cleared', 'store.head_moved', 'turn.wanted'];
    const begin = ['socket.opened', 'store.started (socketOpen, leaseValid: false)', 'store.settled (socketOpen)'];
    const names = [...begin, 'turn.wanted', ...orphan, ...orphan];
    await drive(world, watch, pathAlong(sessionGraph, names));
  });

  it('The paths take every session transition that a world can cause', () => {
    const { transitions, states, line } = watch.coverage.report();
    console.log(`executed, ${line}; ${paths.length} paths, ${ignored} events ignored on the way`);
    expect(states.missing).toEqual([]);
    expect(transitions.missing.toSorted()).toEqual(Object.keys(uncausable).toSorted());
  });
});
