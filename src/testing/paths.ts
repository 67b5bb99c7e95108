import type { AnyStateMachine } from 'xstate';
import type { Graph, GraphNode, Step } from './explore.ts';

/** Path through a machine, from its initial state. */
export interface Path<M extends AnyStateMachine = AnyStateMachine, F = unknown> {
  /** Names of its events, in order. */
  readonly name: string;
  readonly steps: readonly Step<M, F>[];
}

type Walk<M extends AnyStateMachine, F> = readonly Step<M, F>[];

const pathOf = <M extends AnyStateMachine, F>(steps: Walk<M, F>): Path<M, F> => ({
  name: steps.map(({ variant }) => variant.name).join(', '),
  steps,
});

/** Returns the shortest walk from `start` whose last step is wanted, or null when there is none. */
function nearest<M extends AnyStateMachine, F>(
  start: GraphNode<M, F>,
  isWanted: (step: Step<M, F>) => boolean,
): Walk<M, F> | null {
  const cameBy = new Map<GraphNode<M, F>, Step<M, F> | null>([[start, null]]);
  for (const node of cameBy.keys()) {
    for (const step of node.steps) {
      if (isWanted(step)) {
        const walk = [step];
        for (let back = cameBy.get(node); back; back = cameBy.get(back.from)) walk.unshift(back);
        return walk;
      }
      if (!cameBy.has(step.to)) cameBy.set(step.to, step);
    }
  }
  return null;
}

/**
 * Returns the path of these events, given by their variants' names.
 *
 * @param graph states and transitions, from `explore`
 * @param names names of event variants, in order
 * @throws {Error} when one of them is not possible in the state reached
 */
export function pathAlong<M extends AnyStateMachine, F>(graph: Graph<M, F>, names: readonly string[]): Path<M, F> {
  const steps: Step<M, F>[] = [];
  for (const name of names) {
    const at = steps.at(-1)?.to ?? graph.initial;
    const step = at.steps.find(({ variant }) => variant.name === name);
    if (!step) throw new Error(`${name} cannot happen in ${at.configuration}, after ${steps.length} steps`);
    steps.push(step);
  }
  return pathOf(steps);
}

/**
 * Returns the shortest path to each state, ordered by length. The path to the initial state is empty.
 *
 * @param graph states and transitions, from `explore`
 */
export function shortestPaths<M extends AnyStateMachine, F>(graph: Graph<M, F>): Path<M, F>[] {
  const walks = new Map<GraphNode<M, F>, Walk<M, F>>([[graph.initial, []]]);
  for (const [node, walk] of walks) {
    for (const step of node.steps) if (!walks.has(step.to)) walks.set(step.to, [...walk, step]);
  }
  return [...walks.values()].map(pathOf);
}

/** Options of {@link transitionCover}. */
export interface CoverOptions<M extends AnyStateMachine, F> {
  /**
   * Maximum path length: a path is ended when its next goal would exceed it. Only the way to its first goal may be
   * longer. Default 12.
   */
  maxLength?: number;
  /** Returns the goals that a step covers. Default: the names of the transitions it takes. */
  goals?(step: Step<M, F>): readonly string[];
}

/**
 * Returns a few paths that together take every transition of the graph. Each path proceeds to the nearest transition
 * not taken yet, until there is none or the path becomes too long.
 *
 * @param graph states and transitions, from `explore`
 */
export function transitionCover<M extends AnyStateMachine, F>(
  graph: Graph<M, F>,
  { maxLength = 12, goals = ({ transitions }) => transitions }: CoverOptions<M, F> = {},
): Path<M, F>[] {
  const covered = new Set<string>();
  const isNew = (step: Step<M, F>) => goals(step).some((goal) => !covered.has(goal));
  const paths: Path<M, F>[] = [];
  for (;;) {
    const steps: Step<M, F>[] = [];
    for (let at = graph.initial; ; at = steps.at(-1)!.to) {
      const walk = nearest(at, isNew);
      if (!walk || (steps.length > 0 && steps.length + walk.length > maxLength)) break;
      steps.push(...walk);
      for (const step of walk) for (const goal of goals(step)) covered.add(goal);
    }
    if (steps.length === 0) return paths;
    paths.push(pathOf(steps));
  }
}

/** Options of {@link simplePaths}. */
export interface SimplePathOptions {
  /** Maximum number of steps in a path. */
  maxLength: number;
  /** True to follow steps that take no transition as well. Default false. */
  ignored?: boolean;
}

/**
 * Generates every path that visits no state twice, depth first, up to a length. There are many; consume only as many as
 * needed.
 *
 * @param graph states and transitions, from `explore`
 * @returns a generator of the paths
 */
export function* simplePaths<M extends AnyStateMachine, F>(
  graph: Graph<M, F>,
  { maxLength, ignored = false }: SimplePathOptions,
): Generator<Path<M, F>> {
  const visited = new Set([graph.initial]);
  const steps: Step<M, F>[] = [];
  function* extend(node: GraphNode<M, F>): Generator<Path<M, F>> {
    yield pathOf([...steps]);
    if (steps.length >= maxLength) return;
    for (const step of node.steps) {
      if (visited.has(step.to) || (!ignored && step.transitions.length === 0)) continue;
      visited.add(step.to);
      steps.push(step);
      yield* extend(step.to);
      steps.pop();
      visited.delete(step.to);
    }
  }
  yield* extend(graph.initial);
}
