import type { ActorLike } from './identity.ts';

/** Set of running actors, with almost no cost while no viewer is connected. */
export interface Running {
  add(ref: ActorLike): void;
  /** Returns the running actors, without ended ones. */
  all(): Iterable<ActorLike>;
  /** Number of actors held, including ended ones. */
  readonly size: number;
}

/** Below this number of actors no sweep is made. */
const FEW = 256;

/**
 * Creates the set of running actors. Ended actors are removed when it is read, or when it holds more than `FEW` plus
 * twice the number that was running at the last sweep.
 */
export function createRunning(): Running {
  const refs = new Set<ActorLike>();
  let left = 0;
  const sweep = () => {
    for (const ref of refs) {
      const snapshot = ref.getSnapshot() as { status: string } | undefined;
      if (snapshot && snapshot.status !== 'active') refs.delete(ref);
    }
    left = refs.size;
  };
  return {
    add(ref) {
      // Sweep before adding: the new actor has no snapshot yet, and XState throws when the snapshot is read.
      if (refs.size > FEW + 2 * left) sweep();
      refs.add(ref);
    },
    all() {
      sweep();
      return refs;
    },
    get size() {
      return refs.size;
    },
  };
}
