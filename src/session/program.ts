import { type SessionContext, sessionMachine } from '../../machines/session.ts';
import { defineProgram } from '../runtime/index.ts';
import type { SessionStateName } from '../store/port.ts';

/** Version of the persisted snapshot's shape; a snapshot of another version is not loaded. */
export const SESSION_MACHINE_VERSION = 1;

/** The session machine with recorded effects. Created once and shared by every actor. */
export const sessionProgram = defineProgram(sessionMachine, {
  version: SESSION_MACHINE_VERSION,
  commits: ['commitCreate', 'commitStart', 'commitOrphan', 'commitSettle', 'commitBareSettle'],
});

const counters: readonly string[] = ['generation', 'creates', 'turns', 'takeovers'] satisfies (keyof SessionContext)[];
/** Upper bound for a valid counter; real ones stay far below. */
const COUNTED_AT_MOST = 2 ** 31;

/** Returns whether a value read from a row is a session context: its counters and nothing else. */
export function isSessionContext(context: unknown): context is SessionContext {
  if (typeof context !== 'object' || context === null) return false;
  const entries = Object.entries(context);
  return (
    entries.length === counters.length &&
    entries.every(
      ([name, count]) => counters.includes(name) && Number.isInteger(count) && count >= 0 && count <= COUNTED_AT_MOST,
    )
  );
}

/** Returns the top-level state of a dotted state: one of the five names that a row can hold. */
export function topState(state: string): SessionStateName {
  return state.split('.', 1)[0] as SessionStateName;
}
