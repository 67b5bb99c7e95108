import {
  type AnyStateMachine,
  type ContextFrom,
  type EventFrom,
  type InputFrom,
  initialTransition,
  type SnapshotFrom,
  type StateValue,
  transition,
} from 'xstate';
import type { DurableActor } from './actor.ts';
import type { Program } from './program.ts';

/** The persisted part of an actor: its state and its context. Small, and without XState's own bookkeeping. */
export interface Persisted {
  value: StateValue;
  context: unknown;
}

/** Returns the actor's state in the form in which it is stored in its row. */
export function persist<M extends AnyStateMachine>(actor: DurableActor<M>): Persisted {
  const { value, context } = actor.snapshot() as unknown as Persisted;
  return { value, context };
}

export interface RehydrateOptions<M extends AnyStateMachine> {
  persisted: unknown;
  /** Version the snapshot was written with. */
  machineVersion: number;
  input: InputFrom<M>;
  /** The takeover event, applied before any actor exists. */
  takeover: EventFrom<M>;
  /** Returns whether a context read from a row has the right shape. */
  validContext?(context: unknown): boolean;
}

/**
 * Restores an actor's snapshot and applies the takeover event to it, as a pure function: no entry action, timer or
 * child of the old state runs. In any case of doubt (other version, unknown state, invalid context) the machine's
 * initial snapshot is used instead of the stored one: the columns of the row are authoritative.
 */
export function rehydrate<M extends AnyStateMachine>(
  program: Program<M>,
  options: RehydrateOptions<M>,
): { snapshot: SnapshotFrom<M>; recoveredFrom: 'snapshot' | 'columns' } {
  const restored = restore(program, options);
  const base = restored ?? initialTransition(program.machine, options.input as never)[0];
  let snapshot = base;
  program.record(() => {
    [snapshot] = transition(program.machine, base as never, options.takeover as never) as [typeof base, unknown];
  });
  return { snapshot: snapshot as SnapshotFrom<M>, recoveredFrom: restored ? 'snapshot' : 'columns' };
}

function restore<M extends AnyStateMachine>(program: Program<M>, options: RehydrateOptions<M>): SnapshotFrom<M> | null {
  const { persisted, machineVersion, validContext } = options;
  if (machineVersion !== program.version || typeof persisted !== 'object' || persisted === null) return null;
  const { value, context } = persisted as Partial<Persisted>;
  if (value === undefined || typeof context !== 'object' || context === null) return null;
  if (validContext && !validContext(context)) return null;
  try {
    const snapshot = program.machine.resolveState({ value, context: context as ContextFrom<M> } as never);
    return snapshot.status === 'active' ? (snapshot as SnapshotFrom<M>) : null;
  } catch {
    return null;
  }
}
