import { type AnyActorScope, type AnyStateMachine, type AnyStateNode, createActor, type StateValue } from 'xstate';

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

/**
 * Prepares a machine: replaces its named actions, once, by recorders that turn effects into data.
 *
 * @throws Error with a list of all findings if the machine has hidden effects
 */
export function defineProgram<M extends AnyStateMachine>(machine: M, options: ProgramOptions): Program<M> {
  const findings = lintMachine(machine);
  if (findings.length > 0) {
    const list = findings.map(({ path, message }) => `  ${path}: ${message}`).join('\n');
    throw new Error(`The machine ${machine.id} has effects the runtime cannot see:\n${list}`);
  }
  const recorders = Object.fromEntries(
    [...effectNames(machine)].map((type) => [
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

const nodesOf = (node: AnyStateNode): AnyStateNode[] => [
  node,
  ...Object.values(node.states).flatMap((child) => nodesOf(child as AnyStateNode)),
];

/** Returns the names of the actions that the machine uses and that are not built into XState (`assign` and others). */
function effectNames(machine: AnyStateMachine): Set<string> {
  const names = new Set<string>();
  const collect = (list: readonly unknown[] | undefined) => {
    for (const action of list ?? []) {
      const name = typeof action === 'string' ? action : (action as { type?: string }).type;
      if (name && !name.startsWith('xstate.')) names.add(name);
    }
  };
  for (const node of nodesOf(machine.root)) {
    collect(node.entry);
    collect(node.exit);
    collect(node.initial?.actions as readonly unknown[] | undefined);
    for (const transitions of node.transitions.values()) for (const { actions } of transitions) collect(actions);
    for (const { actions } of node.always ?? []) collect(actions);
  }
  for (const [name, implementation] of Object.entries(machine.implementations.actions)) {
    if (isBuiltIn(implementation)) names.delete(name);
    else names.add(name);
  }
  return names;
}

/**
 * Returns whether an implementation is a built-in action. `assign` and `raise` given by name are part of the step and
 * are not replaced.
 */
function isBuiltIn(implementation: unknown): boolean {
  return (
    typeof implementation === 'function' && String((implementation as { type?: unknown }).type).startsWith('xstate.')
  );
}

/** A construct that a durable machine may not use, and where. */
export interface LintFinding {
  /** State node and position, e.g. `session.live.idle, on turn.wanted`. */
  path: string;
  message: string;
}

interface ActionLike {
  type?: string;
  id?: string;
  delay?: unknown;
}

/** XState's built-in actions that act outside the step, or hide their effect from a reader of the machine. */
const refused: Record<string, string> = {
  'xstate.spawnChild': 'spawns an actor: effects are data, performed by the runtime',
  'xstate.stopChild': 'stops an actor: a durable machine has no children',
  'xstate.sendTo': 'sends to another actor: yield a named effect instead',
  'xstate.forwardTo': 'forwards to another actor: yield a named effect instead',
  'xstate.cancel': 'cancels a delayed event: a durable machine has none',
  'xstate.enqueueActions': 'may spawn and send inside a function: name the actions',
  'xstate.emit': 'emits while stepping: yield a named effect instead',
  'xstate.log': 'writes while stepping: yield a named effect instead',
};

function refusalOf(action: unknown): string | null {
  if (typeof action === 'string') return null;
  const { type, delay } = action as ActionLike & (() => void);
  if (type && refused[type]) return `${type} ${refused[type]}`;
  if (type === 'xstate.raise') return delay === undefined ? null : 'a delayed raise is a timer: declare a deadline';
  if (type === 'xstate.assign') return null;
  if (typeof action === 'function') return 'an inline function hides what it does: give the action a name';
  return null;
}

function lintNode(node: AnyStateNode, machine: AnyStateMachine, findings: LintFinding[]): void {
  const find = (where: string, message: string) => findings.push({ path: `${node.id}${where}`, message });
  const actions = (list: readonly unknown[], where: string) => {
    for (const action of list) {
      const message = refusalOf(action);
      if (message) find(where, message);
      // A named action may be implemented by a built-in action of XState; its implementation decides.
      const name = typeof action === 'string' ? action : (action as ActionLike).type;
      const implementation = name ? machine.implementations.actions[name] : undefined;
      const inner = isBuiltIn(implementation) ? refusalOf(implementation) : null;
      if (inner) find(where, inner);
    }
  };

  for (const invoke of node.invoke)
    find('', `invokes ${String(invoke.src)}: effects are data, performed by the runtime`);
  for (const delayed of node.after)
    find('', `waits for ${String(delayed.delay)}: XState does not restore timers; declare a deadline`);
  actions(node.entry, ', entry');
  actions(node.exit, ', exit');
  actions((node.initial?.actions as readonly unknown[] | undefined) ?? [], ', initial');
  for (const [event, transitions] of node.transitions) {
    if (event.startsWith('xstate.after') || event.startsWith('xstate.done.actor')) continue;
    for (const transition of transitions) {
      actions(transition.actions as readonly unknown[], `, on ${event}`);
      if (typeof transition.guard === 'function')
        find(`, on ${event}`, 'an inline guard has no name: name it in setup()');
    }
  }
  for (const transition of node.always ?? []) {
    actions(transition.actions as readonly unknown[], ', always');
    if (typeof transition.guard === 'function') find(', always', 'an inline guard has no name: name it in setup()');
  }
  for (const child of Object.values(node.states)) lintNode(child as AnyStateNode, machine, findings);
}

/**
 * Finds every construct whose effects the runtime could not record: children, timers, sends to other actors, and
 * unnamed functions.
 *
 * @returns an empty list if every effect of the machine is a named, recorded datum
 */
export function lintMachine(machine: AnyStateMachine): LintFinding[] {
  const findings: LintFinding[] = [];
  lintNode(machine.root, machine, findings);
  return findings;
}
