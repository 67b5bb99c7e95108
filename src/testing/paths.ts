import type { AnyStateMachine } from 'xstate';
import type { Graph, GraphNode, Step } from './explore.ts';

/** A way through a machine, from its initial state. */
export interface Path<M extends AnyStateMachine = AnyStateMachine, F = unknown> {
  /** The names of its events, in order. */
  readonly name: string;
  readonly steps: readonly Step<M, F>[];
}

type Walk<M extends AnyStateMachine, F> = readonly Step<M, F>[];

const pathOf = <M extends AnyStateMachine, F>(steps: Walk<M, F>): Path<M, F> => ({
  name: steps.map(({ variant }) => variant.name).join(', '),
  steps,
});

/** The shortest walk from `start` whose last step is wanted; null when none is. */
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

/** The path of these events, by their variants' names. Throws when one of them cannot happen where it stands. */
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

/** For each state the shortest path that ends there, the nearest first. The initial state has the empty path. */
export function shortestPaths<M extends AnyStateMachine, F>(graph: Graph<M, F>): Path<M, F>[] {
  const walks = new Map<GraphNode<M, F>, Walk<M, F>>([[graph.initial, []]]);
  for (const [node, walk] of walks) {
    for (const step of node.steps) if (!walks.has(step.to)) walks.set(step.to, [...walk, step]);
  }
  return [...walks.values()].map(pathOf);
}

export interface CoverOptions<M extends AnyStateMachine, F> {
  /** A path that is as long as this begins anew. Default 12. */
  maxLength?: number;
  /** What must be covered by a step; default the names of the transitions it takes. */
  goals?(step: Step<M, F>): readonly string[];
}

/**
 * A few paths that together take every transition the graph knows: each goes on to the nearest transition that was not
 * taken yet, until there is none or it has become long.
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

export interface SimplePathOptions {
  /** Steps of the longest path. */
  maxLength: number;
  /** Follow steps that change nothing the model sees; default false. */
  ignored?: boolean;
}

/** Every path that visits no state twice, depth first, up to a length. There are many: take what is wanted of them. */
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
