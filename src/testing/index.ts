export { createManualClock, type ManualClock } from './manual-clock.ts';
export * from './simulation/index.ts';
export * from './simulator/index.ts';
