import type { Clock } from '../clock.ts';
import type { Deadline, Program } from './program.ts';

/** The deadlines of an actor's current states. */
export interface Timers {
  /** Arms the deadlines of states that were entered and disarms those of states that were left. */
  update(active: Iterable<string>, context: unknown): void;
  /** Restarts a running deadline; no effect if no active state declares it. */
  touch(name: string): void;
  /** Returns whether an active state declares a deadline with this event type. */
  isOwn(eventType: string): boolean;
  clear(): void;
}

interface Armed {
  deadline: Deadline;
  current: boolean;
  cancel: () => void;
}

export interface TimersOptions {
  program: Program;
  clock: Clock;
  /** Returns a deadline's duration in milliseconds; `Infinity` never fires. */
  durations(name: string): number;
  /**
   * Called when a deadline expires.
   *
   * @param current returns whether the deadline still applies: its state may be left before the event is delivered
   */
  fire(eventType: string, current: () => boolean): void;
}

/** Longest delay of one timer, in milliseconds; longer waits are split. */
const LONGEST = 2_000_000_000;

/** Creates the timers of one actor. */
export function createTimers({ program, clock, durations, fire }: TimersOptions): Timers {
  const armed = new Map<string, Armed[]>();
  let context: unknown;

  const arm = (deadline: Deadline): Armed => {
    const at = deadline.at?.(context as never);
    const ms = deadline.at ? (at == null ? Number.POSITIVE_INFINITY : at - clock.wall()) : durations(deadline.name);
    const entry: Armed = { deadline, current: true, cancel: () => {} };
    const wait = (left: number) => {
      if (left === Number.POSITIVE_INFINITY) return;
      const step = Math.min(left, LONGEST);
      entry.cancel = clock.after(Math.max(0, step), () =>
        left > step ? wait(left - step) : fire(deadline.event, () => entry.current),
      );
    };
    wait(ms);
    return entry;
  };
  const retire = (entry: Armed) => {
    entry.current = false;
    entry.cancel();
  };
  const disarm = (id: string) => {
    for (const entry of armed.get(id) ?? []) retire(entry);
    armed.delete(id);
  };

  return {
    update(active, now) {
      context = now;
      const present = new Set<string>();
      for (const id of active) if (program.deadlines.has(id)) present.add(id);
      for (const id of [...armed.keys()]) if (!present.has(id)) disarm(id);
      for (const id of present) if (!armed.has(id)) armed.set(id, program.deadlines.get(id)!.map(arm));
    },
    touch(name) {
      for (const entries of armed.values()) {
        for (let i = 0; i < entries.length; i += 1) {
          const entry = entries[i]!;
          if (entry.deadline.name !== name) continue;
          retire(entry);
          entries[i] = arm(entry.deadline);
        }
      }
    },
    isOwn(eventType) {
      for (const entries of armed.values())
        if (entries.some(({ deadline }) => deadline.event === eventType)) return true;
      return false;
    },
    clear() {
      for (const id of [...armed.keys()]) disarm(id);
    },
  };
}
