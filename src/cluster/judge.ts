import type { Patience } from '../session/peers.ts';
import { probe } from '../store/embedded/lock.ts';
import { StoreUnavailable, type WorkerRegistry } from '../store/port.ts';

export interface JudgeOptions {
  store: WorkerRegistry;
  /** Whether this worker's own heartbeats were confirmed long enough to judge others. */
  mayJudge(): boolean;
}

/**
 * Leases a peer renews, after it was asked, before it counts as unreachable. A starved worker is starved of its
 * heartbeats as well: counted in them, patience grows with the peer's own slowness.
 */
const RENEWALS = 3;
/**
 * Connections in a row that were closed unanswered before a peer counts as unreachable. A starved process does not close
 * what its kernel accepted; a relay or load balancer in front of a process that has ended does. The first one may be a
 * kept connection that had grown stale.
 */
const DROPS = 3;

/** Judges other workers: by what the database says of them, never by how long they take to answer. */
export function createJudge({ store, mayJudge }: JudgeOptions) {
  /** The worker's row, with a death that could be stored by now; null when there was none. */
  async function look(workerId: string) {
    const row = (await store.workers()).find(({ id }) => id === workerId);
    if (!row) {
      // From now on it has a row, and is judged by that.
      await store.declareExpired(workerId);
      return null;
    }
    if (row.state === 'dead') return row;
    if (row.livenessPath !== null && (await probe(row.livenessPath)) === 'refused') {
      const { verdict } = await store.declareDead(workerId);
      return verdict === 'dead' ? { ...row, state: 'dead' as const } : row;
    }
    if (row.leaseLeftMs > 0 || !mayJudge()) return row;
    const { verdict } = await store.declareExpired(workerId);
    return verdict === 'dead' ? { ...row, state: 'dead' as const } : row;
  }

  return {
    /**
     * Tries to make a silent worker's death a stored fact. On one machine a refused liveness socket proves it at once; else
     * the lease decides, and only for a judge that was alive itself all the while. Throws `StoreUnavailable`.
     */
    async judge(workerId: string): Promise<'dead' | 'alive'> {
      return (await look(workerId))?.state === 'dead' ? 'dead' : 'alive';
    },

    /** Patience with one peer, from now on. */
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
