import type { StateValue } from 'xstate';
import type { FlightBase, FlightEvent } from './flight.ts';
import { type SafeFields, safeContext } from './safe.ts';

/** What one step of an actor left behind. Snapshots are immutable, so that holding their parts costs no copy. */
export interface Step {
  t: number;
  actor: string;
  event: string;
  fields: SafeFields;
  value: StateValue;
  context: unknown;
}

/** Of a step's snapshot only the context is held on to: its state value is in the text, which all sessions share. */
interface Kept extends FlightEvent {
  context: unknown;
}

/** The last steps of one session and its turns. */
export interface Ring {
  /** The newest actor of the session has begun in this state: replaying is about it from now on. */
  begin(actor: string, base: { value: StateValue; context: unknown }): void;
  add(step: Step): void;
  base(): FlightBase | null;
  events(): FlightEvent[];
  readonly dropped: number;
}

/** Texts of state values: there are few, and every session has the same. */
const texts = new Map<string, string>();
const intern = (text: string) => {
  const known = texts.get(text);
  if (known === undefined && texts.size < 1_000) texts.set(text, text);
  return known ?? text;
};

const isEmpty = (fields: SafeFields) => Object.keys(fields).length === 0;

/** @param capacity steps kept; a step that repeats the one before it takes no place of its own */
export function createRing(capacity: number): Ring {
  const kept: Kept[] = [];
  let subject: string | null = null;
  let start: { value: StateValue; context: unknown } | null = null;
  let dropped = 0;

  /** A step that left everything as it was and came just before in the same form is counted, not kept twice. */
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
