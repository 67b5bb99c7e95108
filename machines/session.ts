import { assign, setup } from 'xstate';

/**
 * The session machine: one conversation over one persistent upstream connection.
 *
 * It is pure. Actions are names; the durable runtime records them as effects and performs them after the step. The
 * store answers `commit*` effects with a `store.*` event. Until then no other event is delivered, except the deadlines
 * of the current state. Owner, epoch, active turn and head are columns, never context: the snapshot holds only what the
 * next worker may need.
 *
 * A turn of a new session: `connecting` -> `live.committing` -> `live.streaming` -> `live.settling` -> `live.idle`. The
 * next turn begins in `live.idle`. A session without a socket is `stale`; a turn that needs it opens one in
 * `reconnecting`. Read in this order: the events, the effects and conditions in `setup`, then the states.
 */

/** End of an active turn that the machine, not the upstream, ends. */
export type ForcedEnd = 'failed' | 'cancelled' | 'lost';

/** Codes of the error catalogue that the machine itself uses as a reason. */
export type SessionFault =
  | 'bridge_upstream_unreachable'
  | 'bridge_upstream_lost'
  | 'bridge_first_event_timeout'
  | 'bridge_stream_silent'
  | 'bridge_turn_timeout'
  | 'bridge_turn_cancelled'
  | 'bridge_store_unavailable'
  | 'bridge_store_rejected'
  | 'bridge_lease_lapsed'
  | 'bridge_session_expired'
  | 'bridge_session_closed'
  | 'bridge_internal';

/** Reason of the bridge for cancelling a turn. */
export type CancelReason = 'superseded' | 'drain' | 'hold_expired';

/** Context of the session machine. It holds neither content nor credentials. */
export interface SessionContext {
  /** Number of dials. Events of a socket carry the generation of its dial. */
  generation: number;
  /** Number of `response.create` frames handed to a socket for the current turn: at most two. */
  creates: number;
  /** Number of turns settled in this session, over all its workers. */
  turns: number;
  /** Number of takeovers of the session. */
  takeovers: number;
}

