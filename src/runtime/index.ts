/** The durable actor runtime, for any XState machine whose effects are named. */
export {
  type ActorOptions,
  type CommitAnswer,
  type DurableActor,
  type Inspect,
  pathOf,
  safeInspect,
  startActor,
} from './actor.ts';
export { type LintFinding, lintMachine } from './lint.ts';
export { type Deadline, defineProgram, type Effect, type Program, type ProgramOptions } from './program.ts';
export { createRegistry, type Registry } from './registry.ts';
export { type Persisted, persist, type RehydrateOptions, rehydrate } from './rehydrate.ts';
