import {
  type Actor,
  type AnyActorLogic,
  type AnyStateMachine,
  type ContextFrom,
  createActor,
  type EventFrom,
  type InputFrom,
  initialTransition,
  type SnapshotFrom,
  type StateValue,
  transition,
  type ActorOptions as XStateOptions,
} from 'xstate';
import type { Clock } from '../system.ts';
import type { Deadline, Effect, Program } from './program.ts';

/** An observer of XState's inspection events. */
export type Inspect = NonNullable<XStateOptions<AnyActorLogic>['inspect']>;

/** Result of one attempt at a commit: a verdict, as an event of the machine, or no answer. */
export type CommitAnswer<E> = { event: E } | { unknown: string };

export interface ActorOptions<M extends AnyStateMachine> {
  id: string;
  /** Input of a new actor; ignored when `snapshot` is given. */
  input?: InputFrom<M>;
  /** A snapshot made by `rehydrate`. No entry action of its state runs. */
  snapshot?: SnapshotFrom<M>;
  /** Performs one effect. Synchronous; events that it sends are queued behind those that already wait. */
  perform(effect: Effect): void;
  /**
   * Handles an exception of an effect. The returned event is delivered before everything that waits, after the
   * remaining effects of the same step have been performed. Called once for each exception.
   */
  effectFailed?(effect: Effect, error: unknown): EventFrom<M>;
  /**
   * Makes one attempt at a commit. Attempts are repeated, unchanged, until one is answered.
   *
   * @param attempt number of earlier attempts
   */
  commit?(effect: Effect, attempt: number): Promise<CommitAnswer<EventFrom<M>>>;
  /**
   * Handles an attempt at a commit that threw or rejected. That is final: the returned event is the verdict. Without
   * this handler the actor stops.
   */
  commitFailed?(effect: Effect, error: unknown): EventFrom<M>;
  clock: Clock;
  /** Returns the duration of a declared deadline, in milliseconds. */
  durations(name: string): number;
  /** Receives XState's own inspection events. Its first exception is reported; exceptions have no other effect. */
  inspect?: Inspect | undefined;
  /** Called after each step, before its effects are performed. Exceptions are reported and have no other effect. */
  onStep?(snapshot: SnapshotFrom<M>, event: EventFrom<M> | null, effects: readonly Effect[]): void;
  /** Called once when the actor has stopped: by a final state, `stop`, or an error of the machine itself. */
  onStopped?(): void;
  /**
   * Receives errors that no other handler covers: of the machine itself, of observers, and of effects without
   * `effectFailed`.
   */
  onError?(error: unknown): void;
}

/** A running durable actor. */
export interface DurableActor<M extends AnyStateMachine> {
  readonly id: string;
  /** The underlying XState actor, for `subscribe`, `waitFor` and inspection. */
  readonly xstate: Actor<M>;
  readonly context: ContextFrom<M>;
  /** Dotted path, e.g. `live.idle`; parallel regions are left out below their parent. */
  readonly state: string;
  readonly stopped: boolean;
  snapshot(): SnapshotFrom<M>;
  /** Queues an event. It is delivered immediately unless a step or a commit is in progress. */
  send(event: EventFrom<M>): void;
  /** Restarts a running deadline. */
  touch(name: string): void;
  /**
   * Stops the actor: nothing is delivered, performed or repeated afterwards.
   *
   * @returns the events that were still waiting
   */
  stop(): EventFrom<M>[];
  /** Resolves when no event waits and no commit is unanswered, or when the actor has stopped. */
  idle(): Promise<void>;
}

/** The part of a snapshot that all machines have in common. */
interface Looked {
  _nodes: { id: string }[];
  status: string;
  value: StateValue;
  context: unknown;
}

interface Letter<E> {
  event: E;
  /** Returns false once the state that declared the deadline has been left or the deadline was restarted. */
  current?: () => boolean;
}

const FIRST_REPEAT = 100;
const SLOWEST_REPEAT = 1_000;

