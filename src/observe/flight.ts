import type { StateValue } from 'xstate';
import type { TurnLine } from './log.ts';
import type { SafeFields } from './safe.ts';

/** One event of a session's actor or of one of its turns, with the state it led to. */
export interface FlightEvent {
  /** Wall-clock time, in milliseconds. */
  t: number;
  /** `session@<epoch>` or `turn:<id>`. */
  actor: string;
  event: string;
  fields?: SafeFields;
  /** State after the event: an XState state value as JSON text. */
  state: string;
  /** Number of consecutive repetitions that changed nothing; absent for a single event. */
  times?: number;
}

/** State from which replay starts. Older events were dropped. */
export interface FlightBase {
  value: StateValue;
  context: SafeFields;
}

/** Fields of a turn's log line that describe how it ended. */
export type FlightEnding = Pick<
  TurnLine,
  | 'turn'
  | 'outcome'
  | 'shape'
  | 'form'
  | 'terminal'
  | 'fault'
  | 'upstreamStatus'
  | 'heldMs'
  | 'firstEventMs'
  | 'totalMs'
> &
  // Optional: stories stored by an earlier release lack it.
  Partial<Pick<TurnLine, 'cause' | 'decidedBy'>>;

/** The last events of one session on one worker, as plain JSON without content or credentials. */
export interface FlightRecord {
  version: 1;
  sessionId: string;
  workerId: string;
  /** Epoch of the newest actor seen. `base` and replay refer to that actor. */
  epoch: number;
  /** Null when no event of the session's own actor was seen. */
  base: FlightBase | null;
  events: readonly FlightEvent[];
  /** Number of events dropped. */
  dropped: number;
  /** The last turn that ended, if it ended badly; null in the story of a running session. */
  ending: FlightEnding | null;
}

/** Storage for the stories of turns that ended badly. Optional for a store; losing a story is not an error. */
export interface StoryKeeper {
  keepStory(story: { sessionId: string; turnId: string; record: FlightRecord }): Promise<void>;
  /** Returns stories of a session, newest first. */
  stories(sessionId: string, limit: number): Promise<readonly FlightRecord[]>;
}
