import type { AnyStateMachine, AnyStateNode } from 'xstate';
import { nodesOf, type Program, type ProgramOptions, prepare } from './actor.ts';

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
  return prepare(machine, [...effectNames(machine)], options);
}

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
