import type { StateValue } from 'xstate';
import type { FlightBase, FlightEvent } from './flight.ts';
import { type SafeFields, safeContext } from './safe.ts';

/** One step of an actor. Snapshots are immutable, so keeping references to their parts needs no copy. */
export interface Step {
  t: number;
  actor: string;
  event: string;
  fields: SafeFields;
  value: StateValue;
  context: unknown;
}

/**
 * Recorded step. Of the snapshot only the context is kept; the state value is in `state`, as a text shared by all
 * sessions.
 */
interface Kept extends FlightEvent {
  context: unknown;
}

/** The last steps of one session and its turns. */
export interface Ring {
  /** Records that the newest actor of the session started in this state. Replay then refers to this actor. */
  begin(actor: string, base: { value: StateValue; context: unknown }): void;
  add(step: Step): void;
  base(): FlightBase | null;
  events(): FlightEvent[];
  readonly dropped: number;
}

/** Interned texts of state values. There are few, and all sessions share them. */
const texts = new Map<string, string>();
const intern = (text: string) => {
  const known = texts.get(text);
  if (known === undefined && texts.size < 1_000) texts.set(text, text);
  return known ?? text;
};

const isEmpty = (fields: SafeFields) => Object.keys(fields).length === 0;

/**
 * Creates an empty ring.
 *
 * @param capacity number of steps kept; a step that repeats the previous one takes no extra place
 */
export function createRing(capacity: number): Ring {
  const kept: Kept[] = [];
  let subject: string | null = null;
  let start: { value: StateValue; context: unknown } | null = null;
  let dropped = 0;

  /** Returns whether a step is identical to the previous one and changed nothing. It is counted, not stored again. */
  function repeats(last: Kept | undefined, step: Step, state: string): last is Kept {
    return (
      last !== undefined &&
      last.actor === step.actor &&
      last.event === step.event &&
      last.state === state &&
      last.context === step.context &&
      JSON.stringify(last.fields ?? {}) === JSON.stringify(step.fields)
    );
  }

  return {
    begin(actor, base) {
      subject = actor;
      start = base;
    },
    add(step) {
      const { t, actor, event, fields, value, context } = step;
      const state = intern(JSON.stringify(value));
      const last = kept.at(-1);
      if (repeats(last, step, state)) {
        last.times = (last.times ?? 1) + 1;
        last.t = t;
        return;
      }
      kept.push({ t, actor, event, ...(isEmpty(fields) ? {} : { fields }), state, context });
      if (kept.length <= capacity) return;
      const [oldest] = kept.splice(0, 1) as [Kept];
      dropped += oldest.times ?? 1;
      if (oldest.actor === subject) start = { value: JSON.parse(oldest.state), context: oldest.context };
    },
    base: () => start && { value: start.value, context: safeContext(start.context) },
    events: () => kept.map(({ context: _, ...event }) => event),
    get dropped() {
      return dropped;
    },
  };
}
