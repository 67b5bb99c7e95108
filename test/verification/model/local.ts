import { initialTransition, transition } from 'xstate';
import type { ForcedEnd, SessionEvent } from '../../../machines/session.ts';
import { recordEffects, rehydrate } from '../../../src/runtime/index.ts';
import { SESSION_MACHINE_VERSION, sessionProgram } from '../../../src/session/session.ts';
import { TURN_STATE } from './layout.ts';

const GENERATION = 1;
const socket = { generation: GENERATION };

/**
 * Events that the model delivers to the session machine. All socket events are of the current socket; events of earlier
 * sockets would be ignored.
 */
export const events = {
  wanted: { type: 'turn.wanted' },
  cancelled: { type: 'turn.cancelled', reason: 'superseded' },
  clientGone: { type: 'client.gone' },
  clientBack: { type: 'client.back' },
  opened: { type: 'socket.opened', ...socket },
  failed: { type: 'socket.failed', ...socket },
  refused: { type: 'socket.refused', ...socket },
  lostResendable: { type: 'socket.lost', resendable: true, ...socket },
  lost: { type: 'socket.lost', resendable: false, ...socket },
  historyMissing: { type: 'history.missing', ...socket },
  notSentLease: { type: 'frame.not_sent', cause: 'lease' },
  notSentSocket: { type: 'frame.not_sent', cause: 'socket' },
  progress: { type: 'upstream.progress' },
  anchorRefused: { type: 'upstream.anchor_refused' },
  endedKeep: { type: 'upstream.ended', keepSocket: true },
  endedRetire: { type: 'upstream.ended', keepSocket: false },
  started: { type: 'store.started', socketOpen: true, leaseValid: true },
  startedNoSocket: { type: 'store.started', socketOpen: false, leaseValid: true },
  startedNoLease: { type: 'store.started', socketOpen: true, leaseValid: false },
  notCreated: { type: 'store.not_created' },
  headMoved: { type: 'store.head_moved' },
  busy: { type: 'store.busy' },
  cleared: { type: 'store.cleared' },
  fenced: { type: 'store.fenced' },
  settledOpen: { type: 'store.settled', socketOpen: true },
  settledClosed: { type: 'store.settled', socketOpen: false },
  rejected: { type: 'store.rejected', rowExists: true },
  rejectedNoRow: { type: 'store.rejected', rowExists: false },
  connect: { type: 'deadline.connect' },
  redial: { type: 'deadline.redial' },
  startWait: { type: 'deadline.start_wait' },
  settleWait: { type: 'deadline.settle_wait' },
  firstEvent: { type: 'deadline.first_event' },
  silence: { type: 'deadline.silence' },
  turnBudget: { type: 'deadline.turn_budget' },
  grace: { type: 'deadline.grace' },
  idle: { type: 'deadline.idle' },
  age: { type: 'deadline.age' },
  effectFailed: { type: 'effect.failed' },
  release: { type: 'operator.release' },
  draining: { type: 'worker.draining' },
  workerDead: { type: 'worker.dead' },
} as const satisfies Record<string, SessionEvent>;
export type EventName = keyof typeof events;
export const eventNames = Object.keys(events) as EventName[];
export const EVENT = Object.fromEntries(eventNames.map((name, index) => [name, index])) as Record<EventName, number>;

/** Result of an event. Effect names include their parameters, for example `endTurn:lost`. */
export interface Step {
  to: number;
  effects: readonly string[];
}

/** One state of the session machine, with irrelevant differences (counters that only grow) removed. */
export interface Local {
  readonly path: string;
  readonly snapshot: unknown;
  readonly creates: number;
  readonly dialing: boolean;
  /** A turn was sent upstream. */
  readonly streaming: boolean;
  /** A turn was sent upstream, and only telemetry has come back. */
  readonly waiting: boolean;
  readonly idle: boolean;
  readonly over: boolean;
  /** Deadlines declared by the active states, as event numbers. */
  readonly deadlines: readonly number[];
}

