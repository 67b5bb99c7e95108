import type { AnyStateMachine, InspectionEvent } from 'xstate';
import type { Observed, Step } from '../../src/runtime/index.ts';

/**
 * Returns the `inspect` option with which an XState actor reports its steps like an actor of the runtime. Such an actor takes
 * any event in any state: nothing performs its effects, and no commit holds its mailbox.
 */
export function reporting(observe: (step: Step) => void): (event: InspectionEvent) => void {
  const known = new Map<object, Observed>();
  return (event) => {
    if (event.type !== '@xstate.snapshot') return;
    const { actorRef } = event;
    let actor = known.get(actorRef);
    if (!actor) {
      const { id, logic } = actorRef as unknown as { id: string; logic: AnyStateMachine };
      actor = { id, machine: logic, snapshot: () => actorRef.getSnapshot() };
      known.set(actorRef, actor);
    }
    observe({ ...(event.snapshot as unknown as Omit<Step, 'actor' | 'event'>), actor, event: event.event });
  };
}
