import { setup } from 'xstate';

/**
 * The turn machine: one request in the bridge, from admission to its single terminal event.
 *
 * It is a record and makes no decisions: the session decides, the turn's record shows the request's progress and rejects a
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
  fail: { target: '#turn.failed', description: 'The turn failed.' },
  cancel: { target: '#turn.cancelled', description: 'The turn was cancelled.' },
} as const;

const endsAfterCommit = {
  ...ends,
  lose: { target: '#turn.lost', description: 'Its connection or its owner was lost; its end upstream is unknown.' },
} as const;

const endsOnTheWire = {
  ...endsAfterCommit,
  complete: { target: '#turn.completed', description: 'The upstream completed it.' },
  end_incomplete: { target: '#turn.incomplete', description: 'The upstream ended it early.' },
} as const;

/** The turn machine. */
export const turnMachine = setup({
  types: { events: {} as TurnEvent, input: {} as { turnId: string }, context: {} as { turnId: string } },
}).createMachine({
  id: 'turn',
  description: 'One request, from admission to its single terminal event.',
  context: ({ input }) => ({ turnId: input.turnId }),
  initial: 'admitted',
  states: {
    admitted: {
      description: 'The request was read and validated and is being placed.',
      on: {
        queue: { target: 'queued', description: 'The turn was placed on a session.' },
        ...ends,
      },
    },
    queued: {
      description: 'Waiting until its session is free and connected and the fenced start is stored.',
      on: {
        hand_back: { target: 'admitted', description: 'The session cannot serve it: the turn is placed again.' },
        commit: { target: 'committed', description: 'Its start is stored.' },
        ...ends,
      },
    },
    committed: {
      description: 'The fenced start is stored; no frame has been sent.',
      on: {
        send: { target: 'sent', description: 'The frame was handed to the socket.' },
        ...endsAfterCommit,
      },
    },
    sent: {
      description: 'The frame was sent; the upstream has not acknowledged it.',
      on: {
        acknowledge: { target: 'acknowledged', description: 'The upstream created the response.' },
        commit: { target: 'committed', description: 'Its socket was lost; it may be sent once more.' },
        ...endsOnTheWire,
      },
    },
    acknowledged: {
      description: 'The upstream created the response; no output yet.',
      on: {
        stream: { target: 'streaming', description: 'The first output has arrived.' },
        commit: {
          target: 'committed',
          description: 'Its socket was lost before any output; it may be sent once more.',
        },
        ...endsOnTheWire,
      },
    },
    streaming: {
      description: 'Output is relayed as it arrives.',
      on: {
        steer: {
          target: 'acknowledged',
          description: 'The response was steered: it ended early, and its successor follows without another frame.',
        },
        ...endsOnTheWire,
      },
    },
    completed: { type: 'final', description: 'The upstream completed the turn.' },
    incomplete: { type: 'final', description: 'The upstream ended the turn early.' },
    failed: { type: 'final', description: 'The turn ended with an error.' },
    cancelled: { type: 'final', description: 'The turn was cancelled.' },
    lost: { type: 'final', description: 'The end of the turn is unknown.' },
  },
});

/** Type of {@link turnMachine}. */
export type TurnMachine = typeof turnMachine;
