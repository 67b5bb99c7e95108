import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { explore, sessionModel, transitionCover } from '../../../src/testing/index.ts';
import { drive } from './session-driver.ts';
import { sessionGraph, uncausable } from './session-facts.ts';
import { openRealWorld, type RealWorld } from './session-world.ts';
import { watchMachine } from './watch.ts';

const watch = watchMachine(explore(sessionModel));
type SessionStep = (typeof sessionGraph.initial.steps)[number];

/**
 * Not only every transition: every event that is not ignored, in every state in which a world can cause it. The long
 * form does so for every difference the world's facts make.
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
  it.each(paths)('follows its machine: $name', async (path) => {
    ignored += await drive(world, watch, path);
  });

  it('has taken every transition that a world can cause', () => {
    const { transitions, states, line } = watch.coverage.report();
    console.log(`executed, ${line}; ${paths.length} paths, ${ignored} events ignored on the way`);
    expect(states.missing).toEqual([]);
    expect(transitions.missing.toSorted()).toEqual(Object.keys(uncausable).toSorted());
  });
});
