/** The machines: pure XState v5, importable into the Stately editor as they are. */
export * from './session.ts';
export * from './turn.ts';
export * from './worker.ts';
