import type { AnyStateMachine, ContextFrom, EventFromLogic, InputFrom } from 'xstate';

/** One event a machine may get, with one choice of what is in it. */
export interface EventVariant<M extends AnyStateMachine = AnyStateMachine> {
  /** Unique within a vocabulary; by custom the event's type, with what is special in brackets. */
  readonly name: string;
  /** The event as it would be sent to a machine with this context. */
  event(context: ContextFrom<M>): EventFromLogic<M>;
}

/** A machine together with everything that may be said to it: what paths and coverage are computed from. */
export interface MachineModel<M extends AnyStateMachine = AnyStateMachine> {
  readonly name: string;
  readonly machine: M;
  readonly events: readonly EventVariant<M>[];
  readonly input?: InputFrom<M>;
  /**
   * What of the context decides how the machine goes on. Contexts with equal projections are taken to be the same
   * state; without it, all of the context counts, and a machine that counts upwards is never fully explored.
   */
  project?(context: ContextFrom<M>): unknown;
}

/** Names an event by its type and, in brackets, by what else is in it. */
export function variantName({ type, ...rest }: { type: string }): string {
  const details = Object.entries(rest).map(([key, value]) => (value === true ? key : `${key}: ${value}`));
  return details.length === 0 ? type : `${type} (${details.join(', ')})`;
}

/** Variants of events that are the same whatever the context is. */
export function fixedEvents<M extends AnyStateMachine>(events: readonly EventFromLogic<M>[]): EventVariant<M>[] {
  return events.map((event) => ({ name: variantName(event as { type: string }), event: () => event }));
}
