/** @module Model of the ownership protocol, explored exhaustively with the production state machines. */
export type { Action, ActionName } from './actions.ts';
export {
  type Bounds,
  defaults as defaultBounds,
  describeBounds,
  FAULTS as MODEL_FAULTS,
  type Fault as ModelFault,
} from './bounds.ts';
export { type Exploration, type ExploreOptions, explore, type Violation } from './explore.ts';
export { visitedStates } from './local.ts';
export { replay, type Trace, traceOf } from './replay.ts';
export { createModelRows, type ModelRows } from './solo.ts';
export { describeProperty, tellStory } from './story.ts';
export { type Weakening, type Weakness, weaknesses } from './weakness.ts';
export { createWorld, type World } from './world.ts';