/** Returns the dotted path of a state value. It ends at a parallel state, below which there is no single path. */
export function pathOf(value: unknown): string {
  if (typeof value === 'string') return value;
  const entries = Object.entries(value as Record<string, unknown>);
  if (entries.length !== 1) return '';
  const [name, rest] = entries[0]!;
  const below = pathOf(rest);
  return below === '' ? name : `${name}.${below}`;
}

/** Runs `step` and returns the effects that the machine yielded. Steps are synchronous. */
export function recordEffects<M extends AnyStateMachine>(program: Program<M>, step: () => void): Effect[] {
  const outer = program.effects;
  const mine: Effect[] = [];
  program.effects = mine;
  try {
    step();
  } finally {
    program.effects = outer;
  }
  return mine;
}

/** Wraps an observer so that its exceptions do not reach XState, which calls observers in the middle of a step. */
export function safeInspect(inspect: Inspect | undefined, onError: (error: unknown) => void): Inspect | undefined {
  if (!inspect) return undefined;
  let reported = false;
  return (event) => {
    try {
      if (typeof inspect === 'function') inspect(event);
      else inspect.next?.(event);
    } catch (error) {
      if (reported) return;
      reported = true;
      onError(error);
    }
  };
}

/**
 * Starts an actor whose effects are data.
 *
 * One step at a time: an event is passed to the machine, the effects that it yields are collected, and they are
 * performed after the step. A commit closes the mailbox until it is answered: only its verdict and the deadlines that
 * the waiting states declare themselves are delivered, ahead of everything else. Events are never merged, dropped or
 * rolled back.
 *
 * An exception never leaves the actor between two states: a failed effect and a failed commit become events of the
 * machine, and a machine that fails itself stops its actor.
 */
