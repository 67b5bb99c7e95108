export * from './coverage.ts';
export * from './explore.ts';
export * from './machine-models.ts';
export { createManualClock, type ManualClock } from './manual-clock.ts';
export * from './paths.ts';
export * from './simulator/index.ts';
export * from './test-bridge.ts';
export * from './vocabulary.ts';
