import type { SessionMachine } from '../../../machines/session.ts';
import { explore, sessionModel, transitionNames, transitionsTaken, type World } from '../../../src/testing/index.ts';

/** Facts that decide, beside the machine's own state, what can happen to a session. */
export interface SessionFacts {
  /** The session has a row. */
  row: boolean;
  /** The conversation has a completed head turn whose content is stored. */
  head: boolean;
  /** The socket is open. */
  socket: boolean;
  /** The provider can continue from the head on this very socket. */
  holds: boolean;
  /** The store call that is unanswered. */
  asked: 'create' | 'start' | 'orphan' | 'settle' | 'bare' | null;
  /** State of the history of the current turn, which is needed once the turn cannot be sent as a delta. */
  history: 'none' | 'unread' | 'read';
  /** A frame of the current turn has been sent. */
  sent: boolean;
  /** The last step sent a frame; the value tells whether that was on a socket opened for a resend. */
  fresh: 'started' | 'resent' | null;
  /** The client of the current turn is connected. */
  attached: boolean;
  /** The client of the current turn has its answer. */
  told: boolean;
  /** The provider completed the current turn. */
  completed: boolean;
  /** A worker has claimed the session, and its request follows. */
  claimed: boolean;
  /** A request was handed back and waits to be placed again. */
  limbo: boolean;
  /** An operator closed the session while a turn ran: the row is closed at the settle. */
  closing: boolean;
}

const initial: SessionFacts = {
  row: false,
  head: false,
  socket: false,
  holds: false,
  asked: null,
  history: 'none',
  sent: false,
  fresh: null,
  attached: true,
  told: false,
  completed: false,
  claimed: false,
  limbo: false,
  closing: false,
};

/** Returns the state path of a snapshot: `live.idle`, or `live.streaming/waiting/attached`. */
export function placeOf(snapshot: { value: unknown }): string {
  const text = (value: unknown): string => {
    if (typeof value === 'string') return value;
    const entries = Object.entries(value as object);
    if (entries.length > 1) return entries.map(([, each]) => `/${text(each)}`).join('');
    const [name, below] = entries[0]!;
    const rest = text(below);
    return rest.startsWith('/') ? `${name}${rest}` : `${name}.${rest}`;
  };
  return text(snapshot.value);
}

type Can = (place: string, facts: SessionFacts) => boolean;
const dialing: Can = (place) => place.endsWith('.dialing');
const streaming: Can = (place) => place.startsWith('live.streaming/');
const flowing: Can = (place) => place.startsWith('live.streaming/flowing');
const waitingFlow: Can = (place) => place.startsWith('live.streaming/waiting');
const resending: Can = (place) => place.startsWith('reconnecting.resending');
const uncommitted: Can = (place) => place.startsWith('connecting') || place.startsWith('reconnecting.waiting');
const idle: Can = (place) => place === 'live.idle';
const always: Can = () => true;
const starting: Can = (_, { asked }) => asked === 'create' || asked === 'start';
const ending: Can = (_, { asked }) => asked === 'settle' || asked === 'bare';

/** Conditions under which the world can cause each event, in a state in which the machine does not ignore it. */
const can: Record<string, Can> = {
  'socket.opened': dialing,
  'socket.failed': dialing,
  'socket.refused': dialing,
  // Before the first event a turn may be resent; once its output was shown it may not.
  'socket.lost (resendable)': (place) => waitingFlow(place, initial),
  'socket.lost (resendable: false)': (place) => flowing(place, initial) || idle(place, initial),
  'history.missing': (place, { history }) => place === 'reconnecting.resending.dialing' && history === 'unread',
  'turn.wanted': (place, { claimed }) => (place === 'stale' ? claimed : idle(place, initial)),
  // Causes: a request that was held too long, before its frame was sent; a client that disconnected and sent another
  // request.
  'turn.cancelled (reason: superseded)': (place, facts) =>
    uncommitted(place, facts) ||
    (resending(place, facts) && !facts.sent && facts.attached) ||
    (streaming(place, facts) && place.endsWith('/detached')),
  'client.gone': (_, { attached, told }) => attached && !told,
  'client.back': (_, { told }) => !told,
  'frame.not_sent (cause: lease)': (place, { fresh }) => streaming(place, initial) && fresh !== null,
  'frame.not_sent (cause: socket)': (place, { fresh, history }) =>
    streaming(place, initial) && fresh === 'resent' && history === 'unread',
  'upstream.progress': always,
  'upstream.anchor_refused': (_, { holds, history, sent }) => holds && history === 'unread' && sent,
  'upstream.ended (keepSocket)': always,
  'upstream.ended (keepSocket: false)': always,
  'store.started (socketOpen, leaseValid)': (place, facts) => starting(place, facts) && facts.socket,
  'store.started (socketOpen, leaseValid: false)': (place, facts) => starting(place, facts) && facts.socket,
  'store.started (socketOpen: false, leaseValid)': starting,
  'store.started (socketOpen: false, leaseValid: false)': starting,
  'store.not_created': (_, { asked }) => asked === 'create',
  'store.head_moved': (_, { asked }) => asked === 'start',
  'store.busy': (_, { asked }) => asked === 'start',
  'store.cleared': (_, { asked }) => asked === 'orphan',
  'store.fenced': (_, { asked }) => asked !== 'create' && asked !== null,
  'store.settled (socketOpen)': (place, facts) =>
    ending(place, facts) && (place.startsWith('reconnecting') ? facts.history === 'unread' : facts.socket),
  'store.settled (socketOpen: false)': ending,
  'store.rejected (rowExists)': (_, { asked }) => asked !== 'create' && asked !== null,
  'store.rejected (rowExists: false)': (_, { asked }) => asked === 'create',
  'deadline.connect': always,
  'deadline.redial': always,
  'deadline.start_wait': always,
  'deadline.settle_wait': always,
  'deadline.first_event': always,
  'deadline.silence': always,
  'deadline.turn_budget': always,
  'deadline.grace': always,
  'deadline.idle': always,
  'deadline.age': always,
  'operator.release': always,
  // While the first socket is being opened there is no row to close.
  'operator.close': (place, facts) =>
    idle(place, initial) ||
    place.startsWith('reconnecting.waiting') ||
    streaming(place, facts) ||
    resending(place, facts),
  // A drain waits for every request, including one that is about to be placed.
  'worker.draining': (_, { limbo }) => !limbo,
  'worker.dead': always,
  'session.claimed': (place, { claimed, closing }) => place === 'stale' && !claimed && !closing,
};

