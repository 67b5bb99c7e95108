import {
  type ActorLogic,
  type AnyStateMachine,
  type EventFromLogic,
  initialTransition,
  type Snapshot,
  type SnapshotFrom,
  transition,
} from 'xstate';
import { getAdjacencyMap } from 'xstate/graph';
import type { EventVariant, MachineModel } from './vocabulary.ts';

/** One event given to the machine in one state, and what came of it. */
export interface Step<M extends AnyStateMachine = AnyStateMachine, F = unknown> {
  readonly variant: EventVariant<M>;
  readonly event: EventFromLogic<M>;
  readonly from: GraphNode<M, F>;
  readonly to: GraphNode<M, F>;
  /** Names of the machine's transitions that it took; empty when the event is ignored there. */
  readonly transitions: readonly string[];
  /** The actions it would execute, in order; `assign` and the like are left out. */
  readonly actions: readonly { readonly type: string; readonly params: unknown }[];
}

/** A state the machine can be in, as far as the model tells states apart. */
export interface GraphNode<M extends AnyStateMachine = AnyStateMachine, F = unknown> {
  readonly key: string;
  /** The state value as JSON: where the machine is, whatever its context says. */
  readonly configuration: string;
  readonly snapshot: SnapshotFrom<M>;
  readonly facts: F;
  readonly steps: Step<M, F>[];
}

/** Everything a machine can do, from its initial state. */
export interface Graph<M extends AnyStateMachine = AnyStateMachine, F = unknown> {
  readonly model: MachineModel<M>;
  readonly initial: GraphNode<M, F>;
  readonly nodes: ReadonlyMap<string, GraphNode<M, F>>;
}

/** What the machine does not know of the world it is driven in, and which therefore limits what can happen to it. */
export interface World<M extends AnyStateMachine, F> {
  readonly facts: F;
  /** What is known after a step. The facts are part of the state: they must be few, and JSON. */
  learn(facts: F, step: Omit<Step<M, F>, 'from' | 'to'> & { before: SnapshotFrom<M>; after: SnapshotFrom<M> }): F;
  /** Whether the world can make this happen now. Default: everything can. */
  allows?(facts: F, before: SnapshotFrom<M>, variant: EventVariant<M>): boolean;
}

export interface ExploreOptions<M extends AnyStateMachine, F> {
  world?: World<M, F>;
  /** Throws when more states than this are met: then the projection is too fine. Default 10,000. */
  limit?: number;
}

interface Product<M extends AnyStateMachine, F> {
  status: 'active';
  snapshot: SnapshotFrom<M>;
  facts: F;
}
interface ProductEvent<M extends AnyStateMachine> {
  type: string;
  variant: EventVariant<M>;
}

interface Looked {
  status: string;
  value: unknown;
  context: never;
}

/** The state value as text: where a machine is, whatever its context says. */
export const configurationOf = (snapshot: unknown): string => JSON.stringify((snapshot as Looked).value);

/** Names every transition on events of a machine, by its definition. Eventless ones follow from others and have no name. */
export function transitionNames(machine: AnyStateMachine): ReadonlyMap<object, string> {
  const names = new Map<object, string>();
  const walk = (node: AnyStateMachine['root']): void => {
    for (const [event, list] of node.transitions) {
      list.forEach((definition, index) => {
        const { guard } = definition;
        const name = typeof guard === 'string' ? guard : (guard as { type?: string } | undefined)?.type;
        const which = list.length === 1 ? '' : ` [${name ?? (guard ? `#${index + 1}` : 'otherwise')}]`;
        names.set(definition, `${node.id} on ${event}${which}`);
      });
    }
    for (const child of Object.values(node.states)) walk(child as AnyStateMachine['root']);
  };
  walk(machine.root);
  return names;
}

/** Names of the transitions an event would make a machine take; empty when it is ignored, or the machine is done. */
export function transitionsTaken(
  machine: AnyStateMachine,
  names: ReadonlyMap<object, string>,
  snapshot: unknown,
  event: { type: string },
): string[] {
  if ((snapshot as Looked).status !== 'active') return [];
  return machine.getTransitionData(snapshot as never, event).flatMap((definition) => names.get(definition) ?? []);
}

/**
 * Explores a machine, purely: no action is executed. With a `world`, only what that world can make happen is followed,
 * and states are told apart by its facts too. Throws when `limit` states do not suffice.
 */
export function explore<M extends AnyStateMachine, F = null>(
  model: MachineModel<M>,
  options: ExploreOptions<M, F> = {},
): Graph<M, F> {
  const { machine, events } = model;
  const { world, limit = 10_000 } = options;
  const names = transitionNames(machine);
  const project = (context: never) => (model.project ? model.project(context) : context);
  const steps = new Map<string, Omit<Step<M, F>, 'from' | 'to'> & { to: Product<M, F> }>();
  const start = initialTransition(machine, ...([model.input] as never))[0] as SnapshotFrom<M>;
  const initial: Product<M, F> = { status: 'active', snapshot: start, facts: (world ? world.facts : null) as F };

  const keyOf = ({ snapshot, facts }: Product<M, F>): string => {
    const { value, context } = snapshot as Looked;
    return JSON.stringify([value, project(context), facts]);
  };
  const advance = (state: Product<M, F>, { variant }: ProductEvent<M>): Product<M, F> => {
    const before = state.snapshot;
    const event = variant.event((before as Looked).context);
    const active = (before as Looked).status === 'active';
    const taken = transitionsTaken(machine, names, before, event as { type: string });
    const [after, executed] = active ? transition(machine, before, event) : [before, []];
    const actions = executed
      .filter(({ type }) => !type.startsWith('xstate.'))
      .map(({ type, params }) => ({ type, params: params as unknown }));
    const step = { variant, event, transitions: taken, actions };
    const facts = world ? world.learn(state.facts, { ...step, before, after: after as SnapshotFrom<M> }) : state.facts;
    const to: Product<M, F> = { status: 'active', snapshot: after as SnapshotFrom<M>, facts };
    steps.set(`${keyOf(state)}\n${variant.name}`, { ...step, to });
    return to;
  };

  const logic = {
    transition: advance,
    getInitialSnapshot: () => initial,
    getPersistedSnapshot: (state: Product<M, F>) => state,
  } as unknown as ActorLogic<Snapshot<unknown>, ProductEvent<M>>;
  const adjacency = getAdjacencyMap(logic, {
    events: events.map((variant): ProductEvent<M> => ({ type: variant.name, variant })),
    serializeState: (state) => keyOf(state as unknown as Product<M, F>),
    serializeEvent: ({ type }) => type,
    filterEvents: (state, { variant }) => {
      const { facts, snapshot } = state as unknown as Product<M, F>;
      return world?.allows?.(facts, snapshot, variant) ?? true;
    },
    limit: limit * (events.length + 1),
  });

  const nodes = new Map<string, GraphNode<M, F>>();
  for (const [key, { state }] of Object.entries(adjacency)) {
    const { snapshot, facts } = state as unknown as Product<M, F>;
    nodes.set(key, { key, configuration: configurationOf(snapshot), snapshot, facts, steps: [] });
  }
  for (const [key, { transitions }] of Object.entries(adjacency)) {
    const from = nodes.get(key)!;
    for (const name of Object.keys(transitions)) {
      const { to, ...step } = steps.get(`${key}\n${name}`)!;
      from.steps.push({ ...step, from, to: nodes.get(keyOf(to))! });
    }
  }
  return { model, initial: nodes.get(keyOf(initial))!, nodes };
}
