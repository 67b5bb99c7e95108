import type { AnyStateMachine, AnyStateNode, SnapshotFrom } from 'xstate';
import { lintMachine } from './lint.ts';

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

/**
 * A machine prepared for durable execution: linted, with recording actions and known deadlines. Created once per
 * machine.
 */
export interface Program<M extends AnyStateMachine = AnyStateMachine> {
  readonly machine: M;
  readonly version: number;
  readonly commits: ReadonlySet<string>;
  /** Deadlines by state node id, for nodes that declare any. */
  readonly deadlines: ReadonlyMap<string, readonly Deadline[]>;
  /** Runs `step` and returns the effects that it yielded. Steps are synchronous and never nest. */
  record(step: () => void): Effect[];
}

export interface ProgramOptions {
  /** Names of the effects that a store answers. */
  commits: readonly string[];
  /** Version of the persisted data; a snapshot of another version is not loaded. */
  version: number;
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
  let buffer: Effect[] | null = null;
  const recorders = Object.fromEntries(
    [...effectNames(machine)].map((type) => [
      type,
      (_: unknown, params: unknown) => {
        buffer?.push({ type, params });
      },
    ]),
  );
  const deadlines = new Map<string, readonly Deadline[]>();
  for (const node of nodesOf(machine.root)) {
    const declared = (node.meta as { deadlines?: readonly Deadline[] } | undefined)?.deadlines;
    if (declared?.length) deadlines.set(node.id, declared);
  }
  return {
    machine: machine.provide({ actions: recorders } as never) as M,
    version: options.version,
    commits: new Set(options.commits),
    deadlines,
    record(step) {
      const outer = buffer;
      const mine: Effect[] = [];
      buffer = mine;
      try {
        step();
      } finally {
        buffer = outer;
      }
      return mine;
    },
  };
}

export type SnapshotOf<P extends Program> = SnapshotFrom<P['machine']>;
