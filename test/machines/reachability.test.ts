import { describe, expect, it } from 'vitest';
import { getAdjacencyMap } from 'xstate/graph';
import { type SessionEvent, sessionMachine } from '../../machines/session.ts';

const generations = [1, 2];
const both = [true, false];
const events: SessionEvent[] = [
  { type: 'turn.wanted' },
  { type: 'turn.cancelled', reason: 'client_cancel' },
  { type: 'client.gone' },
  { type: 'client.back' },
  ...generations.flatMap((generation): SessionEvent[] => [
    { type: 'socket.opened', generation },
    { type: 'socket.failed', generation },
    { type: 'history.missing', generation },
    ...both.map((relay): SessionEvent => ({ type: 'socket.refused', generation, relay })),
    ...both.map((resendable): SessionEvent => ({ type: 'socket.lost', generation, resendable })),
  ]),
  { type: 'frame.not_sent', cause: 'lease' },
  { type: 'frame.not_sent', cause: 'socket' },
  { type: 'upstream.progress' },
  { type: 'upstream.anchor_refused' },
  ...both.map((keepSocket): SessionEvent => ({ type: 'upstream.ended', keepSocket })),
  ...both.flatMap((socketOpen) =>
    both.map((leaseValid): SessionEvent => ({ type: 'store.started', socketOpen, leaseValid })),
  ),
  { type: 'store.not_created' },
  { type: 'store.head_moved' },
  { type: 'store.busy' },
  { type: 'store.cleared' },
  { type: 'store.fenced' },
  ...both.map((socketOpen): SessionEvent => ({ type: 'store.settled', socketOpen })),
  ...both.map((rowExists): SessionEvent => ({ type: 'store.rejected', rowExists })),
  ...(
    [
      'connect',
      'redial',
      'start_wait',
      'settle_wait',
      'first_event',
      'silence',
      'turn_budget',
      'grace',
      'idle',
      'age',
    ] as const
  ).map((name) => ({ type: `deadline.${name}` }) as SessionEvent),
  { type: 'operator.release' },
  { type: 'operator.close' },
  { type: 'worker.draining' },
  { type: 'worker.dead' },
  { type: 'session.claimed' },
];

const adjacency = getAdjacencyMap(sessionMachine, {
  events,
  serializeState: ({ value, context }) =>
    JSON.stringify([value, Math.min(context.generation, 2), Math.min(context.creates, 2)]),
  stopWhen: ({ context }) => context.generation > 2 || context.turns > 2 || context.takeovers > 1,
});
interface Visited {
  value: unknown;
  context: { generation: number; creates: number };
}
interface Explored {
  state: Visited;
  transitions: Record<string, { event: SessionEvent; state: Visited }>;
}
const nodes = Object.entries(adjacency) as unknown as [string, Explored][];
const leadsTo = new Map(
  nodes.map(([key, node]) => [key, Object.values(node.transitions).map(({ state }) => state)] as const),
);
const isRest = (value: unknown) =>
  value === 'closed' || (typeof value === 'object' && value !== null && 'live' in value);

describe('the session machine, explored', () => {
  it('visits every leaf state', () => {
    const leaves = new Set<string>();
    const collect = (node: { id: string; states: Record<string, never>; type: string }): void => {
      if (node.type === 'atomic' || node.type === 'final') leaves.add(node.id);
      for (const child of Object.values(node.states)) collect(child);
    };
    collect(sessionMachine.root as never);
    const seen = new Set<string>();
    for (const [, node] of nodes) {
      const { state } = node as unknown as { state: { _nodes: { id: string; type: string }[] } };
      for (const { id, type } of state._nodes) if (type === 'atomic' || type === 'final') seen.add(id);
    }
    expect([...leaves].filter((leaf) => !seen.has(leaf))).toEqual([]);
  });

  it('reaches live or closed from every state', () => {
    const stuck = nodes.filter(([key, node]) => {
      const queue = [key];
      const visited = new Set(queue);
      if (isRest((node.state as { value: unknown }).value)) return false;
      while (queue.length > 0) {
        for (const next of leadsTo.get(queue.shift()!) ?? []) {
          if (isRest(next.value)) return false;
          const id = JSON.stringify([
            next.value,
            Math.min(next.context.generation, 2),
            Math.min(next.context.creates, 2),
          ]);
          if (!visited.has(id)) {
            visited.add(id);
            queue.push(id);
          }
        }
      }
      return true;
    });
    expect(stuck.map(([key]) => key)).toEqual([]);
  });

  it('never counts more than two creates for a turn', () => {
    for (const [, node] of nodes)
      expect((node.state as { context: { creates: number } }).context.creates).toBeLessThan(3);
  });

  it('leaves a stale state only through a claim, a close or a wanted turn', () => {
    for (const [, node] of nodes) {
      if ((node.state as { value: unknown }).value !== 'stale') continue;
      const exits = Object.values(node.transitions)
        .filter(({ state }) => state.value !== 'stale')
        .map(({ event }) => event.type);
      expect(new Set(exits)).toEqual(new Set(['turn.wanted', 'operator.close']));
    }
  });

  it('hands a frame over only on the verdict of its own start, or for the one permitted resend', () => {
    const senders = new Set<string>();
    const walk = (node: {
      transitions: Map<string, { actions: ({ type?: string } | string)[] }[]>;
      states: Record<string, never>;
    }): void => {
      for (const [event, list] of node.transitions)
        for (const { actions } of list)
          if (actions.some((action) => /^send/.test(typeof action === 'string' ? action : (action.type ?? ''))))
            senders.add(event);
      for (const child of Object.values(node.states)) walk(child);
    };
    walk(sessionMachine.root as never);
    expect([...senders].sort()).toEqual(['socket.opened', 'store.started', 'upstream.anchor_refused']);
  });
});
