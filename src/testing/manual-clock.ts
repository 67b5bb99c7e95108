import type { Clock } from '../system.ts';

/** Clock that moves only when a test advances it. */
export interface ManualClock extends Clock {
  /**
   * Advances the time by `ms` milliseconds and fires the callbacks that become due, in order, including those that they
   * schedule themselves.
   */
  advance(ms: number): void;
  /** Advances to the next scheduled callback and fires it. Returns false when none is scheduled. */
  next(): boolean;
  /** Number of scheduled callbacks. */
  readonly armed: number;
}

interface Due {
  at: number;
  order: number;
  fire(): void;
}

/**
 * Creates a clock at monotonic time 0.
 *
 * @param start wall-clock time at monotonic 0, in milliseconds
 * @returns a clock that only `advance` moves
 */
export function createManualClock(start = Date.UTC(2030, 0, 1)): ManualClock {
  let now = 0;
  let order = 0;
  let due: Due[] = [];
  const earliest = () =>
    due.reduce<Due | null>(
      (best, each) => (!best || each.at < best.at || (each.at === best.at && each.order < best.order) ? each : best),
      null,
    );
  const fire = (entry: Due) => {
    due = due.filter((each) => each !== entry);
    now = Math.max(now, entry.at);
    entry.fire();
  };
  return {
    now: () => now,
    wall: () => start + now,
    after(ms, callback) {
      const entry: Due = { at: now + Math.max(0, ms), order: order++, fire: callback };
      due.push(entry);
      return () => {
        due = due.filter((each) => each !== entry);
      };
    },
    advance(ms) {
      const until = now + ms;
      for (let entry = earliest(); entry && entry.at <= until; entry = earliest()) fire(entry);
      now = until;
    },
    next() {
      const entry = earliest();
      if (entry) fire(entry);
      return entry !== null;
    },
    get armed() {
      return due.length;
    },
  };
}
