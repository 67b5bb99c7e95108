import { type TestBridge, testBridge } from '../../src/testing/index.ts';

/** A bridge on an in-memory store and the simulated upstream; it restarts in milliseconds. */
export type PropertyWorld = TestBridge;

/** Idle time of a keyless session's socket, in milliseconds of the real clock. */
export const SOFT_IDLE_MS = 2_000;

export const openWorld = (env: Record<string, string> = {}): Promise<PropertyWorld> =>
  testBridge({
    simulator: { reasoning: true, journalBodies: false, dialects: { listed: 0.1, empty: 0.1, ids: 0.1 } },
    env: { HOLDFAST_SOFT_IDLE_MS: String(SOFT_IDLE_MS), ...env },
  });
