import { type Actor, createActor, transition } from 'xstate';
import { type TurnEvent, type TurnMachine, turnMachine } from '../../machines/turn.ts';
import type { Inspect, Observed } from '../runtime/index.ts';

type TurnState = ReturnType<Actor<TurnMachine>['getSnapshot']>['value'];

/** States to which events lead, by state and event. XState is asked once for each pair. */
const known = new Map<TurnState, Map<TurnEvent['type'], TurnState>>();

function nextOf(state: TurnState, event: TurnEvent): TurnState {
  let ways = known.get(state);
  if (ways === undefined) known.set(state, (ways = new Map()));
  let next = ways.get(event.type);
  if (next === undefined) {
    const before = turnMachine.resolveState({ value: state, context: { turnId: '' } });
    [{ value: next }] = transition(turnMachine, before, event);
    ways.set(event.type, next);
  }
  return next;
}

const isFinal = (state: TurnState) => turnMachine.states[state]?.type === 'final';

/**
 * The progress of one turn through the states of its machine. The machine has neither effects nor conditions, so its state
 * is all there is to keep.
 */
export class TurnRecord implements Observed {
  /** The turn's id. */
  readonly id: string;
  readonly machine = turnMachine;
  readonly #context: { turnId: string };
  readonly #inspect: Inspect | undefined;
  /** Takes the same events, where XState's own inspection events are wanted. */
  readonly #shown: Actor<TurnMachine> | null;
  #state: TurnState = 'admitted';
  #stopped = false;

  constructor(id: string, inspect: Inspect | undefined) {
    this.id = id;
    this.#context = { turnId: id };
    this.#inspect = inspect;
    this.#shown = inspect?.xstate ? createActor(turnMachine, { input: this.#context, inspect: inspect.xstate }) : null;
    this.#shown?.start();
    this.#show({ type: 'xstate.init' });
  }

  snapshot(): { status: string; value: TurnState; context: { turnId: string } } {
    const status = isFinal(this.#state) ? 'done' : this.#stopped ? 'stopped' : 'active';
    return { status, value: this.#state, context: this.#context };
  }

  /** Takes an event. No effect once the turn has ended. */
  note(event: TurnEvent): void {
    if (this.#stopped) return;
    this.#state = nextOf(this.#state, event);
    this.#stopped = isFinal(this.#state);
    this.#shown?.send(event);
    this.#show(event);
  }

  /** Ends the record in the state that it is in. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#shown?.stop();
    this.#show({ type: 'xstate.stop' });
  }

  #show(event: { type: string }): void {
    this.#inspect?.step({ actor: this, event, ...this.snapshot() });
  }
}
