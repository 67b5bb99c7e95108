/** The call got no verdict: the statement may or may not have been executed. Repeating the same call resolves it. */
export class NoAnswer extends Error {
  override readonly name = 'NoAnswer';
  /** MikroORM wraps errors and copies their properties. */
  readonly noAnswer = true;
}

/** Returns whether an error, wrapped or not, is a call without a verdict. */
export const isNoAnswer = (error: unknown): error is Error => error instanceof Error && 'noAnswer' in error;

/**
 * SQLSTATE classes and codes after which the same call may succeed: the fault lies with the connection, the server or the
 * moment, not with the call.
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
  '26000', // prepared statements are missing behind a pooler ...
  '42P05', // ... or another client's exist under the same names
];
/** A full disk is not a passing shortage: the caller must see the error, and may be able to store less. */
const DISK_FULL = '53100';

/**
 * Returns the SQLSTATE of an error reported by PostgreSQL itself; null for every other error (`EPIPE` has five letters
 * too).
 */
export function sqlState(error: unknown): string | null {
  if (!(error instanceof Error) || !('severity' in error) || !('code' in error)) return null;
  return typeof error.code === 'string' ? error.code : null;
}

/**
 * Returns whether the server cancelled the statement itself, at one of its limits. Server and connection are then intact.
 */
export function isOwnLimit(error: unknown): boolean {
  const state = sqlState(error);
  return state === '55P03' || state === '57014';
}

/** Returns whether an error leaves open if the call took effect. False: the database rejected it. */
export function isTransient(error: unknown): boolean {
  const state = sqlState(error);
  if (state === null) return true;
  if (state === DISK_FULL) return false;
  return TRANSIENT_CODES.includes(state) || TRANSIENT_CLASSES.some((prefix) => state.startsWith(prefix));
}
