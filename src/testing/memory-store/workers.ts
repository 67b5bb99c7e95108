import type { HeartbeatVerdict, Registration, WorkerRegistry } from '../../store/port.ts';
import { insertMissingOwner, type MemoryDatabase } from './database.ts';

type NewWorker = Parameters<WorkerRegistry['register']>[0];

/**
 * Creates the worker registry as plain functions over a map. `dead` is a terminal state, as in the database.
 *
 * @param now returns the store's clock in milliseconds
 */
export function createWorkers(db: MemoryDatabase, now: () => number) {
  return {
    register({ leaseMs, ...worker }: NewWorker): { verdict: 'ok' } {
      const known = db.workers.get(worker.id);
      const repeated =
        known?.state === 'serving' &&
        known.internalUrl === worker.internalUrl &&
        known.livenessPath === worker.livenessPath &&
        known.version === worker.version;
      if (known && !repeated) throw new Error(`worker id ${worker.id} was used before`);
      db.workers.set(worker.id, { ...worker, state: 'serving', heartbeatExpiresAt: now() + leaseMs });
      return { verdict: 'ok' };
    },

    heartbeat(
      id: string,
      state: 'serving' | 'draining',
      leaseMs: number,
      registration?: Registration,
    ): HeartbeatVerdict {
      const worker = db.workers.get(id);
      if (worker?.state === 'dead') return { verdict: 'dead' };
      const heartbeatExpiresAt = now() + leaseMs;
      if (worker && (!registration || worker.version === registration.version)) {
        Object.assign(worker, { state, heartbeatExpiresAt });
        return { verdict: 'ok' };
      }
      if (!registration) return { verdict: 'dead' };
      db.workers.set(id, { ...registration, id, state, heartbeatExpiresAt });
      return { verdict: 'ok', restored: true };
    },

    declareExpired(id: string): { verdict: 'dead' | 'alive' } {
      const worker = db.workers.get(id) ?? insertMissingOwner(db, id, now());
      if (worker.heartbeatExpiresAt < now()) worker.state = 'dead';
      return { verdict: worker.state === 'dead' ? 'dead' : 'alive' };
    },

    declareDead(id: string): { verdict: 'dead' } {
      const worker = db.workers.get(id);
      if (worker) worker.state = 'dead';
      else {
        const nobody = { internalUrl: null, livenessPath: null, version: 'unknown' };
        db.workers.set(id, { id, ...nobody, state: 'dead', heartbeatExpiresAt: now() });
      }
      return { verdict: 'dead' };
    },
  };
}
