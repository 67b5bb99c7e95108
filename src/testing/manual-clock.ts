import type { Clock } from '../clock.ts';

/** A clock that stands still until it is told to move. */
export interface ManualClock extends Clock {
  /** Moves time on, firing what falls due on the way, in order; what those callbacks arm fires too if it is due. */
  advance(ms: number): void;
  /** Moves to the next armed callback and fires it; false when none is armed. */
  next(): boolean;
  /** Callbacks that are armed. */
  readonly armed: number;
}

interface Due {
  at: number;
  order: number;
  fire(): void;
}

/** @param start wall milliseconds at monotonic 0 */
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
