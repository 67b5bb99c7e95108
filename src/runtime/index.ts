/** The durable actor runtime, for any XState machine whose effects are named. */
export {
  type ActorOptions,
  type CommitAnswer,
  DurableActor,
  type Inspect,
  type Observed,
  type Persisted,
  persist,
  type RehydrateOptions,
  recordEffects,
  rehydrate,
  type Step,
  safely,
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
  pathOf,
} from './program.ts';
