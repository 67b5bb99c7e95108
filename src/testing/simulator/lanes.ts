/** Starts a turn; it must call `free` once, when its lane may go on. */
type Start = (free: () => void) => void;

/** The order of one connection's turns: first in, first out within a lane, a bounded number at once over all. */
export interface Lanes {
  /** False when the lane would be one named lane too many. */
  admits(lane: string | null): boolean;
  /** Turns that must end before a new one of this lane starts; 0 means it starts at once. */
  waitingIn(lane: string | null): number;
  push(lane: string | null, start: Start): void;
}

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