/** Events of the session machine. */
export type SessionEvent =
  // From the session's requests and their clients.
  /** A turn has been admitted and is the current one. */
  | { type: 'turn.wanted' }
  /** The current turn is to be cancelled. */
  | { type: 'turn.cancelled'; reason: CancelReason }
  /** The client of the current turn has disconnected. */
  | { type: 'client.gone' }
  /** A retry of the client reads the stream of the current turn again. */
  | { type: 'client.back' }
  // From the socket of that generation.
  /** The connection is open. */
  | { type: 'socket.opened'; generation: number }
  /** The dial failed; another attempt may succeed. */
  | { type: 'socket.failed'; generation: number }
  /** The dial failed for good: the turn's ending holds the answer or the error. */
  | { type: 'socket.refused'; generation: number }
  /** The connection ended. `resendable`: the turn on the wire, if any, had no effect so far and may be sent again. */
  | { type: 'socket.lost'; generation: number; resendable: boolean }
  /** The context that a new connection needs cannot be rebuilt. */
  | { type: 'history.missing'; generation: number }
  /** The frame was not handed to the socket: the lease has lapsed, or the socket cannot carry it. */
  | { type: 'frame.not_sent'; cause: 'lease' | 'socket' }
  // From the upstream's frames.
  /** The upstream has begun to answer the turn. */
  | { type: 'upstream.progress' }
  /** The upstream refused the anchor before it began, and the whole context is ready to be sent. */
  | { type: 'upstream.anchor_refused' }
  /** The upstream has ended the turn. `keepSocket`: the connection can carry another one. */
  | { type: 'upstream.ended'; keepSocket: boolean }
  // The store's verdicts on commits.
  /** The start is stored. */
  | { type: 'store.started'; socketOpen: boolean; leaseValid: boolean }
  /** The new session was not stored: another one has its key, or this worker may not create it. */
  | { type: 'store.not_created' }
  /** The head is not the one that the turn continues. */
  | { type: 'store.head_moved' }
  /** Another turn of the session is active. */
  | { type: 'store.busy' }
  /** The orphaned turn is settled. */
  | { type: 'store.cleared' }
  /** Another worker owns the session, or the turn has ended already. */
  | { type: 'store.fenced' }
  /** The turn's end is stored. */
  | { type: 'store.settled'; socketOpen: boolean }
  /** The store cannot store this call. `rowExists`: the session itself is unchanged. */
  | { type: 'store.rejected'; rowExists: boolean }
  // Deadlines that the states declare.
  /** No connection was opened in time. */
  | { type: 'deadline.connect' }
  /** The pause between two dials is over. */
  | { type: 'deadline.redial' }
  /** The store has not answered the start in time. */
  | { type: 'deadline.start_wait' }
  /** The store has not answered the settle in time. */
  | { type: 'deadline.settle_wait' }
  /** The upstream has not begun to answer in time. */
  | { type: 'deadline.first_event' }
  /** The upstream has been silent for too long during an answer. */
  | { type: 'deadline.silence' }
  /** The turn has taken its maximum time. */
  | { type: 'deadline.turn_budget' }
  /** The client has not come back in time. */
  | { type: 'deadline.grace' }
  /** The socket has been idle for its maximum time. */
  | { type: 'deadline.idle' }
  /** The socket has reached its maximum age. */
  | { type: 'deadline.age' }
  // From this process, its operator and the cluster.
  /**
   * An effect, or a handler of incoming data, has thrown; the client has been answered. While a commit is unanswered
   * this event waits like any other, but is delivered first.
   */
  | { type: 'effect.failed' }
  /** The session is to be released: by an operator, by eviction, or because another worker has claimed it. */
  | { type: 'operator.release' }
  /** An operator has closed the session. */
  | { type: 'operator.close' }
  /** This worker is draining. */
  | { type: 'worker.draining' }
  /** This worker was declared dead. */
  | { type: 'worker.dead' }
  /** A worker has claimed the session; applied to the stored snapshot before an actor exists. */
  | { type: 'session.claimed' };