const verdictOf: Record<string, SessionFacts['asked']> = {
  commitCreate: 'create',
  commitStart: 'start',
  commitOrphan: 'orphan',
  commitSettle: 'settle',
  commitBareSettle: 'bare',
};

/**
 * Returns true if the event cancels a turn before its frame was sent. The only cause is that the request was held too
 * long, and its client is answered first.
 */
export const heldTooLong = (name: string, place: string): boolean =>
  name.startsWith('turn.cancelled') && !place.startsWith('live.streaming');

const names = transitionNames(sessionModel.machine);

export const sessionWorld: World<SessionMachine, SessionFacts> = {
  facts: initial,
  allows(facts, before, variant) {
    if (transitionsTaken(sessionModel.machine, names, before, variant.event(before.context)).length === 0) return false;
    // A failed send is reported at once, so no other event can precede it.
    return can[variant.name]?.(placeOf(before), facts) ?? false;
  },
  learn(facts, { variant, actions, before }) {
    const { name } = variant;
    const place = placeOf(before);
    const did = (type: string) => actions.some((action) => action.type === type);
    const next: SessionFacts = { ...facts, fresh: null };

    if (name === 'socket.opened') {
      Object.assign(next, { socket: true, holds: false });
      if (resending(place, facts)) next.fresh = 'resent';
    }
    const lostIt =
      name.startsWith('socket.lost') || name.includes('socketOpen: false') || name.includes('cause: socket');
    if (lostIt || did('closeSocket')) Object.assign(next, { socket: false, holds: false });
    // The history has been read by the time a dial ends, whatever its result.
    if (resending(place, facts) && name.startsWith('socket.') && next.history === 'unread' && next.fresh === null)
      next.history = 'read';
    if (name === 'frame.not_sent (cause: socket)') next.history = 'read';
    if (name === 'history.missing') Object.assign(next, { head: false, history: 'none' });

    const asks = actions.map(({ type }) => verdictOf[type]).find((each) => each !== undefined);
    if (asks) next.asked = asks;
    else if (name.startsWith('store.')) next.asked = null;
    if (name.startsWith('store.started')) next.row = true;
    if (name.startsWith('store.started') && did('sendCreate')) next.fresh = 'started';
    if (name.startsWith('store.settled') && facts.completed) {
      next.head = facts.asked === 'settle';
      next.holds = next.head && name === 'store.settled (socketOpen)';
    }

    if (name === 'turn.wanted') {
      const history = !facts.head ? 'none' : facts.holds ? 'unread' : 'read';
      Object.assign(next, { history, told: false, attached: true, sent: false, completed: false, claimed: false });
      next.limbo = false;
    }
    if (name === 'session.claimed') next.claimed = true;
    if (name === 'client.gone') next.attached = false;
    if (name === 'client.back') next.attached = true;
    if (did('failTurn') || did('deliverTerminal') || did('relayRefusal') || heldTooLong(name, place)) next.told = true;
    // A client that has already been answered repeats its request by itself.
    if (did('reresolve') && !facts.told) next.limbo = true;
    if (did('sendCreate') || did('sendFull')) next.sent = true;
    if (did('sendFull')) Object.assign(next, { holds: false, history: 'read' });
    if (name.startsWith('upstream.ended')) {
      next.completed = flowing(place, facts) && name === 'upstream.ended (keepSocket)';
      if (!next.completed) next.holds = false;
    }
    if (did('closeWhenSettled')) next.closing = true;
    // A worker that does not own the session, or cannot end its turn, cannot close it.
    if (name === 'store.fenced' || did('reportUnsettled')) next.closing = false;
    return next;
  },
};

/** All states and steps that a real bridge can be made to take with one session. */
export const sessionGraph = explore(sessionModel, { world: sessionWorld, limit: 20_000 });

/** Transitions that no world can cause, each with its reason. */
const thrown =
  'Nothing of a sound bridge throws; test/hostile/wedges/states.test.ts breaks a part of it in each of these states.';
export const uncausable: Record<string, string> = {
  'session.connecting on effect.failed': thrown,
  'session.live.idle on effect.failed': thrown,
  'session.live.streaming on effect.failed': thrown,
  'session.reconnecting.waiting on effect.failed': thrown,
  'session.reconnecting.resending on effect.failed': thrown,
  'session.connecting on operator.close':
    'An operator names a session by its row, and there is none before the first handshake has succeeded.',
  'session.reconnecting.waiting on history.missing':
    'A claimed session begins only with the history in hand, or with an anchor that the provider keeps.',
  'session.stale on operator.close': 'An actor ends as soon as it is stale; the close is recorded in the row alone.',
};
