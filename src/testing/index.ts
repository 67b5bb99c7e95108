export { type AnsweredItems, type Dropped, type ItemForm, keptItems, sentAgain } from './answered.ts';
export * from './coverage.ts';
export * from './explore.ts';
export * from './machine-models.ts';
export { createManualClock, type ManualClock } from './manual-clock.ts';
/** The ownership protocol as a world of small integers, explored to stated bounds. */
export * as protocol from './model/index.ts';
export * from './paths.ts';
/** Whole workers on one virtual clock, by seed. */
export * as simulation from './simulation/index.ts';
export * from './simulator/index.ts';
export * from './test-bridge.ts';
export * from './vocabulary.ts';
