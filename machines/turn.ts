import { setup } from 'xstate';

/**
 * The turn machine: one request in the bridge, from admission to its single terminal event.
 *
 * It is a record and makes no decisions: the session decides, the turn actor shows the request's progress and rejects a
 * second terminal event. It is never persisted; everything that must survive is in the turn's row.
 */

export type TurnEvent =
  | { type: 'queue' }
  | { type: 'hand_back' }
  | { type: 'commit' }
  | { type: 'send' }
  | { type: 'acknowledge' }
  | { type: 'stream' }
  | { type: 'steer' }
  | { type: 'complete' }
  | { type: 'end_incomplete' }
  | { type: 'fail' }
  | { type: 'cancel' }
  | { type: 'lose' };

const ends = {
  fail: { target: '#turn.failed', description: 'It failed.' },
  cancel: { target: '#turn.cancelled', description: 'Nobody wants it any more.' },
} as const;

const endsAfterCommit = {
  ...ends,
  lose: { target: '#turn.lost', description: 'Its connection or its owner is gone; how it ended upstream is unknown.' },
} as const;

const endsOnTheWire = {
  ...endsAfterCommit,
  complete: { target: '#turn.completed', description: 'The upstream completed it.' },
  end_incomplete: { target: '#turn.incomplete', description: 'The upstream stopped early.' },
} as const;

/** The turn machine. */
export const turnMachine = setup({
  types: { events: {} as TurnEvent, input: {} as { turnId: string }, context: {} as { turnId: string } },
}).createMachine({
  id: 'turn',
  description: 'One request, from admission to its one terminal.',
  context: ({ input }) => ({ turnId: input.turnId }),
  initial: 'admitted',
  states: {
    admitted: {
      description: 'Read, validated and being placed.',
      on: {
        queue: { target: 'queued', description: 'Placed on a session.' },
        ...ends,
      },
    },
    queued: {
      description: 'Waits for its session to be free, connected and fenced.',
      on: {
        hand_back: { target: 'admitted', description: 'The session cannot serve it: it is placed again.' },
        commit: { target: 'committed', description: 'Its start is durable.' },
        ...ends,
      },
    },
    committed: {
      description: 'The fenced start is durable; no frame has left.',
      on: {
        send: { target: 'sent', description: 'The frame was handed to the socket.' },
        ...endsAfterCommit,
      },
    },
    sent: {
      description: 'The frame left; the upstream has not acknowledged it.',
      on: {
        acknowledge: { target: 'acknowledged', description: 'The upstream created the response.' },
        commit: { target: 'committed', description: 'Its socket is gone; it may be sent once more.' },
        ...endsOnTheWire,
      },
    },
    acknowledged: {
      description: 'The upstream created the response; no output yet.',
      on: {
        stream: { target: 'streaming', description: 'Output arrives.' },
        commit: { target: 'committed', description: 'Its socket is gone before any output; it may be sent once more.' },
        ...endsOnTheWire,
      },
    },
    streaming: {
      description: 'Output is relayed as it arrives.',
      on: {
        steer: {
          target: 'acknowledged',
          description: 'Steered: the response ended early and its successor follows by itself.',
        },
        ...endsOnTheWire,
      },
    },
    completed: { type: 'final', description: 'Ended completely.' },
    incomplete: { type: 'final', description: 'Ended early, as the upstream said.' },
    failed: { type: 'final', description: 'Ended by an error.' },
    cancelled: { type: 'final', description: 'Ended because nobody wanted it any more.' },
    lost: { type: 'final', description: 'Its end is unknown.' },
  },
});

export type TurnMachine = typeof turnMachine;
