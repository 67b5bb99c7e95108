export { type Campaign, simulateSeeds } from './campaign.ts';
export {
  type Action,
  type ClientPlan,
  type Habits,
  type Plan,
  planOf,
  type ScheduledFault,
  withLanes,
} from './plan.ts';
export { type Run, simulate } from './run.ts';
export { shrink } from './shrink.ts';
export type { StoreTrouble } from './store.ts';
export type { Violation } from './world.ts';
