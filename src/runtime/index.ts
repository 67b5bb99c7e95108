/** The durable actor runtime, for any XState machine whose effects are named. */
export {
  type ActorOptions,
  type CommitAnswer,
  type Deadline,
  DurableActor,
  type Effect,
  type Inspect,
  type Observed,
  type Persisted,
  type Program,
  type ProgramOptions,
  pathOf,
  persist,
  type RehydrateOptions,
  recordEffects,
  rehydrate,
  type Step,
  safely,
  startActor,
} from './actor.ts';
export { defineProgram, type LintFinding, lintMachine } from './program.ts';
