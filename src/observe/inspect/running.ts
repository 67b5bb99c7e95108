import type { ActorLike } from './identity.ts';

/** The actors that run now, kept so that it costs next to nothing while nobody asks. */
export interface Running {
  add(ref: ActorLike): void;
  /** None that has ended. */
  all(): Iterable<ActorLike>;
  /** How many are held, ended ones among them. */
  readonly size: number;
}

/** Fewer than this are not worth looking through. */
const FEW = 256;

/** Ended actors are thrown out when it is read, or when as many were added as were running at the last look. */
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
      // The new one comes last: it has no snapshot yet, and XState throws when it is asked for one.
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
