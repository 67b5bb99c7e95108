import { guarded } from './faults.ts';

/**
 * Time as a dependency. Deadlines run on the monotonic reading; wall time appears only in what people read
 * (logs, tokens). Ownership never uses either: there the database's `now()` is the only clock.
 */
export interface Clock {
  /** Monotonic milliseconds; only differences mean anything. */
  now(): number;
  /** Wall clock, milliseconds since the epoch. */
  wall(): number;
  /** Calls `fn` once after `ms` milliseconds. The returned function cancels it and may be called at any time. */
  after(ms: number, fn: () => void): () => void;
}

/** Node fires a longer timer at once, milliseconds. */
export const LONGEST_TIMER = 2_147_483_647;

/**
 * The process's own clock. Its timers do not keep the process alive, and what they run does not end it. A timer fires only after what had already arrived
 * was read: a process that was starved or stopped must not take its own absence for somebody else's silence.
 */
export const systemClock: Clock = {
  now: () => performance.now(),
  wall: () => Date.now(),
  after(ms, fn) {
    // What keeps the way to cancel a timer that is over must not keep what it would have done.
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
