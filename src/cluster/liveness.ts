import { listenAlone, probe, socketPath } from '../store/embedded/lock.ts';
import type { WorkerRegistry } from '../store/port.ts';

/**
 * Certain proof of death, where all workers share a machine: every worker listens on a socket whose path is in its row.
 * A refused connection proves that it is gone (a paused process still connects); any other error proves nothing.
 */
export async function openLiveness(dataDir: string, name: string): Promise<{ path: string; close(): Promise<void> }> {
  const path = socketPath(dataDir, name);
  const listener = await listenAlone(path, `${path} is in use by another worker.`);
  return { path, close: () => listener.close() };
}

/** Stores the death of every worker whose liveness socket refuses. Returns their ids. */
export async function declareDeadNeighbours(
  store: WorkerRegistry & { workers(): ReturnType<WorkerRegistry['workers']> },
): Promise<string[]> {
  const dead: string[] = [];
  for (const { id, state, livenessPath } of await store.workers()) {
    if (state === 'dead' || livenessPath === null || (await probe(livenessPath)) !== 'refused') continue;
    await store.declareDead(id);
    dead.push(id);
  }
  return dead;
}
