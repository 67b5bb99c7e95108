import { type TestBridge, testBridge } from '../../src/testing/index.ts';

/** A bridge on a store in memory and the simulated upstream, which restarts in milliseconds. */
export type PropertyWorld = TestBridge;

export const openWorld = (env: Record<string, string> = {}): Promise<PropertyWorld> =>
  testBridge({
    simulator: { reasoning: true, journalBodies: false },
    env: { HOLDFAST_SOFT_IDLE_MS: '2000', ...env },
  });
