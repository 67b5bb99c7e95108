/** No verdict: the statement may or may not have been carried out. Repeating the same call finds out. */
export class NoAnswer extends Error {
  override readonly name = 'NoAnswer';
}

/**
 * SQLSTATE classes and codes after which the same call may well succeed: the connection, the server or the moment was
 * wrong, not the call.
 */
const TRANSIENT_CLASSES = [
  '08', // connection
  '57P', // shutdown, crash, cannot connect now
  '40', // serialization, deadlock, completion unknown
  '53', // resources
];
const TRANSIENT_CODES = [
  '55P03', // lock not available within lock_timeout
  '57014', // cancelled from outside
  '25006', // read-only: this connection leads to a server that was demoted
  '26000', // a pooler lost our prepared statements ...
  '42P05', // ... or holds somebody else's under the same names
];
/** A full disk is no passing shortage: the caller must learn of it, and may still store less. */
const DISK_FULL = '53100';

/** The SQLSTATE of an error that PostgreSQL itself reported; null for every other error (`EPIPE` has five letters too). */
export function sqlState(error: unknown): string | null {
  if (!(error instanceof Error) || !('severity' in error) || !('code' in error)) return null;
  return typeof error.code === 'string' ? error.code : null;
}

/** Whether the server gave the statement up by itself, at one of its limits: it is well, and so is the connection. */
export function isOwnLimit(error: unknown): boolean {
  const state = sqlState(error);
  return state === '55P03' || state === '57014';
}

/** Whether an error leaves the call's fate open, or says that the database refused it. */
export function isTransient(error: unknown): boolean {
  const state = sqlState(error);
  if (state === null) return true;
  if (state === DISK_FULL) return false;
  return TRANSIENT_CODES.includes(state) || TRANSIENT_CLASSES.some((prefix) => state.startsWith(prefix));
}
