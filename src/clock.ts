import { guarded } from './faults.ts';

/**
 * Time as a dependency. Deadlines use the monotonic reading; wall time appears only in output for people (logs, tokens).
 * Ownership uses neither: there the database's `now()` is the only clock.
 */
export interface Clock {
  /** Returns monotonic milliseconds; only differences are meaningful. */
  now(): number;
  /** Returns the wall clock in milliseconds since the epoch. */
  wall(): number;
  /**
   * Calls `fn` once after `ms` milliseconds.
   *
   * @returns a function that cancels the call; it may be called at any time
   */
  after(ms: number, fn: () => void): () => void;
}

/** Longest timer in milliseconds: Node fires a longer one at once. */
export const LONGEST_TIMER = 2_147_483_647;

/**
 * The process's own clock. Its timers do not keep the process alive, and an exception in `fn` does not end it. Pending I/O
 * is processed before a timer fires, so that a stalled process does not blame its peers.
 */
export const systemClock: Clock = {
  now: () => performance.now(),
  wall: () => Date.now(),
  after(ms, fn) {
    // A retained cancel function must not retain `fn` after the timer is over.
    let due: (() => void) | null = fn;
    const run = guarded('timer', () => {
      const now = due;
      due = null;
      now?.();
    });
    const timer = setTimeout(() => setImmediate(run).unref(), Math.min(ms, LONGEST_TIMER));
    timer.unref();
    return () => {
      due = null;
      clearTimeout(timer);
    };
  },
};