export function startActor<M extends AnyStateMachine>(program: Program<M>, options: ActorOptions<M>): DurableActor<M> {
  const { clock } = options;
  const letters: Letter<EventFrom<M>>[] = [];
  const urgent: Letter<EventFrom<M>>[] = [];
  const effects: Effect[] = [];
  /** Events for the effects of the current step that threw. */
  const failures: Letter<EventFrom<M>>[] = [];
  let pending: symbol | null = null;
  let cancelRepeat: (() => void) | null = null;
  let running = false;
  let stopped = false;
  let waiters: (() => void)[] = [];

  const complain = (error: unknown) => {
    try {
      options.onError?.(error);
    } catch {
      // There is no other way to report it.
    }
  };
  const xstate = createActor(program.machine, {
    id: options.id,
    inspect: safeInspect(options.inspect, complain),
    ...(options.snapshot ? { snapshot: options.snapshot } : { input: options.input }),
  } as never) as Actor<M>;

  const timers = createTimers(program, clock, options.durations, (type, current) => {
    const letter = { event: { type } as EventFrom<M>, current };
    if (pending && timers.isOwn(type)) urgent.push(letter);
    else letters.push(letter);
    run();
  });
  // Without an error observer XState throws errors where they cannot be caught.
  xstate.subscribe({ error: complain });
  const look = () => xstate.getSnapshot() as unknown as Looked;

  function step(event: EventFrom<M> | null, act: () => void): void {
    const yielded = recordEffects(program, act);
    const snapshot = look();
    timers.update(
      snapshot._nodes.map(({ id }) => id),
      snapshot.context,
    );
    effects.push(...yielded);
    try {
      options.onStep?.(xstate.getSnapshot() as SnapshotFrom<M>, event, yielded);
    } catch (error) {
      complain(error);
    }
  }

  /** Returns the event that a failure handler creates for an error; null if there is no handler, or if it throws. */
  function eventOf(
    make: ((effect: Effect, error: unknown) => EventFrom<M>) | undefined,
    effect: Effect,
    error: unknown,
  ): EventFrom<M> | null {
    if (!make) complain(error);
    try {
      return make?.(effect, error) ?? null;
    } catch (second) {
      complain(second);
      return null;
    }
  }

  function begin(effect: Effect): void {
    if (pending) throw new Error(`${options.id}: ${effect.type} was yielded while a commit is unanswered`);
    const mine = Symbol(effect.type);
    pending = mine;
    const verdict = (event: EventFrom<M>) => {
      pending = null;
      urgent.unshift({ event });
      run();
    };
    const failed = (error: unknown) => {
      if (pending !== mine) return;
      const event = eventOf(options.commitFailed, effect, error);
      // A commit without a verdict would close the mailbox for the rest of the actor's life.
      if (event === null) stop();
      else verdict(event);
    };
    const attempt = (count: number) => {
      const repeat = () => {
        cancelRepeat = clock.after(Math.min(SLOWEST_REPEAT, FIRST_REPEAT * 2 ** count), () => attempt(count + 1));
      };
      const answered = (answer: CommitAnswer<EventFrom<M>>) => {
        if (pending !== mine) return;
        if ('event' in answer) verdict(answer.event);
        else repeat();
      };
      let asked: Promise<CommitAnswer<EventFrom<M>>>;
      try {
        asked = options.commit!(effect, count);
      } catch (error) {
        asked = Promise.reject(error);
      }
      asked.then(answered, failed);
    };
    attempt(0);
  }

  function run(): void {
    if (running || stopped) return;
    running = true;
    try {
      for (;;) {
        while (effects.length > 0 && !stopped) {
          const effect = effects.shift()!;
          try {
            if (program.commits.has(effect.type)) begin(effect);
            else options.perform(effect);
          } catch (error) {
            const event = eventOf(options.effectFailed, effect, error);
            if (event !== null) failures.push({ event });
          }
        }
        letters.unshift(...failures.splice(0));
        if (stopped) return;
        if (look().status !== 'active') return void stop();
        const letter = urgent.shift() ?? (pending ? undefined : letters.shift());
        if (!letter) break;
        if (letter.current && !letter.current()) continue;
        step(letter.event, () => xstate.send(letter.event));
      }
    } catch (error) {
      // The step itself failed: there is no consistent state from which to continue.
      complain(error);
      return void stop();
    } finally {
      running = false;
    }
    if (!pending) release();
  }

  function release(): void {
    const done = waiters;
    waiters = [];
    for (const resolve of done) resolve();
  }

  function stop(): EventFrom<M>[] {
    if (stopped) return [];
    stopped = true;
    pending = null;
    cancelRepeat?.();
    timers.clear();
    xstate.stop();
    const left = [...urgent, ...letters].filter(({ current }) => !current).map(({ event }) => event);
    urgent.length = letters.length = effects.length = 0;
    release();
    try {
      options.onStopped?.();
    } catch (error) {
      complain(error);
    }
    return left;
  }

  step(null, () => xstate.start());
  /** The path of the state value looked at last. */
  let path: { value: StateValue; text: string } | null = null;
  const actor: DurableActor<M> = {
    id: options.id,
    xstate,
    get context() {
      return look().context as ContextFrom<M>;
    },
    get state() {
      const { value } = look();
      if (path?.value !== value) path = { value, text: pathOf(value) };
      return path.text;
    },
    get stopped() {
      return stopped;
    },
    snapshot: () => xstate.getSnapshot() as SnapshotFrom<M>,
    send(event) {
      if (stopped) return;
      letters.push({ event });
      run();
    },
    touch: timers.touch,
    stop,
    idle: () =>
      stopped || (!pending && !running && letters.length === 0)
        ? Promise.resolve()
        : new Promise((resolve) => waiters.push(resolve)),
  };
  queueMicrotask(run);
  return actor;
}

/** The deadlines of an actor's current states. */
interface Timers {
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
  /** Monotonic milliseconds at which it expires, if it was restarted: its timer then waits for the rest. */
  due: number;
  restarted: boolean;
  /** True until its timer has expired. */
  waiting: boolean;
  cancel: () => void;
}

/** Longest delay of one timer, in milliseconds; longer waits are split. */
const LONGEST = 2_000_000_000;

/**
 * Creates the timers of one actor.
 *
 * @param durations returns a deadline's duration in milliseconds; `Infinity` never fires
 * @param fire called when a deadline expires, with a function that returns whether the deadline still applies: its state may
 *   be left before the event is delivered
 */
