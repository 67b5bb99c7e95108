import { listenAlone, probe, socketPath } from '../exclusive-socket.ts';
import type { Patience } from '../session/forwarding.ts';
import { StoreUnavailable, type WorkerRegistry } from '../store/port.ts';

/**
 * Number of lease renewals by a silent peer after which it counts as unreachable. A process that lacks CPU time also
 * renews its lease more slowly, so the tolerated silence grows with the peer's own slowness.
 */
const RENEWALS = 3;
/**
 * Number of connections in a row that were closed without an answer after which a peer counts as unreachable. A process
 * that lacks CPU time does not close connections that its kernel accepted; a relay or load balancer in front of a
 * process that has ended does. The first one may be a kept connection that had become stale.
 */
const DROPS = 3;

/**
 * Creates the failure detector for other workers. It relies on the database and on liveness sockets, never on response
 * times alone.
 *
 * @param mayDeclareDead returns whether this worker's own heartbeats have been confirmed for long enough
 */
export function createFailureDetector(store: WorkerRegistry, mayDeclareDead: () => boolean) {
  /** Reads a worker's row and stores the worker's death if it can be proved now. Returns null if there was no row. */
  async function look(workerId: string) {
    const row = (await store.workers()).find(({ id }) => id === workerId);
    if (!row) {
      // This inserts a row for the worker; later calls judge it by that row.
      await store.declareExpired(workerId);
      return null;
    }
    if (row.state === 'dead') return row;
    if (row.livenessPath !== null && (await probe(row.livenessPath)) === 'refused') {
      const { verdict } = await store.declareDead(workerId);
      return verdict === 'dead' ? { ...row, state: 'dead' as const } : row;
    }
    if (row.leaseLeftMs > 0 || !mayDeclareDead()) return row;
    const { verdict } = await store.declareExpired(workerId);
    return verdict === 'dead' ? { ...row, state: 'dead' as const } : row;
  }

  return {
    /**
     * Checks whether a silent worker is dead, and stores its death if that can be proved. On one machine a refused
     * liveness socket proves it at once. Otherwise an expired lease does, and only if this worker itself has been alive
     * without a gap.
     *
     * @throws StoreUnavailable if the store does not answer
     */
    async liveness(workerId: string): Promise<'dead' | 'alive'> {
      return (await look(workerId))?.state === 'dead' ? 'dead' : 'alive';
    },

    /** Starts tracking the silence of one peer. */
    patience(workerId: string): Patience {
      let renewals = 0;
      let until: number | null = null;
      let drops = 0;
      return {
        async ask() {
          const row = await look(workerId).catch((error) => {
            if (error instanceof StoreUnavailable) return null;
            throw error;
          });
          if (row === null) return 'slow';
          if (row.state === 'dead') return 'dead';
          if (until !== null && row.leaseUntilMs !== until) renewals += 1;
          until = row.leaseUntilMs ?? null;
          return renewals >= RENEWALS || drops >= DROPS ? 'unreachable' : 'slow';
        },
        dropped() {
          drops += 1;
        },
        heard() {
          drops = 0;
          renewals = 0;
          until = null;
        },
      };
    },
  };
}

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
export async function declareDeadNeighbours(store: WorkerRegistry): Promise<string[]> {
  const dead: string[] = [];
  for (const { id, state, livenessPath } of await store.workers()) {
    if (state === 'dead' || livenessPath === null || (await probe(livenessPath)) !== 'refused') continue;
    await store.declareDead(id);
    dead.push(id);
  }
  return dead;
}
