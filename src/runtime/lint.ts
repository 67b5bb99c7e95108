import type { AnyStateMachine, AnyStateNode } from 'xstate';

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

function judge(action: unknown): string | null {
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
      const message = judge(action);
      if (message) find(where, message);
      // A named action may be implemented by a built-in action of XState; it is judged by its implementation.
      const name = typeof action === 'string' ? action : (action as ActionLike).type;
      const implementation = name ? machine.implementations.actions[name] : undefined;
      if (implementation && (implementation as ActionLike & { resolve?: unknown }).type) {
        const inner = judgeBuiltIn(implementation as ActionLike);
        if (inner) find(where, inner);
      }
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

function judgeBuiltIn(action: ActionLike): string | null {
  const { type } = action;
  if (!type?.startsWith('xstate.')) return null;
  return judge(action);
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
