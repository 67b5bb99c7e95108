import { describe, expect, it } from 'vitest';
import { createCoverage, explore, type Graph, shortestPaths } from '../../src/testing/index.ts';
import { models } from './models.ts';

/** Gives every state that can be reached every event there is, ignored ones included. */
function coverEverything(graph: Graph) {
  const meter = createCoverage(graph);
  for (const { steps } of shortestPaths(graph)) {
    const last = steps.at(-1)?.to ?? graph.initial;
    meter.visit(last.snapshot);
    for (const { event } of last.steps) meter.take(last.snapshot, event);
  }
  return meter.report();
}

describe.each(models)('the $name machine', (model) => {
  it('is visited in every state, by every transition and with every event in every state', () => {
    const { states, transitions, pairs, line } = coverEverything(explore(model));
    console.log(line);
    expect(states.missing).toEqual([]);
    expect(transitions.missing).toEqual([]);
    expect(pairs.missing).toEqual([]);
  });

  it('has no event in its vocabulary without which it would be covered all the same', { timeout: 180_000 }, () => {
    const types = new Set(model.events.map((variant) => variant.event({ generation: 1 }).type));
    const idle = [...types].filter((type) => {
      const events = model.events.filter((variant) => variant.event({ generation: 1 }).type !== type);
      return coverEverything(explore({ ...model, events })).transitions.missing.length === 0;
    });
    expect(idle).toEqual([]);
  });
});
