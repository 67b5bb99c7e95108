/** The state machines: pure XState v5, can be imported into the Stately editor unchanged. */
export * from './session.ts';
export * from './turn.ts';
export * from './worker.ts';
