import { setImmediate as macrotask } from 'node:timers';

/** Scheduled event. */
export interface Due {
  /** Simulated time, in milliseconds. */
  at: number;
  /** Order among events of the same time; derived from the seed. */
  rank: number;
  label: string;
  fire(): void;
  cancelled: boolean;
}

/** Number of consecutive events without a passage of time that shows a loop. A run has about 1,250 events in all. */
const MOST_AT_ONCE = 100_000;

/** Queue of all scheduled events, in execution order. */
export interface Agenda {
  readonly now: number;
  /** Number of events executed so far. */
  readonly steps: number;
  add(at: number, label: string, fire: () => void): Due;
  /** Moves a pending event to a later time. */
  postpone(due: Due, ms: number): void;
  /**
   * Executes events one by one until `done` returns true, none is left, or the time is over. Between two events all
   * promises that can settle have settled. Each event is therefore atomic, and the order of events is the whole
   * schedule. Events that keep scheduling others at the same time are reported as an error and end the run.
   */
  run(until: number, done?: () => boolean): Promise<void>;
}

/**
 * Creates an empty agenda.
 *
 * @param rank source of the order among events of the same time
 * @param onStep called before each event
 * @param onError called with an error thrown by an event
 */
export function createAgenda(
  rank: () => number,
  onStep: (due: Due) => void,
  onError: (error: unknown, due: Due) => void,
): Agenda {
  let heap: Due[] = [];
  let now = 0;
  let steps = 0;
  const before = (a: Due, b: Due) => a.at < b.at || (a.at === b.at && a.rank < b.rank);

  function push(due: Due): void {
    let at = heap.length;
    heap.push(due);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(due, heap[parent]!)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = due;
  }

  function pop(): Due | undefined {
    const first = heap[0];
    const last = heap.pop();
    if (!first || !last || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child += 1;
      if (!before(heap[child]!, last)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
    return first;
  }

  /**
   * Resolves when no microtask is left, because immediates run only then. This suffices because nothing in a simulation
   * waits for real I/O.
   */
  const settled = () => new Promise<void>((go) => macrotask(go));

  return {
    get now() {
      return now;
    },
    get steps() {
      return steps;
    },
    add(at, label, fire) {
      const due: Due = { at: Math.max(at, now), rank: rank(), label, fire, cancelled: false };
      push(due);
      return due;
    },
    postpone(due, ms) {
      heap = heap.filter((each) => each !== due);
      const others = heap;
      heap = [];
      for (const each of others) push(each);
      due.at += ms;
      push(due);
    },
    async run(until, done = () => false) {
      let atOnce = 0;
      await settled();
      while (!done()) {
        const due = heap[0];
        if (!due || due.at > until) {
          now = Math.max(now, Math.min(until, due?.at ?? until));
          return;
        }
        pop();
        if (due.cancelled) continue;
        atOnce = due.at > now ? 0 : atOnce + 1;
        if (atOnce > MOST_AT_ONCE) return onError(new Error('Time does not pass any more'), due);
        now = Math.max(now, due.at);
        steps += 1;
        onStep(due);
        try {
          due.fire();
        } catch (error) {
          onError(error, due);
        }
        await settled();
      }
    },
  };
}
