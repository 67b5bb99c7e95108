import type { StateValue } from 'xstate';
import { meaningOf, stateText } from '../observe/explain.ts';
import type { FlightEvent, FlightRecord } from '../observe/flight.ts';
import { sessionPhrase, turnPhrase } from '../observe/phrases.ts';
import { type ReplayedStep, replaySteps } from '../observe/replay.ts';

/** One event of a session, as recorded by its owner. */
export interface TimelineEntry {
  /** Wall-clock time, in milliseconds since the Unix epoch. */
  t: number;
  /** `session@<epoch>` or `turn:<id>`. */
  actor: string;
  event: string;
  /** The event in words. */
  says: string;
  /** The machine's description of the transition taken; null when there was none, or when it is unknown. */
  meaning: string | null;
  /** State after the event, formatted for people. */
  state: string;
  /** Dotted paths of all states active after the event. */
  active: string[];
  moved: boolean;
  times: number;
}

export interface Timeline {
  /** `memory`: the record of the worker that runs the session. `story`: the record stored when a turn ended badly. */
  from: 'memory' | 'story';
  workerId: string;
  epoch: number;
  /** Number of older events that were dropped. */
  dropped: number;
  entries: TimelineEntry[];
}

/** Returns the dotted paths of all states in a state value, outer states first. */
export function activePaths(value: StateValue, prefix = ''): string[] {
  if (typeof value === 'string') return [prefix + value];
  return Object.entries(value).flatMap(([name, below]) => [
    prefix + name,
    ...(below === undefined ? [] : activePaths(below, `${prefix}${name}.`)),
  ]);
}

function stepsOf(record: FlightRecord): Map<FlightEvent, ReplayedStep> {
  const first = new Map<FlightEvent, ReplayedStep>();
  try {
    for (const step of replaySteps(record).steps) if (!first.has(step.recorded)) first.set(step.recorded, step);
  } catch {
    // The record was made by an older version of the machine, so the descriptions of its transitions are unknown.
  }
  return first;
}

/** Converts a record to a list of readable entries, oldest first. */
export function timelineOf(record: FlightRecord, from: Timeline['from']): Timeline {
  const steps = stepsOf(record);
  const previous = new Map<string, string>();
  const entries = record.events.map((recorded): TimelineEntry => {
    const { t, actor, event, fields, state, times = 1 } = recorded;
    const value = JSON.parse(state) as StateValue;
    const step = steps.get(recorded);
    const isTurn = actor.startsWith('turn:');
    const moved = previous.get(actor) !== state;
    previous.set(actor, state);
    return {
      ...{ t, actor, event, times, moved },
      says: isTurn ? `turn ${actor.slice(5, 13)} ${turnPhrase(event)}` : sessionPhrase(event, fields),
      meaning: step ? meaningOf(step) : null,
      state: stateText(value),
      active: isTurn ? [] : activePaths(value),
    };
  });
  const { workerId, epoch, dropped } = record;
  return { from, workerId, epoch, dropped, entries };
}
