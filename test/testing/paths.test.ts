import { describe, expect, it } from 'vitest';
import { assign, setup } from 'xstate';
import {
  createCoverage,
  explore,
  fixedEvents,
  type MachineModel,
  pathAlong,
  shortestPaths,
  simplePaths,
  transitionCover,
  variantName,
} from '../../src/testing/index.ts';

const door = setup({
  types: {
    context: {} as { opened: number; code: number },
    events: {} as { type: 'push' } | { type: 'pull' } | { type: 'code'; digits: number } | { type: 'burn' },
  },
  actions: { count: assign({ opened: ({ context }) => context.opened + 1 }), ring: () => {} },
  guards: { isRight: ({ context, event }) => event.type === 'code' && event.digits === context.code },
}).createMachine({
  id: 'door',
  context: { opened: 0, code: 7 },
  initial: 'locked',
  states: {
    locked: { on: { code: [{ guard: 'isRight', target: 'shut' }, { actions: 'ring' }] } },
    shut: { on: { push: { target: 'open', actions: 'count' }, burn: 'gone' } },
    open: { on: { pull: 'shut' } },
    gone: { type: 'final' },
  },
});
const model: MachineModel<typeof door> = {
  name: 'door',
  machine: door,
  events: [
    ...fixedEvents<typeof door>([{ type: 'push' }, { type: 'pull' }, { type: 'burn' }]),
    { name: 'code (right)', event: ({ code }) => ({ type: 'code', digits: code }) },
    { name: 'code (wrong)', event: ({ code }) => ({ type: 'code', digits: code + 1 }) },
  ],
  project: () => null,
};
const graph = explore(model);

describe('an explored machine', () => {
  it('An exploration has the states that its projection distinguishes, and every event in each of them', () => {
    expect([...graph.nodes.values()].map(({ configuration }) => JSON.parse(configuration))).toEqual([
      'locked',
      'shut',
      'open',
      'gone',
    ]);
    for (const { steps } of graph.nodes.values()) expect(steps).toHaveLength(5);
  });

  it('An exploration gives for every event its transition and its actions', () => {
    const [right, wrong] = ['code (right)', 'code (wrong)'].map(
      (name) => graph.initial.steps.find(({ variant }) => variant.name === name)!,
    );
    expect(right!.transitions).toEqual(['door.locked on code [isRight]']);
    expect(wrong!.transitions).toEqual(['door.locked on code [otherwise]']);
    expect(wrong!.actions).toEqual([{ type: 'ring', params: undefined }]);
    expect(graph.initial.steps.find(({ variant }) => variant.name === 'push')!.transitions).toEqual([]);
  });

  it('An exploration without an end is refused', () => {
    expect(() => explore({ ...model, project: ({ opened }) => opened }, { limit: 20 })).toThrow(/limit/i);
  });

  it('An exploration contains only what its world allows', () => {
    const inside = explore(model, {
      world: {
        facts: { pushes: 0 },
        allows: ({ pushes }, _, { name }) => name !== 'burn' && (name !== 'push' || pushes < 1),
        learn: ({ pushes }, { variant }) => ({ pushes: variant.name === 'push' ? 1 : pushes }),
      },
    });
    expect([...inside.nodes.values()].map(({ configuration, facts }) => [configuration, facts.pushes])).toEqual([
      ['"locked"', 0],
      ['"locked"', 1],
      ['"shut"', 0],
      ['"shut"', 1],
      ['"open"', 1],
    ]);
  });
});

describe('paths', () => {
  it('Transition paths cover every transition, and end where they are long', () => {
    for (const maxLength of [2, 3, 12]) {
      const paths = transitionCover(graph, { maxLength });
      const taken = new Set(paths.flatMap(({ steps }) => steps.flatMap(({ transitions }) => transitions)));
      expect(taken.size).toBe(5);
      for (const { steps } of paths) expect(steps.length).toBeLessThanOrEqual(Math.max(maxLength, 3));
    }
  });

  it('Shortest paths lead to every state', () => {
    expect(shortestPaths(graph).map(({ name }) => name)).toEqual([
      '',
      'code (right)',
      'code (right), push',
      'code (right), burn',
    ]);
  });

  it('Simple paths visit nothing twice', () => {
    expect([...simplePaths(graph, { maxLength: 9 })].map(({ name }) => name)).toEqual([
      '',
      'code (right)',
      'code (right), push',
      'code (right), burn',
    ]);
  });

  it('A path along event names is found, or the name that leads nowhere is reported', () => {
    const world = {
      facts: null,
      allows: (_: null, __: unknown, variant: { name: string }) => variant.name !== 'pull',
      learn: () => null,
    };
    const oneWay = explore(model, { world });
    expect(pathAlong(oneWay, ['code (right)', 'push']).steps.at(-1)!.to.configuration).toBe('"open"');
    expect(() => pathAlong(oneWay, ['code (right)', 'push', 'pull'])).toThrow('pull cannot happen in "open"');
  });
});

describe('coverage', () => {
  it('Coverage names what was not visited', () => {
    const meter = createCoverage(graph);
    for (const { from, to, event } of pathAlong(graph, ['code (wrong)', 'code (right)', 'push']).steps) {
      meter.take(from.snapshot, event);
      meter.visit(to.snapshot);
    }
    const { states, transitions, pairs, line } = meter.report();
    expect(states.missing).toEqual(['door.gone']);
    expect(transitions.missing).toEqual(['door.shut on burn', 'door.open on pull']);
    expect(pairs).toMatchObject({ seen: 3, total: 20 });
    expect(line).toBe('door: states 3/4 (75 %), transitions 3/5 (60 %), pairs 3/20 (15 %)');
  });

  it('Coverage counts nothing for a machine that has ended', () => {
    const meter = createCoverage(graph);
    const last = pathAlong(graph, ['code (right)', 'burn']).steps.at(-1)!.to;
    expect(meter.take(last.snapshot, { type: 'push' })).toEqual([]);
    expect(meter.report().pairs.seen).toBe(1);
  });
});

it('Coverage names an event by its content', () => {
  expect(variantName({ type: 'socket.lost' })).toBe('socket.lost');
  expect(variantName({ type: 'a', open: true, why: 'x', n: 2 } as never)).toBe('a (open, why: x, n: 2)');
});
