import { describe, expect, it } from 'vitest';
import { sessionMachine } from '../../machines/session.ts';
import { turnMachine } from '../../machines/turn.ts';
import { workerMachine } from '../../machines/worker.ts';
import { lintMachine } from '../../src/runtime/index.ts';

const machines = { session: sessionMachine, turn: turnMachine, worker: workerMachine };

interface Node {
  id: string;
  description?: string;
  states: Record<string, Node>;
  transitions: Map<string, { description?: string }[]>;
}
const walk = (node: Node): Node[] => [node, ...Object.values(node.states).flatMap(walk)];

describe.each(Object.entries(machines))('the %s machine', (_, machine) => {
  const nodes = walk(machine.root as unknown as Node);

  it('Every state has a description', () => {
    expect(nodes.filter((node) => !node.description).map((node) => node.id)).toEqual([]);
  });

  it('Every transition has a description', () => {
    const silent = nodes.flatMap((node) =>
      [...node.transitions].flatMap(([event, list]) =>
        list.filter((transition) => !transition.description).map(() => `${node.id} on ${event}`),
      ),
    );
    expect(silent).toEqual([]);
  });

  it('The machine hides no effect from the effect lint', () => {
    expect(lintMachine(machine)).toEqual([]);
  });
});

describe('the session machine', () => {
  it('The session machine has exactly the five states that a row can hold', () => {
    expect(Object.keys(sessionMachine.root.states)).toEqual(['connecting', 'live', 'reconnecting', 'stale', 'closed']);
  });
});
