import { assign, setup } from 'xstate';

/**
 * The session machine: one conversation lane over one persistent upstream connection.
 *
 * It is pure. Actions are names; the durable runtime records them as effects and performs them after the step. The
 * store answers `commit*` effects with a `store.*` event. Until then no other event is delivered, except the deadlines
 * of the current state. Owner, epoch, active turn and head are columns, never context: the snapshot holds only what the
 * next worker may need.
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

export type CancelReason = 'superseded' | 'drain' | 'hold_expired';

export interface SessionContext {
  /** Number of dials. Events of a socket carry the generation of its dial. */
  generation: number;
  /** Number of `response.create` frames handed to a socket for the current turn: at most two. */
  creates: number;
  /** Number of turns settled in this lane, over all its workers. */
  turns: number;
  /** Number of takeovers of the lane. */
  takeovers: number;
}

export type SessionEvent =
  | { type: 'turn.wanted' }
  | { type: 'turn.cancelled'; reason: CancelReason }
  | { type: 'client.gone' }
  | { type: 'client.back' }
  | { type: 'socket.opened'; generation: number }
  | { type: 'socket.failed'; generation: number }
  | { type: 'socket.refused'; generation: number }
  | { type: 'socket.lost'; generation: number; resendable: boolean }
  | { type: 'history.missing'; generation: number }
  | { type: 'frame.not_sent'; cause: 'lease' | 'socket' }
  | { type: 'upstream.progress' }
  | { type: 'upstream.anchor_refused' }
  | { type: 'upstream.ended'; keepSocket: boolean }
  | { type: 'store.started'; socketOpen: boolean; leaseValid: boolean }
  | { type: 'store.not_created' }
  | { type: 'store.head_moved' }
  | { type: 'store.busy' }
  | { type: 'store.cleared' }
  | { type: 'store.fenced' }
  | { type: 'store.settled'; socketOpen: boolean }
  | { type: 'store.rejected'; rowExists: boolean }
  | { type: 'deadline.connect' }
  | { type: 'deadline.redial' }
  | { type: 'deadline.start_wait' }
  | { type: 'deadline.settle_wait' }
  | { type: 'deadline.first_event' }
  | { type: 'deadline.silence' }
  | { type: 'deadline.turn_budget' }
  | { type: 'deadline.grace' }
  | { type: 'deadline.idle' }
  | { type: 'deadline.age' }
  /**
   * An effect, or a handler of incoming data, has thrown; the client has been answered. While a commit is unanswered
   * this event waits like any other, but is delivered first.
   */
  | { type: 'effect.failed' }
  | { type: 'operator.release' }
  | { type: 'operator.close' }
  | { type: 'worker.draining' }
  | { type: 'worker.dead' }
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
    commitCreate: () => {},
    commitStart: () => {},
    /** Settles as lost an active turn of this epoch that no actor of this worker runs. */
    commitOrphan: () => {},
    commitSettle: () => {},
    /** Settles the turn's end without its content: the second form of settle. */
    commitBareSettle: () => {},
    sendCreate: () => {},
    /** Sends the second create, with the whole context and without an anchor. Permitted once per turn. */
    sendFull: () => {},
    /** Records how the active turn ended. The client gets its answer with `deliverTerminal`. */
    endTurn: (_, _params: { end: ForcedEnd; fault: SessionFault }) => {},
    deliverTerminal: () => {},
    /** Answers the current turn, which was never sent upstream, with an error. */
    failTurn: (_, _params: { fault: SessionFault }) => {},
    relayRefusal: () => {},
    /** Returns the current turn to the resolver. */
    reresolve: () => {},
    /** Returns every waiting request to the resolver. */
    handBack: () => {},
    /** Releases ownership in the background. */
    release: () => {},
    /** Admits the next waiting request into the free lane, or reacts to a drain of the worker. */
    admitNext: () => {},
    /** Records in the background that the session is closed, and deletes its keys. */
    recordClose: () => {},
    /** Makes the session record a close instead of a release once the turn is settled. */
    closeWhenSettled: () => {},
    /** Reports that neither form of the turn's end could be recorded: the turn is left to the orphan rule. */
    reportUnsettled: () => {},
    countDial: assign({ generation: ({ context }) => context.generation + 1 }),
    countCreate: assign({ creates: ({ context }) => context.creates + 1 }),
    uncountCreate: assign({ creates: ({ context }) => Math.max(0, context.creates - 1) }),
    forgetCreates: assign({ creates: 0 }),
    countTurn: assign({ turns: ({ context }) => context.turns + 1 }),
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

