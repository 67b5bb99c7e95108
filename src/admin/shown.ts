import type { SessionSummary, TurnDetail } from '../store/admin-port.ts';
import type { WorkerRow } from '../store/port.ts';

/** Removes the nonce, which proves ownership to the fence and must not be disclosed. */
export const shownSession = ({ ownerNonce: _, ...row }: SessionSummary) => row;

/**
 * Returns the fields of a worker's row that operators see.
 *
 * @param me id of the worker that answers
 */
export const shownWorker = (row: WorkerRow | undefined, me: string) =>
  row
    ? { id: row.id, state: row.state, leaseLeftMs: row.leaseLeftMs, version: row.version, here: row.id === me }
    : null;

/** Reduces an error to its identifiers. Providers may repeat user content in their messages. */
function shownError(error: unknown) {
  if (typeof error !== 'object' || error === null) return null;
  const { code, type, status } = error as Record<string, unknown>;
  const name = (value: unknown) => (typeof value === 'string' && /^[\w.:-]{1,80}$/.test(value) ? value : null);
  return { code: name(code), type: name(type), status: typeof status === 'number' ? status : null };
}

/** Keeps only numbers, by name: providers may put anything into `usage`. */
function shownUsage(usage: unknown, depth = 2): Record<string, unknown> | null {
  if (typeof usage !== 'object' || usage === null || Array.isArray(usage)) return null;
  const fields = Object.entries(usage).flatMap(([name, value]): [string, unknown][] => {
    if (!/^\w{1,60}$/.test(name)) return [];
    if (typeof value === 'number') return [[name, value]];
    const below = depth > 1 ? shownUsage(value, depth - 1) : null;
    return below ? [[name, below]] : [];
  });
  return Object.fromEntries(fields);
}

/** Returns a turn without its credential fingerprint, with `error` and `usage` reduced to safe fields. */
export const shownTurn = ({ credentialFp: _, error, usage, ...turn }: TurnDetail) => ({
  ...turn,
  error: shownError(error),
  usage: shownUsage(usage),
});