function createTimers(
  program: Program,
  clock: Clock,
  durations: (name: string) => number,
  fire: (eventType: string, current: () => boolean) => void,
): Timers {
  const armed = new Map<string, Armed[]>();
  let context: unknown;

  const lengthOf = (deadline: Deadline): number => {
    if (!deadline.at) return durations(deadline.name);
    const at = deadline.at(context as never);
    return at == null ? Number.POSITIVE_INFINITY : at - clock.wall();
  };
  const arm = (deadline: Deadline): Armed => {
    const ms = lengthOf(deadline);
    const due = clock.now() + ms;
    const entry: Armed = { deadline, current: true, due, restarted: false, waiting: true, cancel: () => {} };
    const wait = (left: number) => {
      if (left === Number.POSITIVE_INFINITY) return;
      const step = Math.min(left, LONGEST);
      entry.cancel = clock.after(Math.max(0, step), () => {
        const rest = entry.restarted ? entry.due - clock.now() : left - step;
        if (rest > 0) return wait(rest);
        entry.waiting = false;
        fire(deadline.event, () => entry.current);
      });
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
          const { deadline } = entry;
          if (deadline.name !== name) continue;
          const due = clock.now() + lengthOf(deadline);
          // Called for every frame of a stream: a timer that would expire too early is left to find the new time itself.
          if (entry.waiting && entry.due <= due && due < Number.POSITIVE_INFINITY) {
            entry.due = due;
            entry.restarted = true;
            continue;
          }
          retire(entry);
          entries[i] = arm(deadline);
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

/** The persisted part of an actor: its state and its context. Small, and without XState's own bookkeeping. */
export interface Persisted {
  value: StateValue;
  context: unknown;
}

/** Returns the actor's state in the form in which it is stored in its row. */
export function persist<M extends AnyStateMachine>(actor: DurableActor<M>): Persisted {
  const { value, context } = actor.snapshot() as unknown as Persisted;
  return { value, context };
}

export interface RehydrateOptions<M extends AnyStateMachine> {
  persisted: unknown;
  /** Version the snapshot was written with. */
  machineVersion: number;
  input: InputFrom<M>;
  /** The takeover event, applied before any actor exists. */
  takeover: EventFrom<M>;
  /** Returns whether a context read from a row has the right shape. */
  validContext?(context: unknown): boolean;
}

/**
 * Restores an actor's snapshot and applies the takeover event to it, as a pure function: no entry action, timer or
 * child of the old state runs. In any case of doubt (other version, unknown state, invalid context) the machine's
 * initial snapshot is used instead of the stored one: the columns of the row are authoritative.
 */
export function rehydrate<M extends AnyStateMachine>(
  program: Program<M>,
  options: RehydrateOptions<M>,
): { snapshot: SnapshotFrom<M>; recoveredFrom: 'snapshot' | 'columns' } {
  const restored = restore(program, options);
  const base = restored ?? initialTransition(program.machine, options.input as never)[0];
  let snapshot = base;
  recordEffects(program, () => {
    [snapshot] = transition(program.machine, base as never, options.takeover as never) as [typeof base, unknown];
  });
  return { snapshot: snapshot as SnapshotFrom<M>, recoveredFrom: restored ? 'snapshot' : 'columns' };
}

function restore<M extends AnyStateMachine>(program: Program<M>, options: RehydrateOptions<M>): SnapshotFrom<M> | null {
  const { persisted, machineVersion, validContext } = options;
  if (machineVersion !== program.version || typeof persisted !== 'object' || persisted === null) return null;
  const { value, context } = persisted as Partial<Persisted>;
  if (value === undefined || typeof context !== 'object' || context === null) return null;
  if (validContext && !validContext(context)) return null;
  try {
    const snapshot = program.machine.resolveState({ value, context: context as ContextFrom<M> } as never);
    return snapshot.status === 'active' ? (snapshot as SnapshotFrom<M>) : null;
  } catch {
    return null;
  }
}
