import type { StateValue } from 'xstate';
import type { TurnLine } from './log.ts';
import type { SafeFields } from './safe.ts';

/** One event of a session's actor, or of one of its turns, and the state it led to. */
export interface FlightEvent {
  /** Wall milliseconds. */
  t: number;
  /** `session@<epoch>` or `turn:<id>`. */
  actor: string;
  event: string;
  fields?: SafeFields;
  /** The state afterwards, as JSON text of an XState state value. */
  state: string;
  /** How often it came in a row without changing anything; absent for once. */
  times?: number;
}

/** Where replaying begins: what is older was let go. */
export interface FlightBase {
  value: StateValue;
  context: SafeFields;
}

/** What is known of how the turn ended, out of its log line. */
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
  // Stories kept by an earlier release have none.
  Partial<Pick<TurnLine, 'cause' | 'decidedBy'>>;

/** The last events of one session on one worker. Plain JSON without content or credentials. */
export interface FlightRecord {
  version: 1;
  sessionId: string;
  workerId: string;
  /** Epoch of the newest actor seen: the one that `base` and replaying are about. */
  epoch: number;
  /** Null when no event of the session's own actor was seen. */
  base: FlightBase | null;
  events: readonly FlightEvent[];
  /** Events that were let go. */
  dropped: number;
  /** The last turn that ended, if it ended badly; null for a story of a running session. */
  ending: FlightEnding | null;
}

/** Where stories of turns that ended badly are kept. A store may offer it; losing one is no error. */
export interface StoryKeeper {
  keepStory(story: { sessionId: string; turnId: string; record: FlightRecord }): Promise<void>;
  /** Newest first. */
  stories(sessionId: string, limit: number): Promise<readonly FlightRecord[]>;
}
