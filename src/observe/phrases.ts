import type { SessionEvent } from '../../machines/session.ts';
import type { TurnEvent } from '../../machines/turn.ts';
import type { SafeFields } from './safe.ts';

type Phrase = (fields: SafeFields) => string;

const say =
  (text: string): Phrase =>
  () =>
    text;
const socket =
  (text: string): Phrase =>
  ({ generation }) =>
    `socket ${generation ?? '?'} ${text}`;

/** Phrase for each event of the session machine, to be used at the beginning of a sentence. */
const session: Record<SessionEvent['type'], Phrase> = {
  'turn.wanted': say('a request was ready to start its turn'),
  'turn.cancelled': ({ reason }) => `the turn was cancelled (${reason ?? 'no reason given'})`,
  'client.gone': say('the client dropped its connection'),
  'client.back': say('a retry by the client resumed the stream'),
  'socket.opened': socket('opened'),
  'socket.failed': socket('could not be opened'),
  'socket.refused': ({ generation, relay }) =>
    `the provider refused socket ${generation ?? '?'}${relay ? ' permanently' : ' as a WebSocket'}`,
  'socket.lost': ({ generation, resendable }) =>
    `socket ${generation ?? '?'} was lost${resendable ? ' before anything had been shown' : ''}`,
  'history.missing': socket('was not needed: the context could not be rebuilt exactly'),
  'frame.not_sent': ({ cause }) =>
    cause === 'lease'
      ? 'the frame was held back because the lease had lapsed'
      : 'the frame was not sent because the socket was gone',
  'upstream.progress': say('the upstream began to answer'),
  'upstream.anchor_refused': say('the provider did not know the previous response'),
  'upstream.ended': ({ keepSocket }) => `the upstream ended the turn${keepSocket ? '' : ' and its socket was retired'}`,
  'store.started': ({ socketOpen, leaseValid }) =>
    `the store granted the start${leaseValid ? '' : ', but the lease had lapsed'}${socketOpen ? '' : ', but the socket was gone'}`,
  'store.not_created': say('the store did not create the session: another request was first, or this worker was dead'),
  'store.head_moved': say('the store answered that the conversation had moved on'),
  'store.busy': say('the store answered that a turn was already active'),
  'store.cleared': say('the store ended the orphaned turn'),
  'store.fenced': say('the store answered that this worker was no longer the owner'),
  'store.settled': say("the turn's end was stored"),
  'store.rejected': say('the store rejected the call'),
  'deadline.connect': say('no socket was opened in time'),
  'deadline.redial': say('the pause before the next attempt was over'),
  'deadline.start_wait': say('the store had not answered the start in time'),
  'deadline.settle_wait': say('the store had not answered the settle in time'),
  'deadline.first_event': say('the upstream had not begun to answer in time'),
  'deadline.silence': say('the upstream had been silent for too long'),
  'deadline.turn_budget': say('the turn had used up its budget'),
  'deadline.grace': say('no client had come back in time'),
  'deadline.idle': say('the socket had been unused for long enough'),
  'deadline.age': say('the socket had reached its maximum age'),
  'effect.failed': say('an effect failed in the bridge'),
  'operator.release': say('the session was released to make room, or by an operator'),
  'operator.close': say('an operator closed the session'),
  'worker.draining': say('the worker was draining'),
  'worker.dead': say('this worker had lost its sessions'),
  'session.claimed': say('a worker took the session over'),
};

/** Phrase for each event of the turn machine. */
const turn: Record<TurnEvent['type'], string> = {
  queue: 'was placed on the session',
  hand_back: 'was handed back to be placed again',
  commit: 'was committed',
  send: 'was sent upstream',
  acknowledge: 'was acknowledged by the upstream',
  stream: 'began to show output',
  steer: 'was steered into a successor',
  complete: 'completed',
  end_incomplete: 'ended early',
  fail: 'failed',
  cancel: 'was cancelled',
  lose: 'was lost',
};

/** Describes an event of a session's actor; an unknown event is described by its name. */
export function sessionPhrase(type: string, fields: SafeFields = {}): string {
  if (type === 'xstate.init') return 'the actor began';
  if (type === 'xstate.stop') return 'the actor was stopped';
  return Object.hasOwn(session, type) ? session[type as SessionEvent['type']](fields) : `${type} arrived`;
}

/** Describes an event of a turn's actor. */
export function turnPhrase(type: string): string {
  if (type === 'xstate.init') return 'arrived';
  return Object.hasOwn(turn, type) ? turn[type as TurnEvent['type']] : `had ${type}`;
}