/** The session machine as a table of local states and steps, filled on demand. */
export interface LocalMachine {
  readonly locals: readonly Local[];
  /** State of a new session's actor: connecting, with its first dial in progress. */
  readonly born: number;
  /** State of a claimed session's actor. It does not depend on the state stored in the row's snapshot. */
  readonly claimed: number;
  step(local: number, event: number): Step;
}

interface Looked {
  value: unknown;
  status: string;
  context: { creates: number };
  _nodes: { id: string }[];
}

const STATE_OF_END: Record<ForcedEnd, number> = {
  failed: TURN_STATE.failed,
  cancelled: TURN_STATE.cancelled,
  lost: TURN_STATE.lost,
};

/**
 * Runs the production machine with XState's pure transition function. The recorders of `defineProgram` report the
 * effects of each step. Counters that only grow (dials, turns, takeovers) are reset, because guards compare them only
 * with events of the same socket.
 */
function createLocalMachine(): LocalMachine {
  const { machine } = sessionProgram;
  const locals: Local[] = [];
  const byName = new Map<string, number>();
  const steps: (Step | undefined)[] = [];

  function intern(snapshot: unknown): number {
    const { value, context, status } = snapshot as Looked;
    const name = JSON.stringify([value, context.creates]);
    const known = byName.get(name);
    if (known !== undefined) return known;
    if (locals.length === 255) throw new Error('More local states than fit into a byte.');
    const plain = { generation: GENERATION, creates: context.creates, turns: 0, takeovers: 0 };
    const clean = machine.resolveState({ value, context: plain } as never);
    const { path, deadlines: declared } = sessionProgram.placeOf(clean as never);
    const deadlines = declared.map(({ event }) => eventNames.findIndex((each) => events[each].type === event));
    locals.push({
      path,
      snapshot: clean,
      creates: context.creates,
      dialing: path.endsWith('.dialing'),
      streaming: path.startsWith('live.streaming'),
      waiting: JSON.stringify(value).includes('"flow":"waiting"'),
      idle: path === 'live.idle',
      over: status !== 'active',
      deadlines,
    });
    byName.set(name, locals.length - 1);
    return locals.length - 1;
  }

  const nameOf = ({ type, params }: { type: string; params: unknown }) =>
    type === 'endTurn' ? `endTurn:${STATE_OF_END[(params as { end: ForcedEnd }).end]}` : type;

  function step(local: number, event: number): Step {
    const at = local * eventNames.length + event;
    const known = steps[at];
    if (known) return known;
    const [next, actions] = transition(machine, locals[local]!.snapshot as never, events[eventNames[event]!] as never);
    const effects = recordEffects(sessionProgram, () => {
      for (const { exec, info, params } of actions as {
        exec?: (info: unknown, params: unknown) => void;
        info: unknown;
        params: unknown;
      }[])
        exec?.(info, params);
    });
    const made: Step = { to: intern(next), effects: effects.map(nameOf) };
    steps[at] = made;
    return made;
  }

  const [fresh] = initialTransition(machine, {} as never);
  const claimed = rehydrate(sessionProgram, {
    persisted: { value: { live: 'idle' }, context: { generation: 4, creates: 0, turns: 3, takeovers: 1 } },
    machineVersion: SESSION_MACHINE_VERSION,
    input: {} as never,
    takeover: { type: 'session.claimed' },
  }).snapshot;
  return { locals, born: intern(fresh), claimed: intern(claimed), step };
}

let shared: LocalMachine | null = null;

/** Returns the table shared by all worlds of a process, so that a state's number means the same in each. */
export function localMachine(): LocalMachine {
  shared ??= createLocalMachine();
  return shared;
}

/** Returns the ids of the session machine's states that any world of this process has visited. */
export function visitedStates(): ReadonlySet<string> {
  return new Set(localMachine().locals.flatMap(({ snapshot }) => (snapshot as Looked)._nodes.map(({ id }) => id)));
}
