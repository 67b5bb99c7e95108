import type { Clock } from '../../../src/system.ts';
import type { Agenda, Due } from './agenda.ts';

/**
 * One process of the simulation. Its code runs only in timers of its own clock and in deliveries, so a crash takes
 * effect between two steps, and none of its code runs afterwards.
 */
export interface Process {
  readonly name: string;
  readonly alive: boolean;
  readonly paused: boolean;
  readonly clock: Clock;
  /** Delivers an external event after `ms` milliseconds. */
  deliver(ms: number, label: string, act: () => void): void;
  crash(): void;
  /**
   * Holds back all timers and deliveries until it is resumed. Then deliveries run before the timers that are due, as
   * the process's own clock guarantees. `frozen`: its clock stops during the pause, as on a suspended machine.
   */
  pause(frozen: boolean): void;
  resume(): void;
  /** Registers a listener that is called once when the process crashes. */
  onCrash(listener: () => void): void;
}

const WALL_START = Date.UTC(2030, 0, 1);

/**
 * Creates a running process.
 *
 * @param epoch value of its monotonic clock at the start; differs between processes
 */
export function createProcess(agenda: Agenda, name: string, epoch: number): Process {
  const startedAt = agenda.now;
  let alive = true;
  let paused = false;
  let frozenAt: number | null = null;
  let stoodStill = 0;
  let withheld: { timer: boolean; act: () => void }[] = [];
  const timers = new Set<Due>();
  const listeners: (() => void)[] = [];

  const here = (timer: boolean, act: () => void) => {
    if (!alive) return;
    if (paused) withheld.push({ timer, act });
    else act();
  };
  const elapsed = () => (frozenAt ?? agenda.now) - startedAt - stoodStill;

  return {
    name,
    get alive() {
      return alive;
    },
    get paused() {
      return paused;
    },
    clock: {
      now: () => epoch + elapsed(),
      wall: () => WALL_START + agenda.now,
      after(ms, fn) {
        let over = false;
        const due = agenda.add(agenda.now + Math.max(0, ms), `${name} timer`, () => {
          timers.delete(due);
          here(true, () => {
            if (!over) fn();
          });
        });
        timers.add(due);
        return () => {
          over = true;
          due.cancelled = true;
          timers.delete(due);
        };
      },
    },
    deliver(ms, label, act) {
      if (alive) agenda.add(agenda.now + ms, `${name} ${label}`, () => here(false, act));
    },
    crash() {
      if (!alive) return;
      alive = false;
      withheld = [];
      for (const due of timers) due.cancelled = true;
      timers.clear();
      for (const listener of listeners.splice(0)) listener();
    },
    pause(frozen) {
      if (paused || !alive) return;
      paused = true;
      if (frozen) frozenAt = agenda.now;
    },
    resume() {
      if (!paused || !alive) return;
      paused = false;
      if (frozenAt !== null) {
        const still = agenda.now - frozenAt;
        stoodStill += still;
        frozenAt = null;
        for (const due of timers) agenda.postpone(due, still);
      }
      const late = [...withheld.filter(({ timer }) => !timer), ...withheld.filter(({ timer }) => timer)];
      withheld = [];
      for (const [index, { timer, act }] of late.entries()) {
        // Separate them by less than any latency to keep this order.
        agenda.add(agenda.now + index * 1e-6, `${name} late`, () => here(timer, act));
      }
    },
    onCrash: (listener) => void listeners.push(listener),
  };
}
