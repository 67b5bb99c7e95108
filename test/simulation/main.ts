import { parseArgs } from 'node:util';
import { type Plan, planOf, shrink, simulate, simulateSeeds, withLanes } from '../verification/simulation/index.ts';

/**
 * Runs many seeds of the simulation and prints the results.
 *
 *   npm run sim -- --seeds 10000 --from 1     runs them; a failing seed is shrunk and printed
 *   npm run sim -- --trace 42                 prints one run line by line
 *   npm run sim -- --lanes 32                 with so many conversations on an upstream socket
 */
const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '1000' },
    from: { type: 'string', default: '1' },
    trace: { type: 'string' },
    lanes: { type: 'string', default: '0' },
    /** Stops at the first failure without shrinking it. */
    first: { type: 'boolean', default: false },
  },
});

const byCount = (counts: Readonly<Record<string, number>>) =>
  Object.entries(counts)
    .sort(([, a], [, b]) => b - a)
    .map(([name, count]) => `${name} ${count}`)
    .join(', ');

const lanes = Number(values.lanes);
const planned = (plan: Plan) => (lanes > 0 ? withLanes(plan, lanes) : plan);

if (values.trace !== undefined) {
  const run = await simulate(planned(planOf(Number(values.trace))), console.log);
  console.log(run.violations.length === 0 ? `clean, ${run.hash}` : run.violations);
  process.exit(run.violations.length === 0 ? 0 : 1);
}

const startedAt = performance.now();
const campaign = await simulateSeeds(Number(values.from), Number(values.seeds), {
  plan: planned,
  onFailure({ seed, violations }) {
    const { check, detail, at } = violations[0]!;
    console.log(`seed ${seed} at ${Math.round(at)} ms: ${check} (${detail})`);
    return !values.first;
  },
});
const minutes = (performance.now() - startedAt) / 60_000;

for (const { seed } of values.first ? [] : campaign.failed.slice(0, 3)) {
  const { plan, run, runs } = await shrink(planned(planOf(seed)));
  console.log(
    `\nseed ${seed}, shrunk in ${runs} runs; spared are ${plan.without.length} misfortunes, left: ${run.struck.join(', ') || 'none'}`,
  );
  console.log(JSON.stringify({ ...plan, without: undefined }, null, 1));
}

console.log(`schedules    ${campaign.seeds}, ${Math.round(campaign.seeds / minutes)} a minute`);
console.log(`simulated    ${(campaign.simulatedMs / 3_600_000).toFixed(1)} hours in ${campaign.steps} steps`);
console.log(`answered     ${campaign.answered} turns, each with the context its client meant`);
console.log(`outcomes     ${byCount(campaign.outcomes)}`);
console.log(`misfortunes  ${byCount(campaign.misfortunes)}`);
console.log(`failing      ${campaign.failed.map(({ seed }) => seed).join(' ') || 'none'}`);
process.exit(campaign.failed.length === 0 ? 0 : 1);