const machineSetup = setup({
  types: {
    context: {} as SessionContext,
    events: {} as SessionEvent,
    input: {} as Partial<SessionContext> | undefined,
  },
  actions: {
    /** Opens a socket of the current generation and loads the data that a full resend would need. */
    dial: () => {},
    /** Closes the socket and forgets its anchor. Late events of the socket are ignored. */
    closeSocket: () => {},
    /** Commits the session, its keys and its first start. */
    commitCreate: () => {},
    /** Commits the start of the current turn. */
    commitStart: () => {},
    /** Settles as lost an active turn of this epoch that no actor of this worker runs. */
    commitOrphan: () => {},
    /** Commits the end of the current turn. */
    commitSettle: () => {},
    /** Settles the turn's end without its content: the second form of settle. */
    commitBareSettle: () => {},
    /** Sends the turn's frame. */
    sendCreate: () => {},
    /** Sends the second create, with the whole context and without an anchor. Permitted once per turn. */
    sendFull: () => {},
    /** Records how the active turn ended. The client gets its answer with `deliverTerminal`. */
    endTurn: (_, _params: { end: ForcedEnd; fault: SessionFault }) => {},
    /** Gives the client its terminal event, or the error that takes its place. */
    deliverTerminal: () => {},
    /** Answers the current turn, which was never sent upstream, with an error. */
    failTurn: (_, _params: { fault: SessionFault }) => {},
    /** Gives the client the answer with which the upstream refused the connection. */
    relayRefusal: () => {},
    /** Returns the current turn to the resolver. */
    reresolve: () => {},
    /** Returns every waiting request to the resolver. */
    handBack: () => {},
    /** Releases ownership in the background. */
    release: () => {},
    /** Admits the next waiting request, or reacts to a drain of the worker. */
    admitNext: () => {},
    /** Records in the background that the session is closed, and deletes its keys. */
    recordClose: () => {},
    /** Makes the session record a close instead of a release once the turn is settled. */
    closeWhenSettled: () => {},
    /** Reports that neither form of the turn's end could be recorded: the turn is left to the orphan rule. */
    reportUnsettled: () => {},
    // Counters of the context.
    countDial: assign({ generation: ({ context }) => context.generation + 1 }),
    countCreate: assign({ creates: ({ context }) => context.creates + 1 }),
    uncountCreate: assign({ creates: ({ context }) => Math.max(0, context.creates - 1) }),
    countTurn: assign({ turns: ({ context }) => context.turns + 1, creates: 0 }),
    countTakeover: assign({ takeovers: ({ context }) => context.takeovers + 1, creates: 0 }),
  },
  guards: {
    /** True if the event belongs to the session's current socket, or to the one that is being opened. */
    isCurrentSocket: ({ context, event }) => 'generation' in event && event.generation === context.generation,
    /** True if the socket is open and the worker may still send under its lease. */
    maySend: ({ event }) => event.type === 'store.started' && event.socketOpen && event.leaseValid,
    /** True if the turn is committed and the worker may send, but there is no socket. */
    needsSocket: ({ event }) => event.type === 'store.started' && !event.socketOpen && event.leaseValid,
    /**
     * True if the turn may be resent: only `response.created` and telemetry have arrived, no output was shown, no other
     * rule forbids it, and this is the second create.
     */
    mayResend: ({ context, event }) =>
      event.type === 'socket.lost' &&
      event.generation === context.generation &&
      event.resendable &&
      context.creates < 2,
    /** True if the create was refused because of its anchor and the second create has not been used. */
    maySendFull: ({ context }) => context.creates < 2,
    /** True if the upstream ended the turn in a way that leaves the socket usable. */
    keepsSocket: ({ event }) => event.type === 'upstream.ended' && event.keepSocket,
    /** True if the socket can carry the next turn after the settle. */
    hasSocket: ({ event }) => event.type === 'store.settled' && event.socketOpen,
    /** True if the session has a row; a rejected start leaves that row unchanged. */
    hasRow: ({ event }) => event.type === 'store.rejected' && event.rowExists,
    /** True if the frame was not handed over because the lease had lapsed, as opposed to a closed socket. */
    isLeaseLapse: ({ event }) => event.type === 'frame.not_sent' && event.cause === 'lease',
  },
});

const lost = { end: 'lost', fault: 'bridge_upstream_lost' } as const;
const unreachable = { end: 'lost', fault: 'bridge_upstream_unreachable' } as const;
const cancelled = { end: 'cancelled', fault: 'bridge_turn_cancelled' } as const;
const broken = { end: 'failed', fault: 'bridge_internal' } as const;
const closedByOperator = { end: 'cancelled', fault: 'bridge_session_closed' } as const;

/** The states in which a socket is being opened: attempts with pauses between them, until the deadline `connect`. */
const dialStates = {
  dialing: {
    description: 'A handshake is in progress.',
    entry: ['countDial', 'dial'],
    on: {
      'socket.failed': {
        guard: 'isCurrentSocket',
        target: 'pausing',
        description: 'Connection reset, timeout or server error: try again until the deadline.',
      },
    },
  },
  pausing: {
    description: 'A short pause before the next attempt.',
    meta: { deadlines: [{ name: 'redial', event: 'deadline.redial' }] },
    on: { 'deadline.redial': { target: 'dialing', description: 'Try again.' } },
  },
} as const;

/** The ways on from a stored start. */
const started = [
  {
    guard: 'maySend',
    target: '#session.live.streaming',
    actions: ['countCreate', 'sendCreate'],
    description: 'The start is stored: send the frame.',
  },
  {
    guard: 'needsSocket',
    target: '#session.reconnecting.resending',
    description: 'The start is stored, but the socket was lost in the meantime.',
  },
  {
    target: '#session.live.settling',
    actions: { type: 'endTurn', params: { end: 'cancelled', fault: 'bridge_lease_lapsed' } },
    description: 'The start is stored, but the lease has lapsed: the frame must not be sent.',
  },
] as const;

