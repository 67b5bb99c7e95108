import type { StateValue } from 'xstate';
import { meaningOf, stateText } from '../observe/explain.ts';
import type { FlightEvent, FlightRecord } from '../observe/flight.ts';
import { sessionPhrase, turnPhrase } from '../observe/phrases.ts';
import { type ReplayedStep, replaySteps } from '../observe/replay.ts';

/** One thing that happened to a session, as its owner saw it. */
export interface TimelineEntry {
  /** Wall clock, milliseconds since the epoch. */
  t: number;
  /** `session@<epoch>` or `turn:<id>`. */
  actor: string;
  event: string;
  /** The event in words. */
  says: string;
  /** What the machine says of the transition that was taken; null when there was none, or it is not known. */
  meaning: string | null;
  /** The state afterwards, as one reads it. */
  state: string;
  /** Every state that was active then, dotted. */
  active: string[];
  moved: boolean;
  times: number;
}

export interface Timeline {
  /** `memory`: of the worker that has the session; `story`: what was kept when a turn ended badly. */
  from: 'memory' | 'story';
  workerId: string;
  epoch: number;
  /** Older events that are not remembered. */
  dropped: number;
  entries: TimelineEntry[];
}

/** Dotted paths of every state in a state value, outer ones first. */
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
    // An older machine's record: what its transitions meant is not known.
  }
  return first;
}

/** The record as a list to be read. Oldest first. */
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
