import { listenAlone, probe, socketPath } from '../store/embedded/lock.ts';
import type { WorkerRegistry } from '../store/port.ts';

/**
 * Opens this worker's liveness socket, which allows a certain proof of death where all workers share a machine. The
 * path is stored in the worker's row. A refused connection proves that the process has ended (a paused process still
 * accepts connections); any other error proves nothing.
 */
export async function openLiveness(dataDir: string, name: string): Promise<{ path: string; close(): Promise<void> }> {
  const path = socketPath(dataDir, name);
  const listener = await listenAlone(path, `${path} is in use by another worker.`);
  return { path, close: () => listener.close() };
}

/**
 * Declares every worker dead whose liveness socket refuses connections.
 *
 * @returns their ids
 */
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
