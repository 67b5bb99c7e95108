import { probe } from '../store/embedded/lock.ts';
import type { WorkerRegistry } from '../store/port.ts';

export interface JudgeOptions {
  store: WorkerRegistry;
  /** Whether this worker's own heartbeats were confirmed long enough to judge others. */
  mayJudge(): boolean;
}

/**
 * Tries to make a silent worker's death a stored fact. On one machine a refused liveness socket proves it at once; else
 * the lease decides, and only for a judge that was alive itself all the while. Throws `StoreUnavailable`.
 */
export function createJudge({ store, mayJudge }: JudgeOptions) {
  return async (workerId: string): Promise<'dead' | 'alive' | 'missing'> => {
    const row = (await store.workers()).find(({ id }) => id === workerId);
    if (!row) return 'missing';
    if (row.state === 'dead') return 'dead';
    if (row.livenessPath !== null && (await probe(row.livenessPath)) === 'refused') {
      const { verdict } = await store.declareDead(workerId);
      return verdict === 'dead' ? 'dead' : 'alive';
    }
    if (!mayJudge()) return 'alive';
    const { verdict } = await store.declareExpired(workerId);
    return verdict === 'dead' || verdict === 'missing' ? verdict : 'alive';
  };
}
