import type { AnyStateNode, StateValue } from 'xstate';
import { sessionMachine } from '../../machines/session.ts';
import { firstEffects, firstSteps, meaningOf, sessionPhrase, stateText, turnPhrase } from '../observe/explain.ts';
import { type FlightRecord, type SafeFields, safeContext } from '../observe/trace.ts';
import type { SessionRow, WorkerRow } from '../store/port.ts';

export interface OutlinedState {
  /** Dotted path; empty for the machine itself. */
  path: string;
  description: string;
  kind: 'atomic' | 'compound' | 'parallel' | 'final' | 'history';
  /** Path of the initial child; null when there are no children, or when all are entered. */
  initial: string | null;
  /** Names of the deadlines that limit the time in this state. */
  deadlines: string[];
}

export interface OutlinedTransition {
  from: string;
  event: string;
  guard: string | null;
  /** Null when the transition does not leave the state. */
  to: string | null;
  actions: string[];
  description: string;
}

/** A machine as data, for drawing and reading, in the order of its definition. */
export interface MachineOutline {
  id: string;
  states: OutlinedState[];
  transitions: OutlinedTransition[];
}

const nodesBelow = (node: AnyStateNode): AnyStateNode[] => [
  node,
  ...Object.values(node.states).flatMap((child) => nodesBelow(child as AnyStateNode)),
];
const pathOf = (node: AnyStateNode) => node.path.join('.');
const nameOf = (thing: unknown) => (typeof thing === 'string' ? thing : (thing as { type: string }).type);

function stateOf(node: AnyStateNode): OutlinedState {
  const [initial] = node.type === 'compound' ? (node.initial.target as AnyStateNode[]) : [];
  const { deadlines = [] } = (node.meta ?? {}) as { deadlines?: { name: string }[] };
  return {
    path: pathOf(node),
    description: node.description ?? '',
    kind: node.type,
    initial: initial ? pathOf(initial) : null,
    deadlines: deadlines.map(({ name }) => name),
  };
}

function transitionsOf(node: AnyStateNode): OutlinedTransition[] {
  return [...node.transitions].flatMap(([event, taken]) =>
    taken.map(({ guard, target, actions, description }) => ({
      from: pathOf(node),
      event,
      guard: guard ? nameOf(guard) : null,
      to: target?.[0] ? pathOf(target[0] as AnyStateNode) : null,
      actions: (actions as readonly unknown[]).map(nameOf),
      description: description ?? '',
    })),
  );
}

let outline: MachineOutline | null = null;

/** Returns the outline of the session machine that runs in this process. */
export function sessionOutline(): MachineOutline {
  const nodes = nodesBelow(sessionMachine.root as unknown as AnyStateNode);
  outline ??= { id: sessionMachine.id, states: nodes.map(stateOf), transitions: nodes.flatMap(transitionsOf) };
  return outline;
}

/** One event of a session, as recorded by its owner. */
export interface TimelineEntry {
  /** Wall-clock time, in milliseconds since the Unix epoch. */
  t: number;
  /** `session@<epoch>` or `turn:<id>`. */
  actor: string;
  event: string;
  /** The event in words. */
  says: string;
  /** The machine's description of the transition taken; null when there was none, or when it is unknown. */
  meaning: string | null;
  /** State after the event, formatted for people. */
  state: string;
  /** Dotted paths of all states active after the event; empty for an event of a turn. */
  active: string[];
  /** Harmless fields of the event, and of the machine's context after it; null where they are unknown. */
  fields: SafeFields | null;
  context: SafeFields | null;
  /** Effects that the machine asked for; null where they are unknown. */
  effects: string[] | null;
  moved: boolean;
  times: number;
}

export interface Timeline {
  /** `memory`: the record of the worker that runs the session. `story`: the record stored when a turn ended badly. */
  from: 'memory' | 'story';
  workerId: string;
  epoch: number;
  /** Number of older events that were dropped. */
  dropped: number;
  entries: TimelineEntry[];
}

/** Returns the dotted paths of all states in a state value, outer states first. */
function activePaths(value: StateValue, prefix = ''): string[] {
  if (typeof value === 'string') return [prefix + value];
  return Object.entries(value).flatMap(([name, below]) => [
    prefix + name,
    ...(below === undefined ? [] : activePaths(below, `${prefix}${name}.`)),
  ]);
}

/** Converts a record to a list of readable entries, oldest first. */
export function timelineOf(record: FlightRecord, from: Timeline['from']): Timeline {
  const steps = firstSteps(record);
  const previous = new Map<string, string>();
  const entries = record.events.map((recorded): TimelineEntry => {
    const { t, actor, event, fields, state, times = 1 } = recorded;
    const value = JSON.parse(state) as StateValue;
    const step = steps.get(recorded);
    const isTurn = actor.startsWith('turn:');
    const moved = previous.get(actor) !== state;
    previous.set(actor, state);
    return {
      ...{ t, actor, event, times, moved },
      says: isTurn ? `turn ${actor.slice(5, 13)} ${turnPhrase(event)}` : sessionPhrase(event, fields),
      meaning: step ? meaningOf(step) : null,
      state: stateText(value),
      active: isTurn ? [] : activePaths(value),
      fields: fields ?? null,
      ...(event === 'xstate.init' && actor === `session@${record.epoch}`
        ? { context: record.base?.context ?? null, effects: state.includes('dialing') ? firstEffects() : null }
        : { context: step ? safeContext(step.after.context) : null, effects: step?.effects ?? null }),
    };
  });
  const { workerId, epoch, dropped } = record;
  return { from, workerId, epoch, dropped, entries };
}

