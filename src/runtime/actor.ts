import {
  type Actor,
  type AnyActorScope,
  type AnyStateMachine,
  type AnyStateNode,
  type ContextFrom,
  createActor,
  type EventFrom,
  type InputFrom,
  type InspectionEvent,
  initialTransition,
  type SnapshotFrom,
  type StateValue,
  transition,
} from 'xstate';
import type { Clock } from '../system.ts';

/** A named action that the machine yielded, with its resolved parameters. */
export interface Effect {
  type: string;
  params: unknown;
}

/** A deadline that a state declares: `meta: { deadlines: [{ name, event }] }`. */
export interface Deadline {
  /** Name of the duration (or of the absolute time); API. */
  name: string;
  /** Type of the event that is sent to the machine when it expires. */
  event: string;
  /**
   * For deadlines that survive a restart: returns the time in wall-clock milliseconds from the context; null disables
   * it.
   */
  at?: (context: never) => number | null;
}

/** A set of active states, with what the runtime needs to know of it. There is one object for each set that occurs. */
export interface Place {
  readonly value: StateValue;
  /** Dotted path. It ends at a parallel state, below which there is no single path. */
  readonly path: string;
  /** Deadlines of the active states. Each object belongs to one state. */
  readonly deadlines: readonly Deadline[];
}

/** The parts of a snapshot that name its states. */
export interface Placed {
  value: StateValue;
  _nodes: readonly AnyStateNode[];
}

/**
 * A machine prepared for durable execution: linted, with recording actions and known deadlines. Created once per
 * machine.
 */
export interface Program<M extends AnyStateMachine = AnyStateMachine> {
  readonly machine: M;
  readonly version: number;
  readonly commits: ReadonlySet<string>;
  /** What the machine's transition function is called with. No actor or system exists for it. */
  readonly scope: AnyActorScope;
  placeOf(snapshot: Placed): Place;
  /** Receives the effects that the machine yields; null between steps. Set by `recordEffects`. */
  effects: Effect[] | null;
}

export interface ProgramOptions {
  /** Names of the effects that a store answers. */
  commits: readonly string[];
  /** Version of the persisted data; a snapshot of another version is not loaded. */
  version: number;
}

/** A machine that runs, as observers see it. */
export interface Observed {
  readonly id: string;
  readonly machine: AnyStateMachine;
  /** Returns its present state. */
  snapshot(): { status: string; value: StateValue; context: unknown };
}

/** One step of a machine: an event, and the state that it led to. */
export interface Step {
  readonly actor: Observed;
  /** `xstate.init` for the start of an actor, `xstate.stop` for an end that is not a final state. */
  readonly event: { type: string };
  /** The same object for the same state, unless the machine runs as an XState actor. */
  readonly value: StateValue;
  readonly context: unknown;
  /** `active` until the last step. */
  readonly status: string;
}

/** What watches machines. */
export interface Inspect {
  /** Sees every step, after it. */
  step(step: Step): void;
  /** Sees XState's own inspection events. Where it is given, each machine runs as an XState actor, which costs more. */
  xstate?: ((event: InspectionEvent) => void) | undefined;
}

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
  /** Sees the steps, before their effects are performed. Its first exception is reported; exceptions have no other effect. */
  inspect?: Inspect | undefined;
  /** Called once when the actor has stopped: by a final state, `stop`, or an error of the machine itself. */
  onStopped?(): void;
  /**
   * Receives errors that no other handler covers: of the machine itself, of observers, and of effects without
   * `effectFailed`.
   */
  onError?(error: unknown): void;
}

/** The parts of a snapshot that all machines have in common. */
interface Looked extends Placed {
  status: string;
  context: unknown;
}

interface Letter<E> {
  event: E;
  /** The deadline that sends it. It is not delivered once that is no longer current. */
  armed: Armed | null;
}

const FIRST_REPEAT = 100;
const SLOWEST_REPEAT = 1_000;

const INIT = { type: 'xstate.init' };
const STOP = { type: 'xstate.stop' };

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

/** Wraps an observer so that its exceptions do not reach what it observes. The first one is reported. */
export function safely<T>(observe: (seen: T) => void, onError: (error: unknown) => void): (seen: T) => void {
  let reported = false;
  return (seen) => {
    try {
      observe(seen);
    } catch (error) {
      if (reported) return;
      reported = true;
      onError(error);
    }
  };
}

/**
 * A running durable actor.
 *
 * One step at a time: an event is passed to the machine, the effects that it yields are collected, and they are
 * performed after the step. A commit closes the mailbox until it is answered: only its verdict and the deadlines that
 * the waiting states declare themselves are delivered, ahead of everything else. Events are never merged, dropped or
 * rolled back.
 *
 * A step is a call of the machine's own transition function, as an XState actor makes it. An XState actor with its
 * system exists only where something wants it: `xstate`, or an observer of XState's inspection events.
 *
 * An exception never leaves the actor between two states: a failed effect and a failed commit become events of the
 * machine, and a machine that fails itself stops its actor.
 */
