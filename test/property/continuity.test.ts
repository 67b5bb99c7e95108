import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { action, type Counts, converse, habits } from './conversation.ts';
import { openWorld, type PropertyWorld } from './world.ts';

const RUNS = Number(process.env.PROPERTY_RUNS ?? 2_000);
/** Time limit in milliseconds. A number of runs given by the environment is run in full, whatever its time. */
const LIMIT_MS = process.env.PROPERTY_RUNS === undefined ? 45_000 : Number.POSITIVE_INFINITY;
const LEAST = Math.min(RUNS, 100);
const SEED = Number(process.env.PROPERTY_SEED ?? Math.floor(Math.random() * 2 ** 31));

let world: PropertyWorld;
beforeAll(async () => {
  world = await openWorld();
});
afterAll(() => world?.close());

it(`For any behaviour of clients and sockets the model sees what the client meant (seed ${SEED}, at most ${RUNS} conversations)`, async () => {
  const counts: Counts = { turns: 0, outcomes: {}, eligible: 0, inFull: [] };
  const until = performance.now() + LIMIT_MS;
  let ran = 0;
  await fc.assert(
    fc.asyncProperty(habits, fc.array(action, { minLength: 1, maxLength: 8 }), async (ways, plan) => {
      if (ran >= LEAST && performance.now() > until) return;
      ran += 1;
      await converse(world, ways, plan, counts);
    }),
    { numRuns: RUNS, seed: SEED, endOnFailure: false },
  );
  const creates = world.simulator.journal.of('create');
  const deltas = creates.filter(({ previousResponseId }) => previousResponseId !== null).length;
  console.log({
    seed: SEED,
    ran,
    ...counts,
    creates: creates.length,
    deltas,
    ratio: (deltas / creates.length).toFixed(2),
  });
  expect(counts.turns).toBeGreaterThan(ran);
  expect(counts.eligible).toBeGreaterThan(ran / 10);
  expect(counts.inFull).toEqual([]);
}, 3_600_000);
