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

const beating = {
  'heartbeat.confirmed': {
    actions: 'noteConfirmed',
    description: 'The lease runs from before this heartbeat was sent.',
  },
  'heartbeat.unanswered': { actions: 'noteUnanswered', description: 'No answer: the self-fence goes on counting.' },
  'heartbeat.answered_dead': {
    target: '#worker.dead',
    description: 'Others have declared this worker dead: that is for ever.',
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
      description: 'Not yet known to others; serves nothing.',
      initial: 'registering',
      on: {
        'stop.requested': { target: 'stopped', description: 'Stopped before it began.' },
        'drain.requested': { target: 'stopped', description: 'There is nothing to drain.' },
      },
      states: {
        registering: {
          description: 'The row is being inserted.',
          entry: 'register',
          on: {
            'registration.confirmed': { target: '#worker.serving', description: 'Known to others from now on.' },
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
      description: 'Serves turns; its heartbeat says so.',
      initial: 'resting',
      on: {
        ...beating,
        'drain.requested': { target: 'draining', description: 'Asked to end in order.' },
        'stop.requested': { target: 'stopped', description: 'Asked to end at once.' },
      },
      states: {
        resting: {
          description: 'Between two heartbeats.',
          meta: { deadlines: [{ name: 'heartbeat', event: 'deadline.heartbeat' }] },
          on: {
            'deadline.heartbeat': { target: 'beating', description: 'The next heartbeat is due.' },
            'heartbeat.wanted': { target: 'beating', description: 'The lease is in doubt: ask at once.' },
          },
        },
        beating: {
          description: 'A heartbeat is under way.',
          entry: 'beat',
          on: {
            'heartbeat.confirmed': { target: 'resting', actions: 'noteConfirmed', description: 'Confirmed.' },
            'heartbeat.unanswered': { target: 'resting', actions: 'noteUnanswered', description: 'Not answered.' },
          },
        },
      },
    },
    draining: {
      description: 'Admits nothing new and still owns what it runs.',
      entry: 'startDrain',
      meta: { deadlines: [{ name: 'drainLimit', event: 'deadline.drain' }] },
      initial: 'beating',
      on: {
        ...beating,
        'drain.finished': { target: 'stopped', description: 'Nothing is left.' },
        'deadline.drain': { target: 'stopped', description: 'What is left is left to the orphan rule.' },
        'stop.requested': { target: 'stopped', description: 'Asked a second time: stop now.' },
      },
      states: {
        resting: {
          description: 'Between two heartbeats.',
          meta: { deadlines: [{ name: 'heartbeat', event: 'deadline.heartbeat' }] },
          on: {
            'deadline.heartbeat': { target: 'beating', description: 'The next heartbeat is due.' },
            'heartbeat.wanted': { target: 'beating', description: 'The lease is in doubt: ask at once.' },
          },
        },
        beating: {
          description: 'A heartbeat is under way; the first one tells the others at once.',
          entry: 'beat',
          on: {
            'heartbeat.confirmed': { target: 'resting', actions: 'noteConfirmed', description: 'Confirmed.' },
            'heartbeat.unanswered': { target: 'resting', actions: 'noteUnanswered', description: 'Not answered.' },
          },
        },
      },
    },
    dead: {
      description: 'Declared dead by others: everything is dropped and the process begins again as somebody else.',
      type: 'final',
      entry: 'abandon',
    },
    stopped: {
      description: 'Ended by itself.',
      type: 'final',
      entry: 'declareSelfDead',
    },
  },
});

export type WorkerMachine = typeof workerMachine;