/** State of a session when it is inspected. */
export interface Standing {
  session: Pick<SessionRow, 'state' | 'ownerWorkerId' | 'activeTurnId' | 'headTurnId' | 'anchorLost'>;
  owner: Pick<WorkerRow, 'state' | 'leaseLeftMs'> | null;
  /** True when the head's context can be rebuilt or is kept by the provider; null without a head. */
  headContinuable: boolean | null;
  /** Dotted state of the session's actor; null when there is none, or when its owner did not answer. */
  actor: string | null;
}

/** Explanation of a session's state and of how it can leave it, one sentence each. */
interface WhyAndExit {
  why: string;
  exit: string;
}

const seconds = (ms: number) => `${Math.max(0, Math.ceil(ms / 1000))} s`;

function ofBusy({ owner, actor }: Standing): WhyAndExit {
  if (!owner) {
    return {
      why: 'A turn is active at a worker that has no row, as after a failover of the database.',
      exit: 'The next request adds a row for that worker, waits until its lease has expired, declares it dead and takes the session over.',
    };
  }
  if (owner.state === 'dead') {
    return {
      why: 'Its worker died while a turn was running.',
      exit: 'The next request takes the session over at once; the turn becomes lost.',
    };
  }
  if (owner.leaseLeftMs < 0) {
    return {
      why: 'A turn is active at a worker whose heartbeat has stopped.',
      exit: 'The next request declares that worker dead and takes the session over; if that worker is alive after all, its turn stays as a branch.',
    };
  }
  if (actor?.startsWith('reconnecting.resending')) {
    return {
      why: 'The socket of a started turn was lost before the client got any output; a new one is being opened.',
      exit: 'The turn is sent once more, without its client noticing; it ends as lost when the connect deadline expires.',
    };
  }
  if (actor?.includes('settling')) {
    return {
      why: 'A turn has ended, and its end is being stored.',
      exit: 'It leaves this state when the store answers; until then the call is repeated, and after the settle wait the client gets the end of its turn in any case.',
    };
  }
  return {
    why: 'A turn is running at a live worker.',
    exit: `It ends with its terminal event, with its time budget, or when its client stays away for the grace time; if that worker stops, when its lease has expired (${seconds(owner.leaseLeftMs)} left).`,
  };
}

/** Explains the state of a session whose first turn is not stored yet. */
export function whyAndExitUnstored({ state, cause }: { state: string; cause: string | null }): WhyAndExit {
  if (state.startsWith('live')) {
    return {
      why: 'Its first turn waits until the store has created the session.',
      exit: 'It starts, or is refused after the start wait.',
    };
  }
  const failed = cause === null ? '' : ` The last attempt failed: ${cause}.`;
  return {
    why: `Its first request waits for a socket to the upstream; until it starts, the session has no row.${failed}`,
    exit: 'The turn starts when a socket opens. It fails, and the session disappears, when the connect deadline expires or its client leaves.',
  };
}

function afterwards({ session, headContinuable }: Standing): string {
  if (session.headTurnId === null) return 'The next request starts it from the beginning.';
  if (session.anchorLost || headContinuable === false) {
    return 'A request that sends the whole conversation continues it; one that only names the last response gets an explicit error.';
  }
  return 'The next request continues it from its durable state.';
}

/** Explains every combination of row, owner and actor. No combination is without an exit. */
export function whyAndExit(standing: Standing): WhyAndExit {
  const { session, owner, actor } = standing;
  if (session.state === 'closed') {
    return {
      why: 'It is closed, and its keys are free.',
      exit: 'The janitor removes it at the end of its retention time.',
    };
  }
  if (session.activeTurnId !== null) return ofBusy(standing);
  if (session.ownerWorkerId === null) {
    return {
      why: 'No worker owns it: it was released, taken from its owner, or never continued.',
      exit: afterwards(standing),
    };
  }
  if (!owner || owner.state === 'dead' || owner.leaseLeftMs < 0) {
    return { why: 'Its worker is gone; no turn was running.', exit: afterwards(standing) };
  }
  if (actor?.startsWith('reconnecting')) {
    return {
      why: 'A request waits while its socket is opened.',
      exit: 'The turn starts, or fails when the connect deadline expires.',
    };
  }
  if (actor?.startsWith('live.committing')) {
    return { why: 'A turn waits until its start is stored.', exit: 'It starts, or is refused after the start wait.' };
  }
  return {
    why: 'A live worker keeps its socket open; no turn is running.',
    exit: 'The next request uses that socket; it is closed when it is idle for too long, when it reaches its maximum age, or at shutdown.',
  };
}
