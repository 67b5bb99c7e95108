import type { HeartbeatVerdict, WorkerRegistry, WorkerRow } from '../port.ts';
import type { Call } from './call.ts';
import { optionalText } from './parameters.ts';
import type { Read } from './reads.ts';
import { workerCalls } from './sql/fence-calls.ts';
import { rowReads } from './sql/rows.ts';

/**
 * Creates the worker registry. Heartbeats use a connection of their own (`beat`), so that a pool full of waiting calls
 * cannot make a healthy worker look dead.
 */
export function createWorkerRegistry(call: Call, beat: Call, read: Read): WorkerRegistry {
  return {
    register: ({ id, internalUrl, livenessPath, version, leaseMs }) =>
      beat<{ verdict: 'ok' }>(workerCalls.register, () => [
        id,
        optionalText(internalUrl),
        optionalText(livenessPath),
        version,
        leaseMs,
      ]),
    heartbeat: (id, state, leaseMs, registration) =>
      beat<HeartbeatVerdict>(workerCalls.heartbeat, () => [
        id,
        state,
        leaseMs,
        optionalText(registration?.internalUrl ?? null),
        optionalText(registration?.livenessPath ?? null),
        registration?.version ?? null,
      ]),
    declareExpired: (id) => call<{ verdict: 'dead' | 'alive' }>(workerCalls.declareExpired, () => [id]),
    declareDead: (id) => call<{ verdict: 'dead' }>(workerCalls.declareDead, () => [id]),
    async workers() {
      const rows = await read<{ answer: string }>(rowReads.workers, []);
      return rows.map(({ answer }) => JSON.parse(answer) as WorkerRow);
    },
  };
}
