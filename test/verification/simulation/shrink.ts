import type { ClientPlan, Plan } from './plan.ts';
import { type Run, simulate } from './run.ts';

const without = <T>(list: readonly T[], index: number): T[] => list.filter((_, at) => at !== index);

/** Generates plans that are smaller by one element, the largest reductions first. */
function* smaller(plan: Plan, run: Run): Generator<Plan> {
  for (let at = 0; at < plan.clients.length; at += 1) {
    if (plan.clients.length > 1) yield { ...plan, clients: without(plan.clients, at) };
  }
  for (let at = 0; at < plan.faults.length; at += 1) yield { ...plan, faults: without(plan.faults, at) };
  const { rates } = plan;
  const gentle = { lost: 0, unanswered: 0, late: 0, rejected: 0, slow: 0 };
  if (Object.values(rates.store).some((rate) => rate > 0)) yield { ...plan, rates: { ...rates, store: gentle } };
  for (const rate of ['turn', 'upgrade', 'hop', 'hostile', 'throws'] as const) {
    if (rates[rate] > 0) yield { ...plan, rates: { ...rates, [rate]: 0 } };
  }
  for (const [index, client] of plan.clients.entries()) {
    for (let at = client.actions.length - 1; at >= 0; at -= 1) {
      const shorter: ClientPlan = { ...client, actions: without(client.actions, at) };
      yield { ...plan, clients: plan.clients.map((each, nth) => (nth === index ? shorter : each)) };
    }
  }
  for (const name of run.struck) yield { ...plan, without: [...plan.without, name] };
  if (plan.workers > 1 && plan.faults.every((fault) => !('worker' in fault) || fault.worker < plan.workers - 1)) {
    yield { ...plan, workers: plan.workers - 1 };
  }
}

/**
 * Removes one element after the other from a plan and keeps each reduction that still fails the same check. In the
 * result, removing any single element makes the failure disappear, as far as `budget` runs could establish.
 */
export async function shrink(
  plan: Plan,
  { budget = 400, attempt = simulate }: { budget?: number; attempt?: (plan: Plan) => Promise<Run> } = {},
): Promise<{ plan: Plan; run: Run; runs: number }> {
  let best = plan;
  let run = await attempt(best);
  let runs = 1;
  const check = run.violations[0]?.check;
  if (check === undefined) return { plan, run, runs };
  for (let found = true; found && runs < budget; ) {
    found = false;
    for (const candidate of smaller(best, run)) {
      if (runs >= budget) break;
      runs += 1;
      const tried = await attempt(candidate);
      if (tried.violations[0]?.check !== check) continue;
      best = candidate;
      run = tried;
      found = true;
      break;
    }
  }
  return { plan: best, run, runs };
}
