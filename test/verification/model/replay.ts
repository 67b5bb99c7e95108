import { ACTIONS, type Action } from './actions.ts';
import type { Bounds } from './bounds.ts';
import type { Exploration, Violation } from './explore.ts';
import { StateSet } from './state-set.ts';
import { tellStory } from './story.ts';
import type { Weakness } from './weakness.ts';
import { createWorld, type World } from './world.ts';

/** Recorded path to a violation, as stored in a file. */
export interface Trace {
  format: 'holdfast-model-trace-1';
  bounds: Bounds;
  weakness: Weakness | null;
  property: Violation['property'];
  actions: readonly Action[];
}

/**
 * Returns the trace of an exploration's violation.
 *
 * @throws {Error} when there is none
 */
export function traceOf({ bounds, weakness, violation }: Exploration): Trace {
  if (!violation) throw new Error('Nothing was broken: there is no trace.');
  return { format: 'holdfast-model-trace-1', bounds, weakness, ...violation };
}

/**
 * Replays a trace. `broken` is true when it still violates the trace's property.
 *
 * @throws {Error} when a step is no longer possible, or the trace has another format
 */
export function replay(trace: Trace): { story: string; broken: boolean } {
  if (trace.format !== 'holdfast-model-trace-1') throw new Error('This is no trace of the model.');
  const world = createWorld(trace.bounds, trace.weakness);
  const story = tellStory(world, trace.actions);
  let state = world.initial();
  let last: string | null = null;
  for (const action of trace.actions) {
    const taken = world.take(state, action);
    state = taken.state;
    last = taken.broken;
  }
  if (trace.property === 'everyRequestEnds') return { story, broken: !reaches(world, state, (s) => world.isQuiet(s)) };
  if (trace.property === 'servesAgain') {
    return { story, broken: !reaches(world, state, (s) => world.isQuiet(s) && world.isServable(s)) };
  }
  return { story, broken: last === trace.property };
}

/** Returns whether `own` steps alone lead from `start` to a state that satisfies `isThere`. */
function reaches(world: World, start: Uint8Array, isThere: (s: Uint8Array) => boolean): boolean {
  const set = new StateSet(world.layout.stride);
  const from = new Uint8Array(start);
  set.add(new Uint32Array(from.slice().buffer));
  const words = new Uint32Array(from.buffer);
  const next = new Uint32Array(world.next.buffer);
  for (let at = 0; at < set.size; at += 1) {
    set.read(at, words);
    if (isThere(from)) return true;
    world.steps(from, (name) => {
      if (ACTIONS[name] === 'own') set.add(next);
    });
  }
  return false;
}
