import {
  type SessionEvent,
  type SessionMachine,
  sessionMachine,
  type TurnEvent,
  type TurnMachine,
  turnMachine,
  type WorkerEvent,
  type WorkerMachine,
  workerMachine,
} from '../../machines/index.ts';
import { type EventVariant, fixedEvents, type MachineModel, variantName } from './vocabulary.ts';

const both = [true, false];

/** Variants of a socket event: one for the current socket, and one for an earlier socket that is no longer used. */
const ofSocket = (make: (generation: number) => SessionEvent): EventVariant<SessionMachine>[] => {
  const { generation: _, ...rest } = make(0) as SessionEvent & { generation: number };
  const name = (which: object) => variantName({ ...rest, ...which });
  return [
    { name: name({}), event: ({ generation }) => make(generation) },
    { name: name({ earlier: true }), event: ({ generation }) => make(generation - 1) },
  ];
};

const sessionEvents: EventVariant<SessionMachine>[] = [
  ...ofSocket((generation) => ({ type: 'socket.opened', generation })),
  ...ofSocket((generation) => ({ type: 'socket.failed', generation })),
  ...ofSocket((generation) => ({ type: 'socket.refused', generation })),
  ...both.flatMap((resendable) => ofSocket((generation) => ({ type: 'socket.lost', generation, resendable }))),
  ...ofSocket((generation) => ({ type: 'history.missing', generation })),
  ...fixedEvents<SessionMachine>([
    { type: 'turn.wanted' },
    { type: 'turn.cancelled', reason: 'superseded' },
    { type: 'client.gone' },
    { type: 'client.back' },
    { type: 'frame.not_sent', cause: 'lease' },
    { type: 'frame.not_sent', cause: 'socket' },
    { type: 'upstream.progress' },
    { type: 'upstream.anchor_refused' },
    ...both.map((keepSocket) => ({ type: 'upstream.ended', keepSocket }) as const),
    ...both.flatMap((socketOpen) =>
      both.map((leaseValid) => ({ type: 'store.started', socketOpen, leaseValid }) as const),
    ),
    { type: 'store.not_created' },
    { type: 'store.head_moved' },
    { type: 'store.busy' },
    { type: 'store.cleared' },
    { type: 'store.fenced' },
    ...both.map((socketOpen) => ({ type: 'store.settled', socketOpen }) as const),
    ...both.map((rowExists) => ({ type: 'store.rejected', rowExists }) as const),
    { type: 'deadline.connect' },
    { type: 'deadline.redial' },
    { type: 'deadline.start_wait' },
    { type: 'deadline.settle_wait' },
    { type: 'deadline.first_event' },
    { type: 'deadline.silence' },
    { type: 'deadline.turn_budget' },
    { type: 'deadline.grace' },
    { type: 'deadline.idle' },
    { type: 'deadline.age' },
    { type: 'effect.failed' },
    { type: 'operator.release' },
    { type: 'operator.close' },
    { type: 'worker.draining' },
    { type: 'worker.dead' },
    { type: 'session.claimed' },
  ]),
];

/**
 * The socket counter grows without limit, but only whether an event belongs to the current socket matters. Of the
 * counters only `creates` affects behaviour, and it is at most two. The projection therefore keeps only `creates`.
 */
export const sessionModel: MachineModel<SessionMachine> = {
  name: 'session',
  machine: sessionMachine,
  events: sessionEvents,
  project: ({ creates }) => ({ creates }),
};

const turnEvents: TurnEvent['type'][] = [
  'queue',
  'hand_back',
  'commit',
  'send',
  'acknowledge',
  'stream',
  'steer',
  'complete',
  'end_incomplete',
  'fail',
  'cancel',
  'lose',
];

/** Model of the turn machine with all its events. */
export const turnModel: MachineModel<TurnMachine> = {
  name: 'turn',
  machine: turnMachine,
  input: { turnId: 'turn' },
  events: fixedEvents<TurnMachine>(turnEvents.map((type) => ({ type }))),
};

const workerEvents: WorkerEvent['type'][] = [
  'heartbeat.wanted',
  'registration.confirmed',
  'registration.failed',
  'heartbeat.confirmed',
  'heartbeat.unanswered',
  'heartbeat.answered_dead',
  'drain.requested',
  'drain.finished',
  'stop.requested',
  'deadline.heartbeat',
  'deadline.register',
  'deadline.drain',
];

/** Model of the worker machine with all its events. */
export const workerModel: MachineModel<WorkerMachine> = {
  name: 'worker',
  machine: workerMachine,
  events: fixedEvents<WorkerMachine>(workerEvents.map((type) => ({ type }))),
};
