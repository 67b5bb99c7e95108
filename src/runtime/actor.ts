import {
  type Actor,
  type AnyActorLogic,
  type AnyStateMachine,
  type ContextFrom,
  createActor,
  type EventFrom,
  type InputFrom,
  type SnapshotFrom,
  type StateValue,
  type ActorOptions as XStateOptions,
} from 'xstate';
import type { Clock } from '../clock.ts';
import type { Effect, Program } from './program.ts';
import { createTimers } from './timers.ts';

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

  const timers = createTimers({
    program,
    clock,
    durations: options.durations,
    fire(type, current) {
      const letter = { event: { type } as EventFrom<M>, current };
      if (pending && timers.isOwn(type)) urgent.push(letter);
      else letters.push(letter);
      run();
    },
  });
  // Without an error observer XState throws errors where they cannot be caught.
  xstate.subscribe({ error: complain });
  const look = () => xstate.getSnapshot() as unknown as Looked;

  function step(event: EventFrom<M> | null, act: () => void): void {
    const yielded = program.record(act);
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

  function next(): Letter<EventFrom<M>> | undefined {
    return urgent.shift() ?? (pending ? undefined : letters.shift());
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
        const letter = next();
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
  const actor: DurableActor<M> = {
    id: options.id,
    xstate,
    get context() {
      return look().context as ContextFrom<M>;
    },
    get state() {
      return pathOf(look().value);
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
    touch: (name) => timers.touch(name),
    stop,
    idle: () =>
      stopped || (!pending && !running && letters.length === 0)
        ? Promise.resolve()
        : new Promise((resolve) => waiters.push(resolve)),
  };
  queueMicrotask(run);
  return actor;
}
