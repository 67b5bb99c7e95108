export { createManualClock, type ManualClock } from './manual-clock.ts';
export * from './model/index.ts';
export * from './simulator/index.ts';