/**
 * Returns the states of one settle, shared by all places where an active turn ends.
 *
 * @param afterwards state after a settle that leaves an open socket
 */
const settling = (afterwards: '#session.live.idle' | '#session.stale') => ({
  initial: 'asking' as const,
  entry: 'commitSettle' as const,
  exit: ['forgetCreates', 'countTurn'] as const,
  states: {
    asking: {
      description: "The turn's end is on its way to the store; the client waits for its terminal.",
      meta: { deadlines: [{ name: 'settleWait', event: 'deadline.settle_wait' }] },
      on: {
        'deadline.settle_wait': {
          target: 'overdue' as const,
          actions: 'deliverTerminal' as const,
          description: 'The client gets its terminal now; the settle goes on in the background.',
        },
        'store.settled': [
          {
            guard: 'hasSocket' as const,
            target: afterwards,
            actions: 'deliverTerminal' as const,
            description: 'Settled, and the socket can carry the next turn.',
          },
          {
            target: '#session.stale' as const,
            actions: 'deliverTerminal' as const,
            description: 'Settled, but the socket is gone or retired.',
          },
        ],
        'store.fenced': {
          target: '#session.stale' as const,
          actions: 'deliverTerminal' as const,
          description: 'Another worker owns the session: the turn stays as a branch.',
        },
        'store.rejected': {
          target: 'bare' as const,
          actions: ['deliverTerminal', 'commitBareSettle'] as const,
          description: 'The store cannot keep the content: settle the bare end.',
        },
      },
    },
    overdue: {
      description: 'The client has its terminal; the store has not answered yet and is asked again.',
      on: {
        'store.settled': [
          {
            guard: 'hasSocket' as const,
            target: afterwards,
            description: 'Settled late, and the socket can carry the next turn.',
          },
          { target: '#session.stale' as const, description: 'Settled late; the socket is gone.' },
        ],
        'store.fenced': { target: '#session.stale' as const, description: 'Settled as a branch.' },
        'store.rejected': {
          target: 'bare' as const,
          actions: 'commitBareSettle' as const,
          description: 'The store cannot keep the content: settle the bare end.',
        },
      },
    },
    bare: {
      description: 'Second and last form of settle: state and usage, no content.',
      on: {
        'store.settled': [
          { guard: 'hasSocket' as const, target: afterwards, description: 'The bare end is recorded.' },
          { target: '#session.stale' as const, description: 'The bare end is recorded; the socket is gone.' },
        ],
        'store.fenced': { target: '#session.stale' as const, description: 'Recorded as a branch.' },
        'store.rejected': {
          target: '#session.stale' as const,
          actions: 'reportUnsettled' as const,
          description: 'Nothing can be recorded: the turn is left to the orphan rule.',
        },
      },
    },
  },
});

