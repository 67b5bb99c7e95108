import type { AnyStateMachine, ContextFrom, EventFromLogic, InputFrom } from 'xstate';

/** One event that a machine may receive, with one choice of its fields. */
export interface EventVariant<M extends AnyStateMachine = AnyStateMachine> {
  /** Unique within a vocabulary. By convention the event's type, with distinguishing fields in brackets. */
  readonly name: string;
  /** Returns the event as it would be sent to a machine with this context. */
  event(context: ContextFrom<M>): EventFromLogic<M>;
}

/** A machine together with all events it may receive. Paths and coverage are computed from it. */
export interface MachineModel<M extends AnyStateMachine = AnyStateMachine> {
  readonly name: string;
  readonly machine: M;
  readonly events: readonly EventVariant<M>[];
  readonly input?: InputFrom<M>;
  /**
   * Returns the part of the context that determines further behaviour. Contexts with equal projections count as the
   * same state. Without it the whole context counts, and a machine with a growing counter is never fully explored.
   */
  project?(context: ContextFrom<M>): unknown;
}

/**
 * Names an event by its type and, in brackets, by its other fields.
 *
 * @returns for example `socket.lost (resendable)`
 */
export function variantName({ type, ...rest }: { type: string }): string {
  const details = Object.entries(rest).map(([key, value]) => (value === true ? key : `${key}: ${value}`));
  return details.length === 0 ? type : `${type} (${details.join(', ')})`;
}

/**
 * Returns variants of events that do not depend on the context.
 *
 * @param events the events, complete with their fields
 */
export function fixedEvents<M extends AnyStateMachine>(events: readonly EventFromLogic<M>[]): EventVariant<M>[] {
  return events.map((event) => ({ name: variantName(event as { type: string }), event: () => event }));
}
