import { expect, it } from 'vitest';
import { createActor, type InspectionEvent } from 'xstate';
import { type TurnEvent, turnMachine } from '../../machines/turn.ts';
import type { Step } from '../../src/runtime/index.ts';
import { TurnRecord } from '../../src/session/turn.ts';

const types = [
  ...new Set(Object.values(turnMachine.states).flatMap(({ ownEvents }) => ownEvents)),
] as TurnEvent['type'][];

/** Runs an XState actor of the machine and a record through the same events, and compares what they show. */
function compare(events: readonly TurnEvent['type'][]): string {
  const expected: [string, unknown, string][] = [];
  const shown: typeof expected = [];
  const inspect = (event: InspectionEvent) => {
    if (event.type !== '@xstate.snapshot') return;
    const { value, status } = event.snapshot as unknown as Step;
    expected.push([event.event.type, value, status]);
  };
  const actor = createActor(turnMachine, { input: { turnId: 't' }, inspect }).start();
  const record = new TurnRecord('t', { step: ({ event, value, status }) => shown.push([event.type, value, status]) });
  for (const type of events) {
    actor.send({ type });
    record.note({ type });
  }
  const { value, context, status } = actor.getSnapshot();
  expect(record.snapshot()).toEqual({ value, context, status });
  actor.stop();
  record.stop();
  record.note({ type: 'complete' });
  expect(shown).toEqual(expected);
  expect(record.snapshot().status).toBe(actor.getSnapshot().status);
  return value;
}

it('A record takes the way of an XState actor of the turn machine with every event in every state', () => {
  const ways = new Map<string, TurnEvent['type'][]>([['admitted', []]]);
  for (const [state, way] of ways) {
    if (turnMachine.states[state as 'admitted']?.type === 'final') continue;
    for (const type of types) {
      const reached = compare([...way, type]);
      if (!ways.has(reached)) ways.set(reached, [...way, type]);
    }
  }
  expect([...ways.keys()].sort()).toEqual(Object.keys(turnMachine.states).sort());
});

it('XState’s own inspection events are those of an actor where something wants them', () => {
  const events: InspectionEvent[] = [];
  const record = new TurnRecord('t', { step() {}, xstate: (event) => void events.push(event) });
  record.note({ type: 'queue' });
  record.stop();
  const snapshots = events.flatMap((event) => (event.type === '@xstate.snapshot' ? [event] : []));
  expect(snapshots.map(({ event, snapshot }) => [event.type, (snapshot as unknown as Step).value])).toEqual([
    ['xstate.init', 'admitted'],
    ['queue', 'queued'],
    ['xstate.stop', 'queued'],
  ]);
});
