import { setup } from 'xstate';

/**
 * The worker machine: one process's membership, from its registration to its end.
 *
 * The worker id is random per start and ends with the machine: a worker that was declared dead registers again under a
 * new id. Whether it may start turns is not a state but depends on the clock (the self-fence) and is checked before
 * each send.
 */

export type WorkerEvent =
  | { type: 'registration.confirmed' }
  | { type: 'registration.failed' }
  | { type: 'heartbeat.confirmed' }
  | { type: 'heartbeat.unanswered' }
  | { type: 'heartbeat.answered_dead' }
  | { type: 'heartbeat.wanted' }
  | { type: 'drain.requested' }
  | { type: 'drain.finished' }
  | { type: 'stop.requested' }
  | { type: 'deadline.heartbeat' }
  | { type: 'deadline.register' }
  | { type: 'deadline.drain' };

/** Both answers to a heartbeat lead to the pause before the next one. */
const heartbeatAnswers = {
  'heartbeat.confirmed': { target: 'resting', actions: 'noteConfirmed', description: 'The heartbeat was confirmed.' },
  'heartbeat.unanswered': {
    target: 'resting',
    actions: 'noteUnanswered',
    description: 'The heartbeat was not answered.',
  },
} as const;

const beating = {
  'heartbeat.confirmed': {
    actions: 'noteConfirmed',
    description: 'The lease is extended, counted from before this heartbeat was sent.',
  },
  'heartbeat.unanswered': {
    actions: 'noteUnanswered',
    description: 'The heartbeat was not answered: the time to the self-fence continues to run.',
  },
  'heartbeat.answered_dead': {
    target: '#worker.dead',
    description: 'Another worker has declared this one dead. This is final.',
  },
} as const;

/** The worker machine. */
export const workerMachine = setup({
  types: { events: {} as WorkerEvent },
  actions: {
    /** Inserts this worker's row under a new id. */
    register: () => {},
    /** Sends one heartbeat. The next one is due one interval after this one was answered or timed out. */
    beat: () => {},
    noteConfirmed: () => {},
    noteUnanswered: () => {},
    /** Drops every session: nothing may be started or claimed under the old id. */
    abandon: () => {},
    /** Stops admitting requests, releases idle sessions and lets running turns end. */
    startDrain: () => {},
    /** Stores this worker's own death as its last action, so that other workers need not wait for its lease. */
    declareSelfDead: () => {},
  },
}).createMachine({
  id: 'worker',
  description: "One process's membership among the workers of a database.",
  initial: 'starting',
  states: {
    starting: {
      description: 'The worker is not registered yet and serves no requests.',
      initial: 'registering',
      on: {
        'stop.requested': { target: 'stopped', description: 'The worker was stopped before it was registered.' },
        'drain.requested': {
          target: 'stopped',
          description: 'A drain was requested before the worker was registered: there is nothing to drain.',
        },
      },
      states: {
        registering: {
          description: "The worker's row is being inserted.",
          entry: 'register',
          on: {
            'registration.confirmed': { target: '#worker.serving', description: 'The worker is registered.' },
            'registration.failed': { target: 'pausing', description: 'The store did not answer.' },
          },
        },
        pausing: {
          description: 'A pause before the next attempt.',
          meta: { deadlines: [{ name: 'register', event: 'deadline.register' }] },
          on: { 'deadline.register': { target: 'registering', description: 'Try again.' } },
        },
      },
    },
    serving: {
      description: 'The worker serves turns.',
      initial: 'resting',
      on: {
        ...beating,
        'drain.requested': { target: 'draining', description: 'A drain was requested.' },
        'stop.requested': { target: 'stopped', description: 'An immediate stop was requested.' },
      },
      states: {
        resting: {
          description: 'Waiting for the next heartbeat.',
          meta: { deadlines: [{ name: 'heartbeat', event: 'deadline.heartbeat' }] },
          on: {
            'deadline.heartbeat': { target: 'beating', description: 'The next heartbeat is due.' },
            'heartbeat.wanted': { target: 'beating', description: 'The lease is in doubt: send a heartbeat at once.' },
          },
        },
        beating: {
          description: 'A heartbeat is in progress.',
          entry: 'beat',
          on: heartbeatAnswers,
        },
      },
    },
    draining: {
      description: 'The worker admits no new requests and still owns its running turns.',
      entry: 'startDrain',
      meta: { deadlines: [{ name: 'drainLimit', event: 'deadline.drain' }] },
      initial: 'beating',
      on: {
        ...beating,
        'drain.finished': { target: 'stopped', description: 'No turn is left.' },
        'deadline.drain': {
          target: 'stopped',
          description: 'The remaining turns are settled as orphans by the next owner.',
        },
        'stop.requested': { target: 'stopped', description: 'A stop was requested during the drain: stop now.' },
      },
      states: {
        resting: {
          description: 'Waiting for the next heartbeat.',
          meta: { deadlines: [{ name: 'heartbeat', event: 'deadline.heartbeat' }] },
          on: {
            'deadline.heartbeat': { target: 'beating', description: 'The next heartbeat is due.' },
            'heartbeat.wanted': { target: 'beating', description: 'The lease is in doubt: send a heartbeat at once.' },
          },
        },
        beating: {
          description: 'A heartbeat is in progress. The first one reports the drain to the other workers.',
          entry: 'beat',
          on: heartbeatAnswers,
        },
      },
    },
    dead: {
      description:
        'Another worker declared this one dead: its sessions are dropped and the process registers again under a new id.',
      type: 'final',
      entry: 'abandon',
    },
    stopped: {
      description: 'The worker has stopped; its own death is being stored.',
      type: 'final',
      entry: 'declareSelfDead',
    },
  },
});

/** Type of {@link workerMachine}. */
export type WorkerMachine = typeof workerMachine;
