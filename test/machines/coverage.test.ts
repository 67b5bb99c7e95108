import { describe, expect, it } from 'vitest';
import { createCoverage, explore, type Graph, shortestPaths } from '../../src/testing/index.ts';
import { models } from './models.ts';

/** Sends every event, including ignored ones, in every reachable state. */
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
  it('The exploration visits every state, every transition, and every event in every state', () => {
    const { states, transitions, pairs, line } = coverEverything(explore(model));
    console.log(line);
    expect(states.missing).toEqual([]);
    expect(transitions.missing).toEqual([]);
    expect(pairs.missing).toEqual([]);
  });

  it('Every event of the vocabulary is needed for the coverage', { timeout: 180_000 }, () => {
    const types = new Set(model.events.map((variant) => variant.event({ generation: 1 }).type));
    const idle = [...types].filter((type) => {
      const events = model.events.filter((variant) => variant.event({ generation: 1 }).type !== type);
      return coverEverything(explore({ ...model, events })).transitions.missing.length === 0;
    });
    expect(idle).toEqual([]);
  });
});
