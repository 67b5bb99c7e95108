/** The durable actor runtime, for any XState machine whose effects are named. */
export {
  type ActorOptions,
  type CommitAnswer,
  type DurableActor,
  type Inspect,
  type Persisted,
  pathOf,
  persist,
  type RehydrateOptions,
  recordEffects,
  rehydrate,
  safeInspect,
  startActor,
} from './actor.ts';
export {
  type Deadline,
  defineProgram,
  type Effect,
  type LintFinding,
  lintMachine,
  type Program,
  type ProgramOptions,
} from './program.ts';
