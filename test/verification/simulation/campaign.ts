import { type Plan, planOf } from './plan.ts';
import { type Run, simulate } from './run.ts';

/** Summed results of many seeds. */
export interface Campaign {
  seeds: number;
  /** Number of turns that were answered as their client intended. */
  answered: number;
  steps: number;
  simulatedMs: number;
  misfortunes: Readonly<Record<string, number>>;
  outcomes: Readonly<Record<string, number>>;
  failed: readonly Run[];
}

const addTo = (sums: Record<string, number>, counts: Readonly<Record<string, number>>) => {
  for (const [name, count] of Object.entries(counts)) sums[name] = (sums[name] ?? 0) + count;
};

/**
 * Runs the plans of consecutive seeds.
 *
 * @param from first seed
 * @param seeds number of seeds
 * @param options.onFailure called with each failing run as it ends; return false to end the campaign
 * @param options.plan changes the plan of each seed
 * @param options.goOn called before each seed; return false to end the campaign
 */
export async function simulateSeeds(
  from: number,
  seeds: number,
  options: {
    onFailure?: (run: Run) => boolean | undefined;
    goOn?: () => boolean;
    plan?: (plan: Plan) => Plan;
  } = {},
): Promise<Campaign> {
  const { onFailure = () => true, goOn = () => true, plan = (drawn: Plan) => drawn } = options;
  const misfortunes: Record<string, number> = {};
  const outcomes: Record<string, number> = {};
  const failed: Run[] = [];
  const sums = { seeds: 0, answered: 0, steps: 0, simulatedMs: 0 };
  for (let seed = from; seed < from + seeds && goOn(); seed += 1) {
    const run = await simulate(plan(planOf(seed)));
    sums.seeds += 1;
    sums.answered += run.answered;
    sums.steps += run.steps;
    sums.simulatedMs += run.simulatedMs;
    addTo(misfortunes, run.misfortunes);
    addTo(outcomes, run.outcomes);
    if (run.violations.length === 0) continue;
    failed.push(run);
    if (onFailure(run) === false) break;
  }
  return { ...sums, misfortunes, outcomes, failed };
}
