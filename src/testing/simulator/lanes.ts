/** Starts a turn. It must call `free` once, when its lane may continue. */
type Start = (free: () => void) => void;

/**
 * Order of one connection's turns: first in, first out within a lane, and a limited number of simultaneous turns over
 * all lanes.
 */
export interface Lanes {
  /** Returns false when the lane would exceed the number of named lanes. */
  admits(lane: string | null): boolean;
  /**
   * Returns the number of turns that must end before a new one of this lane starts; 0 means that it starts immediately.
   */
  waitingIn(lane: string | null): number;
  push(lane: string | null, start: Start): void;
}

/**
 * Creates the lanes of one connection.
 *
 * @param limits maximum number of named lanes, and of simultaneous turns
 */
export function createLanes(limits = { named: 32, inFlight: 16 }): Lanes {
  const queues = new Map<string | null, { busy: boolean; waiting: Start[] }>();
  let inFlight = 0;

  function startNext(): void {
    for (const queue of queues.values()) {
      if (inFlight >= limits.inFlight) return;
      if (queue.busy || queue.waiting.length === 0) continue;
      const start = queue.waiting.shift()!;
      queue.busy = true;
      inFlight += 1;
      let freed = false;
      start(() => {
        if (freed) return;
        freed = true;
        queue.busy = false;
        inFlight -= 1;
        startNext();
      });
    }
  }

  return {
    admits: (lane) => lane === null || queues.has(lane) || [...queues.keys()].filter(Boolean).length < limits.named,
    waitingIn(lane) {
      const queue = queues.get(lane);
      const ahead = queue ? queue.waiting.length + Number(queue.busy) : 0;
      return ahead > 0 ? ahead : Number(inFlight >= limits.inFlight);
    },
    push(lane, start) {
      const queue = queues.get(lane) ?? { busy: false, waiting: [] };
      queues.set(lane, queue);
      queue.waiting.push(start);
      startNext();
    },
  };
}
