import { type SnapshotFrom, transition } from 'xstate';
import { type SessionContext, type SessionEvent, type SessionMachine, sessionMachine } from '../../machines/session.ts';
import type { FlightEvent, FlightRecord } from './flight.ts';

type SessionSnapshot = SnapshotFrom<SessionMachine>;

/** One replayed step: the recorded event, and the machine before and after it. */
export interface ReplayedStep {
  recorded: FlightEvent;
  event: SessionEvent;
  before: SessionSnapshot;
  after: SessionSnapshot;
}

/**
 * Replays the recorded events of the session's newest actor through the pure machine, without effects.
 *
 * @throws {Error} when the record does not begin with a state of this version of the machine
 */
export function replaySteps(record: FlightRecord): { start: SessionSnapshot; steps: ReplayedStep[] } {
  if (!record.base) throw new Error(`the story of ${record.sessionId} has no beginning`);
  const { value, context } = record.base;
  const start = sessionMachine.resolveState({
    value,
    context: context as unknown as SessionContext,
  } as Parameters<SessionMachine['resolveState']>[0]);
  const steps: ReplayedStep[] = [];
  let snapshot = start;
  for (const recorded of record.events) {
    if (recorded.actor !== `session@${record.epoch}` || recorded.event.startsWith('xstate.')) continue;
    const event = { type: recorded.event, ...recorded.fields } as SessionEvent;
    for (let time = 0; time < (recorded.times ?? 1); time += 1) {
      const before: SessionSnapshot = snapshot;
      [snapshot] = transition(sessionMachine, before, event);
      steps.push({ recorded, event, before, after: snapshot });
    }
  }
  return { start, steps };
}

/**
 * Returns the state of the session at the end of the record, found by replay.
 *
 * @throws {Error} under the same conditions as {@link replaySteps}
 */
export function replay(record: FlightRecord): SessionSnapshot {
  const { start, steps } = replaySteps(record);
  return steps.at(-1)?.after ?? start;
}
