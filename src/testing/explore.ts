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

/** One event given to the machine in one state, and its result. */
export interface Step<M extends AnyStateMachine = AnyStateMachine, F = unknown> {
  readonly variant: EventVariant<M>;
  readonly event: EventFromLogic<M>;
  readonly from: GraphNode<M, F>;
  readonly to: GraphNode<M, F>;
  /** Names of the transitions taken; empty when the event is ignored in that state. */
  readonly transitions: readonly string[];
  /** Actions that would be executed, in order, without built-in ones such as `assign`. */
  readonly actions: readonly { readonly type: string; readonly params: unknown }[];
}

/** State of the machine, as far as the model distinguishes states. */
export interface GraphNode<M extends AnyStateMachine = AnyStateMachine, F = unknown> {
  readonly key: string;
  /** State value as JSON, without the context. */
  readonly configuration: string;
  readonly snapshot: SnapshotFrom<M>;
  readonly facts: F;
  readonly steps: Step<M, F>[];
}

/** Everything a machine can do from its initial state. */
export interface Graph<M extends AnyStateMachine = AnyStateMachine, F = unknown> {
  readonly model: MachineModel<M>;
  readonly initial: GraphNode<M, F>;
  readonly nodes: ReadonlyMap<string, GraphNode<M, F>>;
}

/** Facts about the environment that the machine does not know and that limit which events can happen. */
export interface World<M extends AnyStateMachine, F> {
  readonly facts: F;
  /**
   * Returns the facts known after a step. Facts are part of the explored state, so there must be few of them, and they
   * must be JSON values.
   */
  learn(facts: F, step: Omit<Step<M, F>, 'from' | 'to'> & { before: SnapshotFrom<M>; after: SnapshotFrom<M> }): F;
  /** Returns whether the environment can produce this event now. Default: every event is possible. */
  allows?(facts: F, before: SnapshotFrom<M>, variant: EventVariant<M>): boolean;
}

/** Options of {@link explore}. */
export interface ExploreOptions<M extends AnyStateMachine, F> {
  world?: World<M, F>;
  /**
   * Maximum number of states. Exploration throws beyond it, because the projection is then too fine. Default 10,000.
   */
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

/**
 * Returns the state value as text, without the context.
 *
 * @param snapshot snapshot of any machine
 */
export const configurationOf = (snapshot: unknown): string => JSON.stringify((snapshot as Looked).value);

/**
 * Names every transition on an event in a machine's definition. Eventless transitions follow from others and get no
 * name.
 *
 * @param machine the machine
 * @returns the names by transition definition
 */
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

/**
 * Returns the names of the transitions that an event would take. The result is empty when the event is ignored or the
 * machine is done.
 *
 * @param machine the machine
 * @param names names of its transitions, from `transitionNames`
 * @param snapshot snapshot in which the event arrives
 * @param event the event
 */
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
 * Explores a machine without executing any action. With a `world`, only events that the world allows are followed, and
 * states are also distinguished by its facts.
 *
 * @param model machine and events
 * @param options `world` restricts the events, `limit` bounds the number of states
 * @returns all states that can be reached, with their transitions
 * @throws {Error} when there are more than `limit` states
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
