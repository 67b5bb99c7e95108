import { describe, expect, it } from 'vitest';
import { explore, simplePaths, turnModel, workerModel } from '../../src/testing/index.ts';

describe('the turn machine along every simple path', () => {
  it('A turn has exactly one terminal, and nothing after it', () => {
    const graph = explore(turnModel);
    let paths = 0;
    for (const { steps, name } of simplePaths(graph, { maxLength: 12, ignored: true })) {
      paths += 1;
      const ends = steps.filter(({ to }) => to.snapshot.status === 'done').length;
      expect(ends, name).toBeLessThan(2);
      if (ends === 1) expect(steps.at(-1)!.to.snapshot.status, name).toBe('done');
    }
    console.log(`turn: ${paths} simple paths`);
    const done = [...graph.nodes.values()].filter(({ snapshot }) => snapshot.status === 'done');
    expect(done).toHaveLength(5);
    for (const { steps } of done) expect(steps.every(({ transitions }) => transitions.length === 0)).toBe(true);
  });

  it('A turn that was not sent never ends as completed', () => {
    for (const { steps, name } of simplePaths(explore(turnModel), { maxLength: 12 })) {
      const events = steps.map(({ variant }) => variant.name);
      if (['complete', 'end_incomplete'].includes(events.at(-1)!)) expect(events, name).toContain('send');
      if (events.includes('send')) expect(events.indexOf('commit'), name).toBeLessThan(events.indexOf('send'));
    }
  });
});

describe('the worker machine along every simple path', () => {
  it('A worker sends heartbeats only while it is registered, and its last action is one of two', () => {
    let paths = 0;
    for (const { steps, name } of simplePaths(explore(workerModel), { maxLength: 12 })) {
      paths += 1;
      const acts = steps.flatMap(({ actions }) => actions.map(({ type }) => type));
      const confirmed = steps.findIndex(({ variant }) => variant.name === 'registration.confirmed');
      const beat = steps.findIndex(({ actions }) => actions.some(({ type }) => type === 'beat'));
      if (beat >= 0) expect(confirmed, name).toBeLessThan(beat);
      const last = acts.filter((act) => act === 'abandon' || act === 'declareSelfDead');
      expect(last.length, name).toBe(steps.at(-1)?.to.snapshot.status === 'done' ? 1 : 0);
    }
    console.log(`worker: ${paths} simple paths`);
    expect(paths).toBeGreaterThan(10);
  });
});
