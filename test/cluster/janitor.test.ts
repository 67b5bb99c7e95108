import { expect, it } from 'vitest';
import { startJanitor } from '../../src/cluster/janitor.ts';
import type { Purged, PurgeKind, PurgeStep } from '../../src/store/port.ts';
import { createManualClock } from '../../src/testing/index.ts';

const end: Purged = { removed: {}, after: ['end'], more: false };
const settle = async () => {
  for (let i = 0; i < 100; i += 1) await Promise.resolve();
};

/** Creates a janitor over a store whose steps are answered by `purge`; `steps` records them in order. */
function sweeping(purge: (step: PurgeStep) => Promise<Purged> | Purged) {
  const clock = createManualClock();
  const steps: PurgeStep[] = [];
  const logged: object[] = [];
  const janitor = startJanitor({
    store: {
      purge: async (step) => {
        steps.push(step);
        return purge(step);
      },
    },
    clock,
    random: () => 0.5,
    everyMs: 1_000,
    retentionHours: 24,
    log: { info: (o) => logged.push(o), warn: (o) => logged.push(o) },
  });
  const places = (kind: PurgeKind) => steps.filter((step) => step.kind === kind).map(({ after }) => after?.[0] ?? null);
  return { clock, janitor, steps, logged, places };
}

it('The janitor sweeps every kind of row to its end, each step from where the previous one stopped, then waits', async () => {
  const left = new Map<PurgeKind, number>([
    ['sessions', 3],
    ['turns', 1],
    ['shared', 2],
  ]);
  const { clock, janitor, steps, logged, places } = sweeping(({ kind }) => {
    const more = left.get(kind) ?? 0;
    left.set(kind, more - 1);
    return { removed: { [kind]: 5 }, after: [`${kind} ${more}`], more: more > 0 };
  });
  clock.advance(999);
  expect(steps).toHaveLength(0);
  clock.advance(1);
  await settle();
  expect(places('sessions')).toEqual([null, 'sessions 3', 'sessions 2', 'sessions 1']);
  expect(places('turns')).toEqual([null, 'turns 1']);
  expect(places('workers')).toEqual([null]);
  expect(places('shared')).toEqual([null, 'shared 2', 'shared 1']);
  expect(steps.every(({ olderThanHours, limit }) => olderThanHours === 24 && limit === 500)).toBe(true);
  expect(logged).toEqual([{ sessions: 20, turns: 10, workers: 5, shared: 15, objects: 5 }]);
  clock.advance(1_000);
  await settle();
  expect(places('sessions').slice(4)).toEqual([null]);
  janitor.stop();
});

it('The janitor alternates between kinds of rows, so that none waits for the end of another', async () => {
  let left = 8;
  const { clock, janitor, steps } = sweeping(({ kind }) => {
    left -= 1;
    return { ...end, more: left > 0 && kind !== 'turns' };
  });
  clock.advance(1_000);
  await settle();
  expect(steps.map(({ kind }) => kind)).toEqual([
    ...['sessions', 'turns', 'workers', 'shared', 'objects'],
    ...['sessions', 'workers', 'shared', 'objects', 'sessions', 'workers'],
  ]);
  janitor.stop();
});

it('A sweep that runs out of time stops, and the next one continues from there', async () => {
  let made = 0;
  const { clock, janitor, steps, places } = sweeping(() => {
    made += 1;
    // The seventh answer arrives when the time of the sweep is over.
    if (made === 7) clock.advance(30_000);
    return { ...end, after: [String(made)], more: made < 7 };
  });
  clock.advance(1_000);
  await settle();
  expect(steps).toHaveLength(7);
  clock.advance(1_000);
  await settle();
  expect(places('sessions')).toEqual([null, '1', '6']);
  expect(places('turns')).toEqual([null, '2', null]);
  expect(places('workers')).toEqual([null, '3']);
  expect(places('shared')).toEqual([null, '4']);
  janitor.stop();
});

it('A failing step of one kind does not delay the other kinds, and its next step asks for fewer rows', async () => {
  let fails = true;
  const { clock, janitor, steps, logged } = sweeping(({ kind }) => {
    if (kind === 'sessions' && fails) throw new Error('no answer');
    return end;
  });
  for (let round = 0; round < 10; round += 1) {
    clock.advance(1_000);
    await settle();
  }
  const limits = () => steps.filter(({ kind }) => kind === 'sessions').map(({ limit }) => limit);
  expect(limits()).toEqual([500, 250, 125, 62, 31, 15, 7, 3, 1, 1]);
  expect(steps.filter(({ kind }) => kind === 'shared')).toHaveLength(10);
  expect(logged[0]).toMatchObject({ kind: 'sessions', limit: 250 });
  fails = false;
  for (let round = 0; round < 10; round += 1) {
    clock.advance(1_000);
    await settle();
  }
  expect(limits().slice(10)).toEqual([1, 2, 4, 8, 16, 32, 64, 128, 256, 500]);
  janitor.stop();
});

it('The janitor never overlaps itself, survives a failing store, and stops for good', async () => {
  let release = (_: Error) => {};
  const { clock, janitor, steps } = sweeping(
    () =>
      new Promise((_, reject) => {
        release = reject;
      }),
  );
  clock.advance(10_000);
  await settle();
  expect(steps).toHaveLength(1);
  release(new Error('no answer'));
  await settle();
  expect(steps).toHaveLength(2);
  janitor.stop();
  release(new Error('no answer'));
  await settle();
  clock.advance(100_000);
  expect(steps).toHaveLength(2);
  expect(clock.armed).toBe(0);
});
