import { type SessionContext, sessionMachine } from '../../machines/session.ts';
import { defineProgram } from '../runtime/index.ts';
import type { SessionStateName } from '../store/port.ts';

/** Version of the persisted snapshot's shape; a snapshot of another version is not loaded. */
export const SESSION_MACHINE_VERSION = 1;

/** The session machine with its effects recorded: made once, shared by every actor. */
export const sessionProgram = defineProgram(sessionMachine, {
  version: SESSION_MACHINE_VERSION,
  commits: ['commitCreate', 'commitStart', 'commitOrphan', 'commitSettle', 'commitBareSettle'],
});

const counters: readonly string[] = ['generation', 'creates', 'turns', 'takeovers'] satisfies (keyof SessionContext)[];
/** No counter gets this far. */
const COUNTED_AT_MOST = 2 ** 31;

/** Whether what a row holds is the context of a session: its counters, and nothing else. */
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

/** The five names a row knows, from a dotted state. */
export function topState(state: string): SessionStateName {
  return state.split('.', 1)[0] as SessionStateName;
}
