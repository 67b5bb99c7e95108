import type { AnyStateNode } from 'xstate';
import { sessionMachine } from '../../machines/session.ts';

export interface OutlinedState {
  /** Dotted path; empty for the machine itself. */
  path: string;
  description: string;
  kind: 'atomic' | 'compound' | 'parallel' | 'final' | 'history';
  /** Path of the initial child; null when there are no children, or when all are entered. */
  initial: string | null;
  /** Names of the deadlines that limit the time in this state. */
  deadlines: string[];
}

export interface OutlinedTransition {
  from: string;
  event: string;
  guard: string | null;
  /** Null when the transition does not leave the state. */
  to: string | null;
  actions: string[];
  description: string;
}

/** A machine as data, for drawing and reading, in the order of its definition. */
export interface MachineOutline {
  id: string;
  states: OutlinedState[];
  transitions: OutlinedTransition[];
}

const nodesBelow = (node: AnyStateNode): AnyStateNode[] => [
  node,
  ...Object.values(node.states).flatMap((child) => nodesBelow(child as AnyStateNode)),
];
const pathOf = (node: AnyStateNode) => node.path.join('.');
const nameOf = (thing: unknown) => (typeof thing === 'string' ? thing : (thing as { type: string }).type);

function stateOf(node: AnyStateNode): OutlinedState {
  const [initial] = node.type === 'compound' ? (node.initial.target as AnyStateNode[]) : [];
  const { deadlines = [] } = (node.meta ?? {}) as { deadlines?: { name: string }[] };
  return {
    path: pathOf(node),
    description: node.description ?? '',
    kind: node.type,
    initial: initial ? pathOf(initial) : null,
    deadlines: deadlines.map(({ name }) => name),
  };
}

function transitionsOf(node: AnyStateNode): OutlinedTransition[] {
  return [...node.transitions].flatMap(([event, taken]) =>
    taken.map(({ guard, target, actions, description }) => ({
      from: pathOf(node),
      event,
      guard: guard ? nameOf(guard) : null,
      to: target?.[0] ? pathOf(target[0] as AnyStateNode) : null,
      actions: (actions as readonly unknown[]).map(nameOf),
      description: description ?? '',
    })),
  );
}

let outline: MachineOutline | null = null;

/** Returns the outline of the session machine that runs in this process. */
export function sessionOutline(): MachineOutline {
  const nodes = nodesBelow(sessionMachine.root as unknown as AnyStateNode);
  outline ??= { id: sessionMachine.id, states: nodes.map(stateOf), transitions: nodes.flatMap(transitionsOf) };
  return outline;
}
