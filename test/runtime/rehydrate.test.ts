import { describe, expect, it } from 'vitest';
import { defineProgram, persist, rehydrate, startActor } from '../../src/runtime/index.ts';
import { createManualClock } from '../../src/testing/index.ts';
import { orderMachine } from './order-machine.ts';

const program = defineProgram(orderMachine, { commits: ['charge'], version: 3 });
const stored = { value: 'paying', context: { items: 2, attempts: 1, dueAt: null } };
const wake = (over: Partial<Parameters<typeof rehydrate<typeof orderMachine>>[1]> = {}) =>
  rehydrate(program, { persisted: stored, machineVersion: 3, input: {}, takeover: { type: 'recovered' }, ...over });

describe('a snapshot that is taken over', () => {
  it('A restored actor starts in the state to which the takeover leads, with its context', () => {
    const { snapshot, recoveredFrom } = wake();
    expect(snapshot.value).toBe('open');
    expect(snapshot.context.items).toBe(2);
    expect(recoveredFrom).toBe('snapshot');
  });

  it('A restored actor runs no effects of its stored state or of the takeover', async () => {
    const performed: string[] = [];
    const actor = startActor(program, {
      id: 'order',
      snapshot: wake().snapshot,
      clock: createManualClock(),
      durations: () => Number.POSITIVE_INFINITY,
      perform: ({ type }) => performed.push(type),
    });
    await actor.idle();
    expect(performed).toEqual([]);
    actor.send({ type: 'nudge' });
    expect(performed).toEqual(['announce']);
    actor.stop();
  });

  it('A restored actor arms its deadlines again, absolute ones with their original time', async () => {
    const clock = createManualClock();
    const persisted = { value: 'open', context: { items: 0, attempts: 0, dueAt: clock.wall() + 50 } };
    const actor = startActor(program, {
      id: 'order',
      snapshot: wake({ persisted }).snapshot,
      clock,
      durations: () => Number.POSITIVE_INFINITY,
      perform: () => {},
    });
    await actor.idle();
    clock.advance(50);
    expect(actor.stopped).toBe(true);
  });

  it.each([
    ['was written by another version', { machineVersion: 2 }],
    ['names a missing state', { persisted: { value: 'shipped', context: {} } }],
    ['has no context', { persisted: { value: 'open' } }],
    ['has a context of another shape', { persisted: stored, validContext: () => false }],
    ['has ended', { persisted: { value: 'gone', context: stored.context } }],
    ['is no snapshot', { persisted: 'paying' }],
    ['is null', { persisted: null }],
  ])('A snapshot that %s is not loaded, and the columns are used instead', (_, over) => {
    const { snapshot, recoveredFrom } = wake(over);
    expect(recoveredFrom).toBe('columns');
    expect(snapshot.value).toBe('open');
    expect(snapshot.context.items).toBe(0);
  });
});

it('A snapshot keeps only state and context of an actor', async () => {
  const actor = startActor(program, {
    id: 'order',
    input: {},
    clock: createManualClock(),
    durations: () => Number.POSITIVE_INFINITY,
    perform: () => {},
  });
  await actor.idle();
  expect(JSON.parse(JSON.stringify(persist(actor)))).toEqual({
    value: 'open',
    context: { items: 0, attempts: 0, dueAt: null },
  });
  actor.stop();
});