/** The session machine. */
export const sessionMachine = machineSetup.createMachine({
  id: 'session',
  description: 'One durable conversation lane over one kept upstream connection.',
  context: ({ input }) => ({ generation: 0, creates: 0, turns: 0, takeovers: 0, ...input }),
  initial: 'connecting',
  on: {
    'session.claimed': {
      target: '.stale',
      actions: 'countTakeover',
      description: 'A worker took the lane over under a new epoch. It has no socket here: it must earn one.',
    },
  },
  states: {
    connecting: {
      description: 'The first socket is being opened for a waiting turn. No row exists yet.',
      meta: { deadlines: [{ name: 'connect', event: 'deadline.connect' }] },
      initial: 'dialing',
      on: {
        'socket.opened': {
          guard: 'isCurrentSocket',
          target: 'live.committing',
          actions: 'commitCreate',
          description: 'The handshake succeeded: create session, keys and first start in one call.',
        },
        'socket.refused': {
          guard: 'isCurrentSocket',
          target: 'closed',
          actions: 'relayRefusal',
          description: "The provider's refusal is the answer, or it certainly cannot be reached.",
        },
        'deadline.connect': {
          target: 'closed',
          actions: { type: 'failTurn', params: { fault: 'bridge_upstream_unreachable' } },
          description: 'No socket in time.',
        },
        'client.gone': {
          target: 'closed',
          actions: { type: 'failTurn', params: { fault: 'bridge_turn_cancelled' } },
          description: 'Nobody waits any more.',
        },
        'turn.cancelled': {
          target: 'closed',
          actions: { type: 'failTurn', params: { fault: 'bridge_turn_cancelled' } },
          description: 'The only request was cancelled before anything began.',
        },
        'effect.failed': {
          target: 'closed',
          actions: { type: 'failTurn', params: { fault: 'bridge_internal' } },
          description: 'The bridge failed before anything began.',
        },
        'operator.close': { target: 'closed', actions: 'reresolve', description: 'Closed before it began.' },
        'worker.dead': { target: 'closed', actions: 'reresolve', description: 'Nothing may be created under this id.' },
      },
      states: {
        dialing: {
          description: 'A handshake is under way.',
          entry: ['countDial', 'dial'],
          on: {
            'socket.failed': {
              guard: 'isCurrentSocket',
              target: 'pausing',
              description: 'Reset, timeout or a server error: try again until the deadline.',
            },
          },
        },
        pausing: {
          description: 'A short pause before the next attempt.',
          meta: { deadlines: [{ name: 'redial', event: 'deadline.redial' }] },
          on: { 'deadline.redial': { target: 'dialing', description: 'Try again.' } },
        },
      },
    },

    live: {
      description: 'The session has a socket of its own.',
      initial: 'idle',
      states: {
        idle: {
          description: 'Socket warm, no turn.',
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
              description: 'Ask the store for the right to start.',
            },
            'socket.lost': {
              guard: 'isCurrentSocket',
              target: '#session.stale',
              description: 'The upstream closed an idle socket.',
            },
            'effect.failed': {
              target: '#session.stale',
              description: 'The bridge failed over the turn before, or over the next: nothing here is relied on.',
            },
            'deadline.idle': { target: '#session.stale', description: 'Unused for long enough.' },
            'deadline.age': { target: '#session.stale', description: "Rotated before the provider's own limit." },
            'operator.release': { target: '#session.stale', description: 'Released or evicted.' },
            'operator.close': { target: '#session.closed', actions: 'recordClose', description: 'Closed for good.' },
            'worker.draining': { target: '#session.stale', description: 'The worker gives its sessions back.' },
            'worker.dead': { target: '#session.stale', description: 'This worker owns nothing any more.' },
          },
        },

        committing: {
          description: 'The fenced start is under way: until it is answered no frame leaves.',
          initial: 'asking',
          on: {
            'store.not_created': {
              target: '#session.closed',
              actions: 'reresolve',
              description: 'Another request created the session first, or this worker is dead: nothing was written.',
            },
            'store.fenced': {
              target: '#session.stale',
              actions: 'reresolve',
              description: 'Not the owner any more, or the turn has already ended.',
            },
            'store.rejected': [
              {
                guard: 'hasRow',
                target: 'idle',
                actions: { type: 'failTurn', params: { fault: 'bridge_store_rejected' } },
                description: 'The store refused this turn; the session is as it was.',
              },
              {
                target: '#session.closed',
                actions: { type: 'failTurn', params: { fault: 'bridge_store_rejected' } },
                description: 'The store refused the session: there is none.',
              },
            ],
          },
          states: {
            asking: {
              description: 'Waiting for the verdict on the start.',
              meta: { deadlines: [{ name: 'startWait', event: 'deadline.start_wait' }] },
              on: {
                'store.started': [
                  {
                    guard: 'maySend',
                    target: '#session.live.streaming',
                    actions: ['countCreate', 'sendCreate'],
                    description: 'The turn is ours: only now the frame leaves.',
                  },
                  {
                    guard: 'needsSocket',
                    target: '#session.reconnecting.resending',
                    description: 'The turn is ours, but the socket was lost meanwhile.',
                  },
                  {
                    target: '#session.live.settling',
                    actions: { type: 'endTurn', params: { end: 'cancelled', fault: 'bridge_lease_lapsed' } },
                    description: 'The turn is ours, but the lease lapsed: it may not be sent.',
                  },
                ],
                'store.head_moved': {
                  target: '#session.live.idle',
                  actions: 'reresolve',
                  description: 'The request was placed on an older head; the socket is still good.',
                },
                'store.busy': {
                  target: 'clearing',
                  actions: 'commitOrphan',
                  description: 'A turn of this epoch is active that nobody here runs.',
                },
                'deadline.start_wait': {
                  target: 'overdue',
                  actions: { type: 'failTurn', params: { fault: 'bridge_store_unavailable' } },
                  description: 'The store is silent: the client is told, the question stays open.',
                },
              },
            },
            clearing: {
              description: 'The orphan is being settled as lost.',
              meta: { deadlines: [{ name: 'startWait', event: 'deadline.start_wait' }] },
              on: {
                'store.cleared': { target: 'retrying', actions: 'commitStart', description: 'Ask once more.' },
                'deadline.start_wait': {
                  target: 'overdue',
                  actions: { type: 'failTurn', params: { fault: 'bridge_store_unavailable' } },
                  description: 'The store is silent: the client is told.',
                },
              },
            },
            retrying: {
              description: 'The start is asked a second time.',
              meta: { deadlines: [{ name: 'startWait', event: 'deadline.start_wait' }] },
              on: {
                'store.started': [
                  {
                    guard: 'maySend',
                    target: '#session.live.streaming',
                    actions: ['countCreate', 'sendCreate'],
                    description: 'The turn is ours.',
                  },
                  {
                    guard: 'needsSocket',
                    target: '#session.reconnecting.resending',
                    description: 'The turn is ours, but the socket was lost meanwhile.',
                  },
                  {
                    target: '#session.live.settling',
                    actions: { type: 'endTurn', params: { end: 'cancelled', fault: 'bridge_lease_lapsed' } },
                    description: 'The turn is ours, but may not be sent.',
                  },
                ],
                'store.head_moved': {
                  target: '#session.live.idle',
                  actions: 'reresolve',
                  description: 'The head is another one now.',
                },
                'store.busy': {
                  target: '#session.stale',
                  actions: 'reresolve',
                  description: 'Still busy: a claim will sort it out.',
                },
                'deadline.start_wait': {
                  target: 'overdue',
                  actions: { type: 'failTurn', params: { fault: 'bridge_store_unavailable' } },
                  description: 'The store is silent: the client is told.',
                },
              },
            },
            overdue: {
              description: 'The client was told; whatever the store answers, no frame leaves.',
              on: {
                'store.started': {
                  target: '#session.live.settling',
                  actions: { type: 'endTurn', params: { end: 'cancelled', fault: 'bridge_store_unavailable' } },
                  description: 'Started after all: end it unsent.',
                },
                'store.head_moved': { target: '#session.live.idle', description: 'Nothing was started.' },
                'store.busy': { target: '#session.stale', description: 'A claim will sort it out.' },
                'store.cleared': { target: '#session.live.idle', description: 'Nothing was started.' },
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
                description: 'The upstream said how the turn ended, and its socket can carry another.',
              },
              {
                target: 'settling',
                actions: 'closeSocket',
                description: 'The upstream said how the turn ended; the socket is retired.',
              },
            ],
            'socket.lost': [
              {
                guard: 'mayResend',
                target: '#session.reconnecting.resending',
                description: 'Lost before anything was shown: one resend, unseen by the client.',
              },
              {
                guard: 'isCurrentSocket',
                target: 'settling',
                actions: { type: 'endTurn', params: lost },
                description: 'Lost with the answer under way.',
              },
            ],
            'frame.not_sent': [
              {
                guard: 'isLeaseLapse',
                target: 'settling',
                actions: { type: 'endTurn', params: { end: 'cancelled', fault: 'bridge_lease_lapsed' } },
                description: 'The lease lapsed between the verdict and the send.',
              },
              {
                target: '#session.reconnecting.resending',
                actions: 'uncountCreate',
                description: 'The socket closed before the frame was handed over: that was no create.',
              },
            ],
            'turn.cancelled': {
              target: 'settling',
              actions: [{ type: 'endTurn', params: cancelled }, 'closeSocket'],
              description: 'Cancelled: the socket is retired, its late frames reach nobody.',
            },
            'effect.failed': {
              target: 'settling',
              actions: [{ type: 'endTurn', params: broken }, 'closeSocket'],
              description: 'The bridge failed over the turn: it is ended, and its socket is retired.',
            },
            'deadline.turn_budget': {
              target: 'settling',
              actions: [{ type: 'endTurn', params: { end: 'failed', fault: 'bridge_turn_timeout' } }, 'closeSocket'],
              description: 'The turn used up its budget.',
            },
            'operator.close': {
              target: 'settling',
              actions: [{ type: 'endTurn', params: closedByOperator }, 'closeSocket', 'closeWhenSettled'],
              description: 'Closed by an operator: the turn is ended first.',
            },
          },
          states: {
            flow: {
              description: 'What the upstream does.',
              initial: 'waiting',
              states: {
                waiting: {
                  description: 'Sent; nothing but telemetry came back.',
                  meta: { deadlines: [{ name: 'firstEvent', event: 'deadline.first_event' }] },
                  on: {
                    'upstream.progress': { target: 'flowing', description: 'The upstream answers.' },
                    'upstream.anchor_refused': {
                      guard: 'maySendFull',
                      target: 'waiting',
                      reenter: true,
                      actions: ['countCreate', 'sendFull'],
                      description: 'The anchor was refused and struck off: send the whole context, once, unseen.',
                    },
                    'deadline.first_event': {
                      target: '#session.live.settling',
                      actions: [
                        { type: 'endTurn', params: { end: 'failed', fault: 'bridge_first_event_timeout' } },
                        'closeSocket',
                      ],
                      description: 'The upstream did not begin.',
                    },
                  },
                },
                flowing: {
                  description: 'Events arrive.',
                  meta: { deadlines: [{ name: 'silence', event: 'deadline.silence' }] },
                  on: {
                    'deadline.silence': {
                      target: '#session.live.settling',
                      actions: [
                        { type: 'endTurn', params: { end: 'failed', fault: 'bridge_stream_silent' } },
                        'closeSocket',
                      ],
                      description: 'The upstream fell silent.',
                    },
                  },
                },
              },
            },
            client: {
              description: 'Whether anybody reads.',
              initial: 'attached',
              states: {
                attached: {
                  description: 'A client reads the stream.',
                  on: { 'client.gone': { target: 'detached', description: 'The client dropped its connection.' } },
                },
                detached: {
                  description: 'Nobody reads; for a while the client may come back and take the stream up again.',
                  meta: { deadlines: [{ name: 'grace', event: 'deadline.grace' }] },
                  on: {
                    'client.back': { target: 'attached', description: 'A retry took the stream up again.' },
                    'deadline.grace': {
                      target: '#session.live.settling',
                      actions: [{ type: 'endTurn', params: cancelled }, 'closeSocket'],
                      description: 'Nobody came back.',
                    },
                  },
                },
              },
            },
          },
        },

        settling: {
          description: "The turn's end is being committed; the only way an active turn ends.",
          ...settling('#session.live.idle'),
        },
      },
    },

    reconnecting: {
      description: 'A new socket is wanted for a known session.',
      initial: 'waiting',
      states: {
        waiting: {
          description: 'A request waits for the socket; nothing is committed yet.',
          meta: { deadlines: [{ name: 'connect', event: 'deadline.connect' }] },
          initial: 'dialing',
          on: {
            'socket.opened': {
              guard: 'isCurrentSocket',
              target: '#session.live.committing',
              actions: 'commitStart',
              description: 'The session has earned its socket: ask for the start.',
            },
            'socket.refused': {
              guard: 'isCurrentSocket',
              target: '#session.stale',
              actions: 'relayRefusal',
              description: "The provider's refusal is the answer, or it certainly cannot be reached.",
            },
            'history.missing': {
              guard: 'isCurrentSocket',
              target: '#session.stale',
              actions: { type: 'failTurn', params: { fault: 'bridge_session_expired' } },
              description: 'The context cannot be rebuilt exactly: fail closed.',
            },
            'deadline.connect': {
              target: '#session.stale',
              actions: { type: 'failTurn', params: { fault: 'bridge_upstream_unreachable' } },
              description: 'No socket in time.',
            },
            'client.gone': {
              target: '#session.stale',
              actions: { type: 'failTurn', params: { fault: 'bridge_turn_cancelled' } },
              description: 'Nobody waits any more.',
            },
            'turn.cancelled': {
              target: '#session.stale',
              actions: { type: 'failTurn', params: { fault: 'bridge_turn_cancelled' } },
              description: 'The request was cancelled before anything began.',
            },
            'effect.failed': {
              target: '#session.stale',
              actions: { type: 'failTurn', params: { fault: 'bridge_internal' } },
              description: 'The bridge failed before anything began.',
            },
            'operator.close': {
              target: '#session.closed',
              actions: ['recordClose', 'reresolve'],
              description: 'Closed by an operator.',
            },
            'worker.dead': { target: '#session.stale', actions: 'reresolve', description: 'Not the owner any more.' },
          },
          states: {
            dialing: {
              description: 'A handshake is under way.',
              entry: ['countDial', 'dial'],
              on: {
                'socket.failed': { guard: 'isCurrentSocket', target: 'pausing', description: 'Try again.' },
              },
            },
            pausing: {
              description: 'A short pause before the next attempt.',
              meta: { deadlines: [{ name: 'redial', event: 'deadline.redial' }] },
              on: { 'deadline.redial': { target: 'dialing', description: 'Try again.' } },
            },
          },
        },

        resending: {
          description: 'A committed turn lost its socket before anything was shown.',
          meta: { deadlines: [{ name: 'connect', event: 'deadline.connect' }] },
          initial: 'dialing',
          on: {
            'socket.opened': {
              guard: 'isCurrentSocket',
              target: '#session.live.streaming',
              actions: ['countCreate', 'sendCreate'],
              description: 'The turn is committed already: send it.',
            },
            'socket.refused': {
              guard: 'isCurrentSocket',
              target: 'settling',
              actions: ['relayRefusal', { type: 'endTurn', params: unreachable }],
              description: "The provider's refusal is the answer, or it certainly cannot be reached.",
            },
            'history.missing': {
              guard: 'isCurrentSocket',
              target: 'settling',
              actions: { type: 'endTurn', params: { end: 'lost', fault: 'bridge_session_expired' } },
              description: 'The context cannot be rebuilt exactly: fail closed.',
            },
            'deadline.connect': {
              target: 'settling',
              actions: { type: 'endTurn', params: unreachable },
              description: 'No socket in time.',
            },
            'client.gone': {
              target: 'settling',
              actions: { type: 'endTurn', params: cancelled },
              description: 'Nobody waits any more.',
            },
            'turn.cancelled': {
              target: 'settling',
              actions: { type: 'endTurn', params: cancelled },
              description: 'Cancelled.',
            },
            'effect.failed': {
              target: 'settling',
              actions: { type: 'endTurn', params: broken },
              description: 'The bridge failed over the turn: it is ended, unsent.',
            },
            'operator.close': {
              target: 'settling',
              actions: [{ type: 'endTurn', params: closedByOperator }, 'closeWhenSettled'],
              description: 'Closed by an operator: the turn is ended first.',
            },
            'worker.dead': {
              target: 'settling',
              actions: { type: 'endTurn', params: lost },
              description: 'Nothing is sent under an id that was declared dead.',
            },
          },
          states: {
            dialing: {
              description: 'A handshake is under way.',
              entry: ['countDial', 'dial'],
              on: {
                'socket.failed': { guard: 'isCurrentSocket', target: 'pausing', description: 'Try again.' },
              },
            },
            pausing: {
              description: 'A short pause before the next attempt.',
              meta: { deadlines: [{ name: 'redial', event: 'deadline.redial' }] },
              on: { 'deadline.redial': { target: 'dialing', description: 'Try again.' } },
            },
          },
        },

        settling: {
          description: 'The committed turn could not be sent again: its end is being committed.',
          ...settling('#session.stale'),
        },
      },
    },

    stale: {
      description: 'Durable state without a socket: given back, or just claimed. Needs no memory.',
      entry: ['closeSocket', 'release', 'handBack'],
      on: {
        'turn.wanted': {
          target: 'reconnecting',
          description: 'The claim succeeded and a request waits: open a socket.',
        },
        'operator.close': { target: 'closed', actions: 'recordClose', description: 'Closed for good.' },
      },
    },

    closed: {
      description: 'Final. The row, if there is one, may be purged.',
      type: 'final',
      entry: ['closeSocket', 'handBack'],
    },
  },
});

export type SessionMachine = typeof sessionMachine;