/**
 * Returns the states of one settle, shared by all places where an active turn ends.
 *
 * @param afterwards state after a settle that leaves an open socket
 */
const settling = (afterwards: '#session.live.idle' | '#session.stale') => ({
  initial: 'asking' as const,
  entry: 'commitSettle' as const,
  exit: 'countTurn' as const,
  states: {
    asking: {
      description: 'The end of the turn is being stored; the client is waiting for its terminal event.',
      meta: { deadlines: [{ name: 'settleWait', event: 'deadline.settle_wait' }] },
      on: {
        'deadline.settle_wait': {
          target: 'overdue' as const,
          actions: 'deliverTerminal' as const,
          description:
            'The store is slow: the client gets its terminal event now, the settle continues in the background.',
        },
        'store.settled': [
          {
            guard: 'hasSocket' as const,
            target: afterwards,
            actions: 'deliverTerminal' as const,
            description: 'The turn is settled, and the socket can carry the next one.',
          },
          {
            target: '#session.stale' as const,
            actions: 'deliverTerminal' as const,
            description: 'The turn is settled, but its socket is closed or must not be reused.',
          },
        ],
        'store.fenced': {
          target: '#session.stale' as const,
          actions: 'deliverTerminal' as const,
          description: 'Another worker owns the session: the turn is stored as a branch.',
        },
        'store.rejected': {
          target: 'bare' as const,
          actions: ['deliverTerminal', 'commitBareSettle'] as const,
          description: 'The store rejected the content: settle the turn without it.',
        },
      },
    },
    overdue: {
      description: 'The client has its terminal event; the unanswered settle is repeated.',
      on: {
        'store.settled': [
          {
            guard: 'hasSocket' as const,
            target: afterwards,
            description: 'The settle was answered late; the socket can carry the next turn.',
          },
          { target: '#session.stale' as const, description: 'The settle was answered late; the socket is closed.' },
        ],
        'store.fenced': {
          target: '#session.stale' as const,
          description: 'Another worker owns the session: the turn is stored as a branch.',
        },
        'store.rejected': {
          target: 'bare' as const,
          actions: 'commitBareSettle' as const,
          description: 'The store rejected the content: settle the turn without it.',
        },
      },
    },
    bare: {
      description: 'The turn is being settled without its content (state and usage only), the last form of settle.',
      on: {
        'store.settled': [
          {
            guard: 'hasSocket' as const,
            target: afterwards,
            description: 'The end is stored without content; the socket can carry the next turn.',
          },
          {
            target: '#session.stale' as const,
            description: 'The end is stored without content; the socket is closed.',
          },
        ],
        'store.fenced': {
          target: '#session.stale' as const,
          description: 'Another worker owns the session: the turn is stored as a branch.',
        },
        'store.rejected': {
          target: '#session.stale' as const,
          actions: 'reportUnsettled' as const,
          description: 'The store rejected this as well: the turn stays active until it is settled as an orphan.',
        },
      },
    },
  },
});

