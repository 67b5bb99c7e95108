import { sessionMachine } from '../../machines/session.ts';
import { defineProgram } from '../runtime/index.ts';
import type { SessionStateName } from '../store/port.ts';

/** Version of the persisted snapshot's shape; a snapshot of another version is not loaded. */
export const SESSION_MACHINE_VERSION = 1;

/** The session machine with its effects recorded: made once, shared by every actor. */
export const sessionProgram = defineProgram(sessionMachine, {
  version: SESSION_MACHINE_VERSION,
  commits: ['commitCreate', 'commitStart', 'commitOrphan', 'commitSettle', 'commitBareSettle'],
});

/** The five names a row knows, from a dotted state. */
export function topState(state: string): SessionStateName {
  return state.split('.', 1)[0] as SessionStateName;
}
