export { createManualClock, type ManualClock } from './manual-clock.ts';
export * from './simulator/index.ts';