/** The session machine. */
export const sessionMachine = machineSetup.createMachine({
  id: 'session',
  description: 'One durable conversation over one persistent upstream connection.',
  context: ({ input }) => ({ generation: 0, creates: 0, turns: 0, takeovers: 0, ...input }),
  initial: 'connecting',
  on: {
    'session.claimed': {
      target: '.stale',
      actions: 'countTakeover',
      description: 'A worker has claimed the session under a new epoch. It has no socket here yet.',
    },
  },
  states: {
    connecting: {
      description: 'The first socket is being opened for a waiting turn. The session has no row yet.',
      meta: { deadlines: [{ name: 'connect', event: 'deadline.connect' }] },
      initial: 'dialing',
      on: {
        'socket.opened': {
          guard: 'isCurrentSocket',
          target: 'live.committing',
          actions: 'commitCreate',
          description: 'The handshake succeeded: create the session, its keys and the first start in one store call.',
        },
        'socket.refused': {
          guard: 'isCurrentSocket',
          target: 'closed',
          actions: 'relayRefusal',
          description: 'The provider refused and its answer is relayed, or it certainly cannot be reached.',
        },
        'deadline.connect': {
          target: 'closed',
          actions: { type: 'failTurn', params: { fault: 'bridge_upstream_unreachable' } },
          description: 'No socket was opened in time.',
        },
        'client.gone': {
          target: 'closed',
          actions: { type: 'failTurn', params: { fault: 'bridge_turn_cancelled' } },
          description: 'The client has disconnected.',
        },
        'turn.cancelled': {
          target: 'closed',
          actions: { type: 'failTurn', params: { fault: 'bridge_turn_cancelled' } },
          description: 'The only request was cancelled before its turn started.',
        },
        'effect.failed': {
          target: 'closed',
          actions: { type: 'failTurn', params: { fault: 'bridge_internal' } },
          description: 'An internal error occurred before the turn started.',
        },
        'operator.close': {
          target: 'closed',
          actions: 'reresolve',
          description: 'An operator closed the session before it was created.',
        },
        'worker.dead': {
          target: 'closed',
          actions: 'reresolve',
          description: 'This worker was declared dead and must not create sessions under its old id.',
        },
      },
      states: dialStates,
    },

    live: {
      description: 'The session has an open socket.',
      initial: 'idle',
      states: {
        idle: {
          description: 'The socket is open; no turn is running.',
          entry: 'admitNext',
          meta: {
            deadlines: [
              { name: 'idle', event: 'deadline.idle' },
              { name: 'age', event: 'deadline.age' },
            ],
          },
          on: {
            'turn.wanted': {
              target: 'committing',
              actions: 'commitStart',
              description: 'A turn is waiting: commit its start.',
            },
            'socket.lost': {
              guard: 'isCurrentSocket',
              target: '#session.stale',
              description: 'The upstream closed an idle socket.',
            },
            'effect.failed': {
              target: '#session.stale',
              description: 'An internal error occurred with the previous or the next turn: the socket is not reused.',
            },
            'deadline.idle': { target: '#session.stale', description: 'The socket was idle for its maximum time.' },
            'deadline.age': {
              target: '#session.stale',
              description: "The socket is closed before it reaches the provider's age limit.",
            },
            'operator.release': {
              target: '#session.stale',
              description: 'The session was released by an operator or evicted.',
            },
            'operator.close': {
              target: '#session.closed',
              actions: 'recordClose',
              description: 'An operator closed the session.',
            },
            'worker.draining': {
              target: '#session.stale',
              description: 'The worker is draining and releases its sessions.',
            },
            'worker.dead': {
              target: '#session.stale',
              description: 'This worker was declared dead and owns no sessions.',
            },
          },
        },

        committing: {
          description: 'The fenced start is being stored; no frame is sent before the store answers.',
          initial: 'asking',
          on: {
            'store.not_created': {
              target: '#session.closed',
              actions: 'reresolve',
              description:
                'Another request created the session first, or this worker was declared dead: nothing was stored.',
            },
            'store.fenced': {
              target: '#session.stale',
              actions: 'reresolve',
              description: 'Another worker owns the session, or the turn has ended already.',
            },
            'store.rejected': [
              {
                guard: 'hasRow',
                target: 'idle',
                actions: { type: 'failTurn', params: { fault: 'bridge_store_rejected' } },
                description: 'The store rejected this turn; the session is unchanged.',
              },
              {
                target: '#session.closed',
                actions: { type: 'failTurn', params: { fault: 'bridge_store_rejected' } },
                description: 'The store rejected the session: it was not created.',
              },
            ],
          },
          states: {
            asking: {
              description: "Waiting for the store's answer to the start.",
              meta: { deadlines: [{ name: 'startWait', event: 'deadline.start_wait' }] },
              on: {
                'store.started': started,
                'store.head_moved': {
                  target: '#session.live.idle',
                  actions: 'reresolve',
                  description: 'The head has moved since the request was placed; the socket is still usable.',
                },
                'store.busy': {
                  target: 'clearing',
                  actions: 'commitOrphan',
                  description: 'A turn of this epoch is active that no actor of this worker runs.',
                },
                'deadline.start_wait': {
                  target: 'overdue',
                  actions: { type: 'failTurn', params: { fault: 'bridge_store_unavailable' } },
                  description: 'The store does not answer: the client gets an error, the start stays unanswered.',
                },
              },
            },
            clearing: {
              description: 'The orphaned turn is being settled as lost.',
              meta: { deadlines: [{ name: 'startWait', event: 'deadline.start_wait' }] },
              on: {
                'store.cleared': {
                  target: 'retrying',
                  actions: 'commitStart',
                  description: 'The orphan is settled: repeat the start.',
                },
                'deadline.start_wait': {
                  target: 'overdue',
                  actions: { type: 'failTurn', params: { fault: 'bridge_store_unavailable' } },
                  description: 'The store does not answer: the client gets an error.',
                },
              },
            },
            retrying: {
              description: "Waiting for the store's answer to the second start.",
              meta: { deadlines: [{ name: 'startWait', event: 'deadline.start_wait' }] },
              on: {
                'store.started': started,
                'store.head_moved': {
                  target: '#session.live.idle',
                  actions: 'reresolve',
                  description: 'The head has moved since the request was placed.',
                },
                'store.busy': {
                  target: '#session.stale',
                  actions: 'reresolve',
                  description: 'A turn is still active: the next claim ends it.',
                },
                'deadline.start_wait': {
                  target: 'overdue',
                  actions: { type: 'failTurn', params: { fault: 'bridge_store_unavailable' } },
                  description: 'The store does not answer: the client gets an error.',
                },
              },
            },
            overdue: {
              description: 'The client has its error; no frame is sent, whatever the store answers.',
              on: {
                'store.started': {
                  target: '#session.live.settling',
                  actions: { type: 'endTurn', params: { end: 'cancelled', fault: 'bridge_store_unavailable' } },
                  description: 'The start was stored after all: end the turn without sending it.',
                },
                'store.head_moved': { target: '#session.live.idle', description: 'No turn was started.' },
                'store.busy': {
                  target: '#session.stale',
                  description: 'A turn is active that this worker does not run: the next claim ends it.',
                },
                'store.cleared': { target: '#session.live.idle', description: 'No turn was started.' },
              },
            },
          },
        },

        streaming: {
          description: 'A turn is on the wire.',
          type: 'parallel',
          meta: { deadlines: [{ name: 'turnBudget', event: 'deadline.turn_budget' }] },
          on: {
            'upstream.ended': [
              {
                guard: 'keepsSocket',
                target: 'settling',
                description: 'The upstream ended the turn, and its socket can carry another one.',
              },
              {
                target: 'settling',
                actions: 'closeSocket',
                description: 'The upstream ended the turn; the socket is closed.',
              },
            ],
            'socket.lost': [
              {
                guard: 'mayResend',
                target: '#session.reconnecting.resending',
                description:
                  'The socket was lost before any output was shown: resend the turn once, unnoticed by the client.',
              },
              {
                guard: 'isCurrentSocket',
                target: 'settling',
                actions: { type: 'endTurn', params: lost },
                description: 'The socket was lost and the turn must not be resent: it ends as lost.',
              },
            ],
            'frame.not_sent': [
              {
                guard: 'isLeaseLapse',
                target: 'settling',
                actions: { type: 'endTurn', params: { end: 'cancelled', fault: 'bridge_lease_lapsed' } },
                description: "The lease lapsed between the store's answer and the send.",
              },
              {
                target: '#session.reconnecting.resending',
                actions: 'uncountCreate',
                description: 'The socket closed before it took the frame: this does not count as a create.',
              },
            ],
            'turn.cancelled': {
              target: 'settling',
              actions: [{ type: 'endTurn', params: cancelled }, 'closeSocket'],
              description: 'The turn was cancelled: the socket is closed and its late frames are ignored.',
            },
            'effect.failed': {
              target: 'settling',
              actions: [{ type: 'endTurn', params: broken }, 'closeSocket'],
              description: 'An internal error occurred: the turn is ended and its socket is closed.',
            },
            'deadline.turn_budget': {
              target: 'settling',
              actions: [{ type: 'endTurn', params: { end: 'failed', fault: 'bridge_turn_timeout' } }, 'closeSocket'],
              description: 'The turn exceeded its time budget.',
            },
            'operator.close': {
              target: 'settling',
              actions: [{ type: 'endTurn', params: closedByOperator }, 'closeSocket', 'closeWhenSettled'],
              description: 'An operator closed the session: the turn is ended first.',
            },
          },
          states: {
            flow: {
              description: 'Progress of the upstream.',
              initial: 'waiting',
              states: {
                waiting: {
                  description: 'The frame was sent; only telemetry has arrived.',
                  meta: { deadlines: [{ name: 'firstEvent', event: 'deadline.first_event' }] },
                  on: {
                    'upstream.progress': { target: 'flowing', description: 'The upstream has begun to answer.' },
                    'upstream.anchor_refused': {
                      guard: 'maySendFull',
                      target: 'waiting',
                      reenter: true,
                      actions: ['countCreate', 'sendFull'],
                      description:
                        'The upstream refused the anchor: send the whole context once, unnoticed by the client.',
                    },
                    'deadline.first_event': {
                      target: '#session.live.settling',
                      actions: [
                        { type: 'endTurn', params: { end: 'failed', fault: 'bridge_first_event_timeout' } },
                        'closeSocket',
                      ],
                      description: 'The upstream did not begin to answer in time.',
                    },
                  },
                },
                flowing: {
                  description: 'Events are arriving.',
                  meta: { deadlines: [{ name: 'silence', event: 'deadline.silence' }] },
                  on: {
                    'deadline.silence': {
                      target: '#session.live.settling',
                      actions: [
                        { type: 'endTurn', params: { end: 'failed', fault: 'bridge_stream_silent' } },
                        'closeSocket',
                      ],
                      description: 'No event arrived within the silence deadline.',
                    },
                  },
                },
              },
            },
            client: {
              description: "State of the client's connection.",
              initial: 'attached',
              states: {
                attached: {
                  description: 'A client reads the stream.',
                  on: { 'client.gone': { target: 'detached', description: 'The client disconnected.' } },
                },
                detached: {
                  description: 'No client reads the stream; the client may reconnect within the grace period.',
                  meta: { deadlines: [{ name: 'grace', event: 'deadline.grace' }] },
                  on: {
                    'client.back': { target: 'attached', description: 'A retry was attached to the stream.' },
                    'deadline.grace': {
                      target: '#session.live.settling',
                      actions: [{ type: 'endTurn', params: cancelled }, 'closeSocket'],
                      description: 'The client did not reconnect within the grace period.',
                    },
                  },
                },
              },
            },
          },
        },

        settling: {
          description: 'The end of the turn is being stored. An active turn always ends with a settle.',
          ...settling('#session.live.idle'),
        },
      },
    },

    reconnecting: {
      description: 'A new socket is being opened for an existing session.',
      initial: 'waiting',
      states: {
        waiting: {
          description: 'A request is waiting for the socket; its start is not stored yet.',
          meta: { deadlines: [{ name: 'connect', event: 'deadline.connect' }] },
          initial: 'dialing',
          on: {
            'socket.opened': {
              guard: 'isCurrentSocket',
              target: '#session.live.committing',
              actions: 'commitStart',
              description: 'The socket is open: commit the start.',
            },
            'socket.refused': {
              guard: 'isCurrentSocket',
              target: '#session.stale',
              actions: 'relayRefusal',
              description: 'The provider refused and its answer is relayed, or it certainly cannot be reached.',
            },
            'history.missing': {
              guard: 'isCurrentSocket',
              target: '#session.stale',
              actions: { type: 'failTurn', params: { fault: 'bridge_session_expired' } },
              description: 'The context cannot be rebuilt exactly: the request fails.',
            },
            'deadline.connect': {
              target: '#session.stale',
              actions: { type: 'failTurn', params: { fault: 'bridge_upstream_unreachable' } },
              description: 'No socket was opened in time.',
            },
            'client.gone': {
              target: '#session.stale',
              actions: { type: 'failTurn', params: { fault: 'bridge_turn_cancelled' } },
              description: 'The client has disconnected.',
            },
            'turn.cancelled': {
              target: '#session.stale',
              actions: { type: 'failTurn', params: { fault: 'bridge_turn_cancelled' } },
              description: 'The request was cancelled before its turn started.',
            },
            'effect.failed': {
              target: '#session.stale',
              actions: { type: 'failTurn', params: { fault: 'bridge_internal' } },
              description: 'An internal error occurred before the turn started.',
            },
            'operator.close': {
              target: '#session.closed',
              actions: ['recordClose', 'reresolve'],
              description: 'An operator closed the session.',
            },
            'worker.dead': {
              target: '#session.stale',
              actions: 'reresolve',
              description: 'This worker was declared dead and owns no sessions.',
            },
          },
          states: dialStates,
        },

        resending: {
          description:
            'A started turn lost its socket before any output was shown; a new socket is being opened for it.',
          meta: { deadlines: [{ name: 'connect', event: 'deadline.connect' }] },
          initial: 'dialing',
          on: {
            'socket.opened': {
              guard: 'isCurrentSocket',
              target: '#session.live.streaming',
              actions: ['countCreate', 'sendCreate'],
              description: 'The start is stored already: send the frame.',
            },
            'socket.refused': {
              guard: 'isCurrentSocket',
              target: 'settling',
              actions: ['relayRefusal', { type: 'endTurn', params: unreachable }],
              description: 'The provider refused and its answer is relayed, or it certainly cannot be reached.',
            },
            'history.missing': {
              guard: 'isCurrentSocket',
              target: 'settling',
              actions: { type: 'endTurn', params: { end: 'lost', fault: 'bridge_session_expired' } },
              description: 'The context cannot be rebuilt exactly: the request fails.',
            },
            'deadline.connect': {
              target: 'settling',
              actions: { type: 'endTurn', params: unreachable },
              description: 'No socket was opened in time.',
            },
            'client.gone': {
              target: 'settling',
              actions: { type: 'endTurn', params: cancelled },
              description: 'The client has disconnected.',
            },
            'turn.cancelled': {
              target: 'settling',
              actions: { type: 'endTurn', params: cancelled },
              description: 'The turn was cancelled.',
            },
            'effect.failed': {
              target: 'settling',
              actions: { type: 'endTurn', params: broken },
              description: 'An internal error occurred: the turn is ended without being sent.',
            },
            'operator.close': {
              target: 'settling',
              actions: [{ type: 'endTurn', params: closedByOperator }, 'closeWhenSettled'],
              description: 'An operator closed the session: the turn is ended first.',
            },
            'worker.dead': {
              target: 'settling',
              actions: { type: 'endTurn', params: lost },
              description: 'This worker was declared dead and must not send the turn.',
            },
          },
          states: dialStates,
        },

        settling: {
          description: 'The started turn could not be resent; its end is being stored.',
          ...settling('#session.stale'),
        },
      },
    },

    stale: {
      description:
        'The session has no socket: it was released, or has just been claimed. All of its state is in the database.',
      entry: ['closeSocket', 'release', 'handBack'],
      on: {
        'turn.wanted': {
          target: 'reconnecting',
          description: 'The claim succeeded and a request is waiting: open a socket.',
        },
        'operator.close': { target: 'closed', actions: 'recordClose', description: 'An operator closed the session.' },
      },
    },

    closed: {
      description: 'Terminal state. The row, if there is one, may be purged.',
      type: 'final',
      entry: ['closeSocket', 'handBack'],
    },
  },
});

/** Type of {@link sessionMachine}. */
export type SessionMachine = typeof sessionMachine;
