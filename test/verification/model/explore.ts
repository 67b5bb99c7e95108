import { ACTIONS, type Action, type ActionName } from './actions.ts';
import type { Bounds } from './bounds.ts';
import { createProgress } from './progress.ts';
import type { Broken } from './rows.ts';
import { StateSet } from './state-set.ts';
import type { Weakness } from './weakness.ts';
import { createWorld, type World } from './world.ts';

/** A violated property with a shortest sequence of actions that violates it. */
export interface Violation {
  /** A safety property, or a progress property: some request never ends, or the session never serves again. */
  property: Broken | 'everyRequestEnds' | 'servesAgain';
  actions: readonly Action[];
}

export interface Exploration {
  bounds: Bounds;
  weakness: Weakness | null;
  states: number;
  transitions: number;
  /** Length of the longest of the shortest paths to the states. */
  depth: number;
  /** True when every state within the bounds was visited. False also when the exploration ended at a violation. */
  exhausted: boolean;
  /** Number of steps not taken because they lead beyond the bounds. */
  beyond: number;
  violation: Violation | null;
  milliseconds: number;
  bytes: number;
  locals: number;
  decisions: number;
}

export interface ExploreOptions {
  bounds: Bounds;
  weakness?: Weakness | null;
  /** True to check progress as well. Needs four bytes for every step on which progress may rely. Default true. */
  progress?: boolean;
  /** Maximum number of states; beyond it the exploration is partial. */
  mostStates?: number;
  onLevel?(depth: number, states: number): void;
}

/** Explores a world breadth first, so that the first safety violation found has a shortest path. */
export function explore(options: ExploreOptions): Exploration {
  const { bounds, weakness = null, progress = true, mostStates = Number.POSITIVE_INFINITY } = options;
  const startedAt = performance.now();
  const world = createWorld(bounds, weakness);
  const set = new StateSet(world.layout.stride);
  const parents = new Parents();
  const from = new Uint8Array(world.layout.stride);
  const fromWords = new Uint32Array(from.buffer);
  const nextWords = new Uint32Array(world.next.buffer);
  const edges = progress ? createProgress() : null;
  let transitions = 0;
  let depth = 0;
  let levelEnd = 1;
  let violation: Violation | null = null;
  let at = 0;

  const first = world.initial();
  set.add(new Uint32Array(first.buffer));
  parents.push(0);

  const visit = (name: ActionName, a: number, b: number) => {
    if (violation) return;
    transitions += 1;
    if (world.broken !== null) {
      violation = { property: world.broken, actions: [...wayTo(world, set, parents, at), { name, a, b }] };
      return;
    }
    const number = set.add(nextWords);
    const index = number < 0 ? -number - 1 : number;
    if (number >= 0) parents.push(at);
    if (ACTIONS[name] === 'own') edges?.edge(index);
  };
  for (at = 0; at < set.size && !violation && set.size <= mostStates; at += 1) {
    if (at === levelEnd) {
      depth += 1;
      levelEnd = set.size;
      options.onLevel?.(depth, set.size);
    }
    set.read(at, fromWords);
    edges?.state(world.isQuiet(from), world.isServable(from), world.hasMore(from));
    world.steps(from, visit);
  }
  const exhausted = at === set.size && !violation;
  if (exhausted && edges) {
    const stuck = edges.firstStuck();
    if (stuck) violation = { property: stuck.property, actions: wayTo(world, set, parents, stuck.state) };
  }
  return {
    bounds,
    weakness,
    states: set.size,
    transitions,
    depth: violation ? (violation as Violation).actions.length : depth,
    exhausted,
    beyond: world.beyond,
    violation,
    milliseconds: performance.now() - startedAt,
    bytes: set.bytes,
    locals: world.machine.locals.length,
    decisions: world.resolver.met,
  };
}

/** For each state, the number of the state from which it was first reached. */
class Parents {
  #list = new Uint32Array(1 << 16);
  #size = 0;
  push(parent: number): void {
    if (this.#size === this.#list.length) {
      const longer = new Uint32Array(this.#size * 2);
      longer.set(this.#list);
      this.#list = longer;
    }
    this.#list[this.#size++] = parent;
  }
  of(state: number): number {
    return this.#list[state]!;
  }
}

/**
 * Reconstructs the actions on the path to a state. Only parent states are stored, so each step is found again by trying
 * all steps.
 */
function wayTo(world: World, set: StateSet, parents: Parents, state: number): Action[] {
  const line = [state];
  while (line[0] !== 0) line.unshift(parents.of(line[0]!));
  // Use a second world, because the first one still holds the state of the violation.
  const guide = createWorld(world.layout.bounds, world.weakness);
  const next = new Uint32Array(guide.next.buffer);
  const actions: Action[] = [];
  const from = new Uint32Array(world.layout.stride / 4);
  const wanted = new Uint32Array(world.layout.stride / 4);
  for (let k = 1; k < line.length; k += 1) {
    set.read(line[k - 1]!, from);
    set.read(line[k]!, wanted);
    let found: Action | null = null;
    guide.steps(new Uint8Array(from.buffer), (name, a, b) => {
      if (found === null && next.every((word, index) => word === wanted[index])) found = { name, a, b };
    });
    if (found === null) throw new Error('A step cannot be found again: the world is not deterministic.');
    actions.push(found);
  }
  return actions;
}
