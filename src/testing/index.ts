export { type AnsweredItems, type Dropped, type ItemForm, keptItems, sentAgain } from './answered.ts';
export * from './coverage.ts';
export * from './explore.ts';
export * from './machine-models.ts';
export { createManualClock, type ManualClock } from './manual-clock.ts';
/** Model of the ownership protocol in small integers, explored exhaustively within given bounds. */
export * as protocol from './model/index.ts';
export * from './paths.ts';
/** Simulation of whole workers on one virtual clock, determined by a seed. */
export * as simulation from './simulation/index.ts';
export * from './simulator/index.ts';
export * from './test-bridge.ts';
export * from './vocabulary.ts';
