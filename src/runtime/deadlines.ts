import type { Clock } from '../system.ts';
import type { Deadline, Place } from './program.ts';

/** A deadline of an active state. */
export interface Armed {
  readonly deadline: Deadline;
  /** False once the state that declared it was left, or it was restarted. */
  current: boolean;
  /** Monotonic milliseconds at which it expires, if it was restarted: its timer then waits for the rest. */
  due: number;
  restarted: boolean;
  /** True until its timer has expired. */
  waiting: boolean;
  cancel: () => void;
}

/** Longest delay of one timer, in milliseconds; longer waits are split. */
const LONGEST = 2_000_000_000;

const nothing = () => {};

/** The deadlines of an actor's current states. */
export class Deadlines {
  readonly #clock: Clock;
  readonly #durations: (name: string) => number;
  readonly #fire: (expired: Armed) => void;
  #place: Place | null = null;
  #context: unknown;
  #armed: Armed[] = [];

  /**
   * @param durations returns a deadline's duration in milliseconds; `Infinity` never fires
   * @param fire called when a deadline expires. Its state may be left before its event is delivered.
   */
  constructor(clock: Clock, durations: (name: string) => number, fire: (expired: Armed) => void) {
    this.#clock = clock;
    this.#durations = durations;
    this.#fire = fire;
  }

  /** Arms the deadlines of states that were entered and disarms those of states that were left. */
  update(place: Place, context: unknown): void {
    this.#context = context;
    if (place === this.#place) return;
    this.#place = place;
    const { deadlines } = place;
    const before = this.#armed;
    if (before.length === 0 && deadlines.length === 0) return;
    for (const armed of before) if (!deadlines.includes(armed.deadline)) retire(armed);
    const kept = before.filter(({ current }) => current);
    this.#armed = kept;
    for (const deadline of deadlines) {
      if (!kept.some((armed) => armed.deadline === deadline)) kept.push(this.#arm(deadline));
    }
  }

  /** Restarts a running deadline; no effect if no active state declares it. */
  touch(name: string): void {
    for (let i = 0; i < this.#armed.length; i += 1) {
      const armed = this.#armed[i]!;
      const { deadline } = armed;
      if (deadline.name !== name) continue;
      const due = this.#clock.now() + this.#lengthOf(deadline);
      // Called for every frame of a stream: a timer that would expire too early is left to find the new time itself.
      if (armed.waiting && armed.due <= due && due < Number.POSITIVE_INFINITY) {
        armed.due = due;
        armed.restarted = true;
        continue;
      }
      retire(armed);
      this.#armed[i] = this.#arm(deadline);
    }
  }

  /** Returns whether an active state declares a deadline with this event type. */
  isOwn(eventType: string): boolean {
    return this.#armed.some(({ deadline }) => deadline.event === eventType);
  }

  clear(): void {
    for (const armed of this.#armed) retire(armed);
    this.#armed = [];
  }

  #lengthOf(deadline: Deadline): number {
    if (!deadline.at) return this.#durations(deadline.name);
    const at = deadline.at(this.#context as never);
    return at == null ? Number.POSITIVE_INFINITY : at - this.#clock.wall();
  }

  #arm(deadline: Deadline): Armed {
    const ms = this.#lengthOf(deadline);
    const due = this.#clock.now() + ms;
    const armed: Armed = { deadline, current: true, due, restarted: false, waiting: true, cancel: nothing };
    this.#wait(armed, ms);
    return armed;
  }

  #wait(armed: Armed, left: number): void {
    if (left === Number.POSITIVE_INFINITY) return;
    const step = Math.min(left, LONGEST);
    armed.cancel = this.#clock.after(Math.max(0, step), () => {
      const rest = armed.restarted ? armed.due - this.#clock.now() : left - step;
      if (rest > 0) return this.#wait(armed, rest);
      armed.waiting = false;
      this.#fire(armed);
    });
  }
}

function retire(armed: Armed): void {
  armed.current = false;
  armed.cancel();
}