export class DurableActor<M extends AnyStateMachine> implements Observed {
  readonly id: string;
  readonly #program: Program<M>;
  readonly #options: ActorOptions<M>;
  readonly #deadlines: Deadlines;
  #snapshot!: SnapshotFrom<M>;
  #place!: Place;
  #xstate: Actor<M> | null = null;
  readonly #letters: Letter<EventFrom<M>>[] = [];
  readonly #urgent: Letter<EventFrom<M>>[] = [];
  /** Effects of the last step that are still to be performed. */
  #effects: readonly Effect[] = [];
  /** The commit that is not answered yet. */
  #pending: Effect | null = null;
  #cancelRepeat: (() => void) | null = null;
  #running = false;
  #stopped = false;
  /** True once an exception of the observer was reported. */
  #blamed = false;
  #waiters: (() => void)[] = [];

  constructor(program: Program<M>, options: ActorOptions<M>) {
    this.id = options.id;
    this.#program = program;
    this.#options = options;
    this.#deadlines = new Deadlines(options.clock, options.durations, (expired) => this.#expired(expired));
    this.#step(null);
    queueMicrotask(() => this.#run());
  }

  get machine(): M {
    return this.#program.machine;
  }

  /** An XState actor that executes the machine from now on, for `subscribe`, `waitFor` and inspection. */
  get xstate(): Actor<M> {
    this.#xstate ??= this.#open({ snapshot: this.#snapshot });
    return this.#xstate;
  }

  get context(): ContextFrom<M> {
    return this.#look().context as ContextFrom<M>;
  }

  /** Dotted path, e.g. `live.idle`; parallel regions are left out below their parent. */
  get state(): string {
    return this.#place.path;
  }

  get stopped(): boolean {
    return this.#stopped;
  }

  snapshot(): SnapshotFrom<M> {
    return this.#snapshot;
  }

  /** Queues an event. It is delivered immediately unless a step or a commit is in progress. */
  send(event: EventFrom<M>): void {
    if (this.#stopped) return;
    this.#letters.push({ event, armed: null });
    this.#run();
  }

  /** Restarts a running deadline. */
  touch(name: string): void {
    this.#deadlines.touch(name);
  }

  /**
   * Stops the actor: nothing is delivered, performed or repeated afterwards.
   *
   * @returns the events that were still waiting
   */
  stop(): EventFrom<M>[] {
    if (this.#stopped) return [];
    this.#stopped = true;
    this.#pending = null;
    this.#cancelRepeat?.();
    this.#deadlines.clear();
    if (this.#look().status === 'active') {
      this.#take(STOP);
      this.#show(STOP);
    }
    const left = [...this.#urgent, ...this.#letters].filter(({ armed }) => armed === null).map(({ event }) => event);
    this.#urgent.length = 0;
    this.#letters.length = 0;
    this.#effects = [];
    this.#release();
    try {
      this.#options.onStopped?.();
    } catch (error) {
      this.#complain(error);
    }
    return left;
  }

  /** Resolves when no event waits and no commit is unanswered, or when the actor has stopped. */
  idle(): Promise<void> {
    return this.#stopped || (!this.#pending && !this.#running && this.#letters.length === 0)
      ? Promise.resolve()
      : new Promise((resolve) => this.#waiters.push(resolve));
  }

  #look(): Looked {
    return this.#snapshot as unknown as Looked;
  }

  #complain(error: unknown): void {
    try {
      this.#options.onError?.(error);
    } catch {
      // There is no other way to report it.
    }
  }

  /** Starts an XState actor, which performs no effects of its own. */
  #open(from: { snapshot: SnapshotFrom<M> } | { input: unknown }): Actor<M> {
    const complain = (error: unknown) => this.#complain(error);
    const observe = this.#options.inspect?.xstate;
    const xstate = createActor(this.machine, {
      id: this.id,
      inspect: observe && safely(observe, complain),
      ...from,
    } as never) as Actor<M>;
    // Without an error observer XState throws errors where they cannot be caught.
    xstate.subscribe({ error: complain });
    xstate.start();
    if (this.#stopped) xstate.stop();
    return xstate;
  }

  /** Enters the first state. */
  #start(): void {
    const { snapshot, input, inspect } = this.#options;
    if (inspect?.xstate) {
      this.#xstate = this.#open(snapshot === undefined ? { input } : { snapshot });
      this.#snapshot = this.#xstate.getSnapshot() as SnapshotFrom<M>;
      return;
    }
    const { machine, scope } = this.#program;
    this.#snapshot = snapshot ?? (machine.getInitialSnapshot(scope, input as never) as SnapshotFrom<M>);
    // XState reports an error of the first state in its snapshot, and those of later steps as exceptions.
    const { status, error } = this.#snapshot as { status: string; error?: unknown };
    if (status === 'error') this.#complain(error);
  }

  /** Passes an event to the machine. */
  #take(event: { type: string }): void {
    const xstate = this.#xstate;
    if (xstate) {
      if (event === STOP) xstate.stop();
      else xstate.send(event as never);
      this.#snapshot = xstate.getSnapshot() as SnapshotFrom<M>;
    } else {
      const { machine, scope } = this.#program;
      this.#snapshot = machine.transition(this.#snapshot as never, event, scope) as SnapshotFrom<M>;
    }
  }

  /** Makes one step: with this event, or the first one. */
  #step(event: EventFrom<M> | null): void {
    const program = this.#program;
    this.#effects = recordEffects(program, () => {
      if (event === null) this.#start();
      else this.#take(event);
    });
    const looked = this.#look();
    this.#place = program.placeOf(looked);
    this.#deadlines.update(this.#place, looked.context);
    this.#show(event ?? INIT);
  }

  /** Shows the observer the present state, with the event that led to it. */
  #show(event: { type: string }): void {
    const { inspect } = this.#options;
    if (!inspect) return;
    const { context, status } = this.#look();
    try {
      inspect.step({ actor: this, event, value: this.#place.value, context, status });
    } catch (error) {
      if (!this.#blamed) this.#complain(error);
      this.#blamed = true;
    }
  }

  #expired(armed: Armed): void {
    const { event } = armed.deadline;
    const letter = { event: { type: event } as EventFrom<M>, armed };
    if (this.#pending && this.#deadlines.isOwn(event)) this.#urgent.push(letter);
    else this.#letters.push(letter);
    this.#run();
  }

  #run(): void {
    if (this.#running || this.#stopped) return;
    this.#running = true;
    try {
      for (;;) {
        if (this.#effects.length > 0) this.#perform();
        if (this.#stopped) return;
        if (this.#look().status !== 'active') return void this.stop();
        const letter = this.#urgent.shift() ?? (this.#pending ? undefined : this.#letters.shift());
        if (!letter) break;
        if (letter.armed === null || letter.armed.current) this.#step(letter.event);
      }
    } catch (error) {
      // The step itself failed: there is no consistent state from which to continue.
      this.#complain(error);
      return void this.stop();
    } finally {
      this.#running = false;
    }
    if (!this.#pending) this.#release();
  }

  /** Performs the effects of the last step. The events for those that threw are delivered before everything else. */
  #perform(): void {
    const effects = this.#effects;
    this.#effects = [];
    const failures: Letter<EventFrom<M>>[] = [];
    for (const effect of effects) {
      if (this.#stopped) break;
      try {
        if (this.#program.commits.has(effect.type)) this.#begin(effect);
        else this.#options.perform(effect);
      } catch (error) {
        const event = this.#eventOf('effectFailed', effect, error);
        if (event !== null) failures.push({ event, armed: null });
      }
    }
    if (failures.length > 0) this.#letters.unshift(...failures);
  }

  /** Returns the event that a failure handler creates for an error; null if there is no handler, or if it throws. */
  #eventOf(handler: 'effectFailed' | 'commitFailed', effect: Effect, error: unknown): EventFrom<M> | null {
    if (!this.#options[handler]) this.#complain(error);
    try {
      return this.#options[handler]?.(effect, error) ?? null;
    } catch (second) {
      this.#complain(second);
      return null;
    }
  }

  #begin(effect: Effect): void {
    if (this.#pending) throw new Error(`${this.id}: ${effect.type} was yielded while a commit is unanswered`);
    this.#pending = effect;
    this.#attempt(effect, 0);
  }

  #attempt(effect: Effect, count: number): void {
    let asked: Promise<CommitAnswer<EventFrom<M>>>;
    try {
      asked = this.#options.commit!(effect, count);
    } catch (error) {
      asked = Promise.reject(error);
    }
    asked.then(
      (answer) => this.#answered(effect, count, answer),
      (error) => this.#commitFailed(effect, error),
    );
  }

  #answered(effect: Effect, count: number, answer: CommitAnswer<EventFrom<M>>): void {
    if (this.#pending !== effect) return;
    if ('event' in answer) return this.#verdict(answer.event);
    const pause = Math.min(SLOWEST_REPEAT, FIRST_REPEAT * 2 ** count);
    this.#cancelRepeat = this.#options.clock.after(pause, () => this.#attempt(effect, count + 1));
  }

  #commitFailed(effect: Effect, error: unknown): void {
    if (this.#pending !== effect) return;
    const event = this.#eventOf('commitFailed', effect, error);
    // A commit without a verdict would close the mailbox for the rest of the actor's life.
    if (event === null) this.stop();
    else this.#verdict(event);
  }

  #verdict(event: EventFrom<M>): void {
    this.#pending = null;
    this.#urgent.unshift({ event, armed: null });
    this.#run();
  }

  #release(): void {
    if (this.#waiters.length === 0) return;
    const done = this.#waiters;
    this.#waiters = [];
    for (const resolve of done) resolve();
  }
}

/**
 * Starts an actor whose effects are data.
 *
 * @throws the error of the duration of one of its first deadlines
 */
export function startActor<M extends AnyStateMachine>(program: Program<M>, options: ActorOptions<M>): DurableActor<M> {
  return new DurableActor(program, options);
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

/**
 * Prepares a machine: replaces its named actions by recorders that turn effects into data.
 *
 * @param effects names of those actions
 */
export function prepare<M extends AnyStateMachine>(
  machine: M,
  effects: readonly string[],
  options: ProgramOptions,
): Program<M> {
  const recorders = Object.fromEntries(
    effects.map((type) => [
      type,
      (_: unknown, params: unknown) => {
        program.effects?.push({ type, params });
      },
    ]),
  );
  const recording = machine.provide({ actions: recorders } as never) as M;
  const program: Program<M> = {
    machine: recording,
    version: options.version,
    commits: new Set(options.commits),
    scope: scopeOf(recording),
    placeOf: createPlaces(recording),
    effects: null,
  };
  return program;
}

/** Returns the scope of a transition function whose actions only record. */
function scopeOf(machine: AnyStateMachine): AnyActorScope {
  // Never started. Actions and guards are passed it as `self`; those of a durable machine do not use it.
  const self = createActor(machine);
  return {
    self,
    system: self.system,
    id: self.id,
    sessionId: self.sessionId,
    logger: () => {},
    defer: () => {},
    emit: () => {},
    stopChild: () => {},
    actionExecutor: ({ exec, info, params }) => exec?.(info, params),
  };
}

/** Returns the function that finds the place of a snapshot. Places are found by the nodes without children. */
function createPlaces(machine: AnyStateMachine): Program['placeOf'] {
  const declared = new Map<AnyStateNode, Deadline[]>();
  for (const node of nodesOf(machine.root)) {
    const { deadlines = [] } = (node.meta ?? {}) as { deadlines?: readonly Deadline[] };
    // States may share the object that declares their deadlines.
    declared.set(
      node,
      deadlines.map((deadline) => ({ ...deadline })),
    );
  }
  interface Branch {
    next: Map<AnyStateNode, Branch>;
    place: Place | null;
  }
  const root: Branch = { next: new Map(), place: null };
  return ({ value, _nodes: nodes }) => {
    let at = root;
    for (const node of nodes) {
      if (node.type !== 'atomic' && node.type !== 'final') continue;
      let next = at.next.get(node);
      if (next === undefined) at.next.set(node, (next = { next: new Map(), place: null }));
      at = next;
    }
    at.place ??= { value, path: pathOf(value), deadlines: nodes.flatMap((node) => declared.get(node) ?? []) };
    return at.place;
  };
}

/** Returns the dotted path of a state value. It ends at a parallel state, below which there is no single path. */
export function pathOf(value: unknown): string {
  if (typeof value === 'string') return value;
  const entries = Object.entries(value as Record<string, unknown>);
  if (entries.length !== 1) return '';
  const [name, rest] = entries[0]!;
  const below = pathOf(rest);
  return below === '' ? name : `${name}.${below}`;
}

/** Returns a state and all states below it. */
export const nodesOf = (node: AnyStateNode): AnyStateNode[] => [
  node,
  ...Object.values(node.states).flatMap((child) => nodesOf(child as AnyStateNode)),
];

/** A deadline of an active state. */
interface Armed {
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
class Deadlines {
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
    const made: Armed = { deadline, current: true, due, restarted: false, waiting: true, cancel: nothing };
    this.#wait(made, ms);
    return made;
  }

  #wait(armed: Armed, left: number): void {
    if (left === Number.POSITIVE_INFINITY) return;
    const step = Math.min(left, LONGEST);
    armed.cancel = this.#clock.after(Math.max(0, step), () => {
      const rest = armed.restarted ? armed.due - this.#clock.now() : left - step;
      // Whole milliseconds: the rest of a rounding error is a wait that need not move a clock of floating-point numbers.
      if (rest > 0) return this.#wait(armed, Math.ceil(rest));
      armed.waiting = false;
      this.#fire(armed);
    });
  }
}

function retire(armed: Armed): void {
  armed.current = false;
  armed.cancel();
}
