import { initialTransition, type SnapshotFrom, transition } from 'xstate';
import { type SessionContext, type SessionEvent, type SessionMachine, sessionMachine } from '../../machines/session.ts';
import type { TurnEvent } from '../../machines/turn.ts';
import { catalogue } from '../errors.ts';
import { outcomeTable } from '../resolve/outcomes.ts';
import { rows as resolutionRows } from '../resolve/table.ts';
import type { SessionRow, TurnRow, WorkerRow } from '../store/port.ts';
import type { FailedRequest } from './failures.ts';
import type { FlightEnding, FlightEvent, FlightRecord, SafeFields } from './trace.ts';

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
  if (type === 'xstate.init') return 'the actor started';
  if (type === 'xstate.stop') return 'the actor was stopped';
  return Object.hasOwn(session, type) ? session[type as SessionEvent['type']](fields) : `${type} arrived`;
}

/** Describes an event of a turn's actor. */
export function turnPhrase(type: string): string {
  if (type === 'xstate.init') return 'arrived';
  return Object.hasOwn(turn, type) ? turn[type as TurnEvent['type']] : `had ${type}`;
}

type SessionSnapshot = SnapshotFrom<SessionMachine>;

/** One replayed step: the recorded event, and the machine before and after it. */
export interface ReplayedStep {
  recorded: FlightEvent;
  event: SessionEvent;
  before: SessionSnapshot;
  after: SessionSnapshot;
  /** Names of the effects that the step asked for, in order. */
  effects: string[];
}

/**
 * Replays the recorded events of the session's newest actor through the pure machine, without effects.
 *
 * @throws {Error} when the record does not begin with a state of this version of the machine
 */
function replaySteps(record: FlightRecord): { start: SessionSnapshot; steps: ReplayedStep[] } {
  if (!record.base) throw new Error(`the record of ${record.sessionId} has no beginning`);
  const { value, context } = record.base;
  const start = sessionMachine.resolveState({
    value,
    context: context as unknown as SessionContext,
  } as Parameters<SessionMachine['resolveState']>[0]);
  const steps: ReplayedStep[] = [];
  let snapshot = start;
  for (const recorded of record.events) {
    if (recorded.actor !== `session@${record.epoch}` || recorded.event.startsWith('xstate.')) continue;
    const event = { type: recorded.event, ...recorded.fields } as SessionEvent;
    for (let time = 0; time < (recorded.times ?? 1); time += 1) {
      const before: SessionSnapshot = snapshot;
      const [after, actions] = transition(sessionMachine, before, event);
      snapshot = after;
      steps.push({ recorded, event, before, after, effects: effectNames(actions) });
    }
  }
  return { start, steps };
}

const effectNames = (actions: readonly { type: string }[]) =>
  actions.map(({ type }) => type).filter((type) => !type.startsWith('xstate.'));

/** Returns the names of the effects with which the actor of a new session starts. */
export const firstEffects = (): string[] => effectNames(initialTransition(sessionMachine, {})[1]);

/**
 * Returns the replayed step of each recorded event; of a repeated event the first one. The result is empty for a record of
 * an older version of the machine: the descriptions of its transitions are unknown.
 */
export function firstSteps(record: FlightRecord): ReadonlyMap<FlightEvent, ReplayedStep> {
  const first = new Map<FlightEvent, ReplayedStep>();
  try {
    for (const step of replaySteps(record).steps) if (!first.has(step.recorded)) first.set(step.recorded, step);
  } catch {
    return new Map();
  }
  return first;
}

/**
 * Returns the state of the session at the end of the record, found by replay.
 *
 * @throws {Error} when the record does not begin with a state of this version of the machine
 */
export function replay(record: FlightRecord): SessionSnapshot {
  const { start, steps } = replaySteps(record);
  return steps.at(-1)?.after ?? start;
}

/** Current database rows about the session. Null or empty where a row no longer exists. */
export interface StoryRows {
  session: SessionRow | null;
  turns: readonly TurnRow[];
  workers: readonly WorkerRow[];
}

const short = (id: string) => id.slice(0, 8);

/** Formats a state value for people: `live.idle`, or `live.streaming (flow.waiting, client.attached)`. */
export function stateText(value: unknown): string {
  if (typeof value === 'string') return value;
  const entries = Object.entries(value as Record<string, unknown>);
  if (entries.length === 1) {
    const [name, below] = entries[0]!;
    const rest = stateText(below);
    return rest === '' ? name : rest.startsWith('(') ? `${name} ${rest}` : `${name}.${rest}`;
  }
  if (entries.length === 0) return '';
  return `(${entries.map(([name, below]) => `${name}.${stateText(below)}`).join(', ')})`;
}

/** Returns the machine's own description of the transition taken, or null when the event changed nothing. */
export function meaningOf({ before, event }: ReplayedStep): string | null {
  const [taken] = sessionMachine.getTransitionData(before, event);
  return taken?.description ?? null;
}

const time = (t: number) => new Date(t).toISOString().slice(11, 23);

function eventSentence(recorded: FlightEvent, step: ReplayedStep | undefined, previous: string | undefined): string {
  const times = recorded.times ? ` (${recorded.times} times)` : '';
  const [kind, id = ''] = recorded.actor.split(/[:@]/, 2) as [string, string?];
  const state = stateText(JSON.parse(recorded.state));
  const at = time(recorded.t);
  if (kind === 'turn') return `${at} Turn ${short(id)} ${turnPhrase(recorded.event)}${times}.`;
  const what = sessionPhrase(recorded.event, recorded.fields);
  const moved = recorded.state === previous ? `it stayed in ${state}` : `it went to ${state}`;
  const meaning = step && meaningOf(step);
  const ignored = step && !meaning ? ', which has no effect in that state' : '';
  return `${at} Epoch ${id}: ${what}${times}${ignored}; ${moved}.${meaning ? ` ${meaning}` : ''}`;
}

function ownerSentence({ session, workers }: StoryRows): string {
  if (!session) return 'The database has no row of the session: it was never created, or it was purged.';
  const { ownerWorkerId, epoch, state, activeTurnId } = session;
  const owner = workers.find(({ id }) => id === ownerWorkerId);
  const health = owner
    ? owner.state === 'dead'
      ? ', which is dead'
      : owner.leaseLeftMs > 0
        ? `, which is ${owner.state}`
        : ', whose lease has run out'
    : '';
  const who = ownerWorkerId ? `worker ${short(ownerWorkerId)}${health}` : 'no worker';
  const active = activeTurnId ? `, with turn ${short(activeTurnId)} active` : ', with no turn active';
  return `According to its row, the session is ${state}, owned by ${who}, in epoch ${epoch}${active}.`;
}

function turnSentences({ turns }: StoryRows, ending: FlightEnding | null): string[] {
  const row = turns.find(({ id }) => id === ending?.turn);
  if (!ending || !row) return [];
  const by = `worker ${short(row.authorWorkerId)} in epoch ${row.epoch}`;
  const recorded = row.state === 'active' ? 'is still active' : `is recorded as ${row.state}`;
  const later =
    row.state !== 'active' && row.state !== ending.terminal ? `, but its client received ${ending.terminal}` : '';
  return [`Turn ${short(row.id)} was started by ${by} and ${recorded}${later}.`];
}

/** Explains why a client received an error: the fault in words, or the upstream's status. */
function whySentence({ fault, upstreamStatus }: Pick<FailedRequest, 'fault' | 'upstreamStatus'>): string {
  const known = fault === null ? undefined : catalogue[fault as keyof typeof catalogue];
  const why = known
    ? `${fault}: ${known.message}`
    : upstreamStatus !== null
      ? `the provider answered ${upstreamStatus}.`
      : (fault ?? 'an error of the upstream.');
  return `Reason for the client's answer: ${why}${known ? ` ${known.action}` : ''}`;
}

/** What is known about the end of a turn, or of a request that became none. */
interface Ended {
  /** State of the turn; null for a request that became none. */
  terminal: string | null;
  outcome: string | null;
  fault: string | null;
  upstreamStatus: number | null;
  responseId?: string | null;
  /** Time until its frame was sent, in milliseconds; null when none was. */
  heldMs: number | null;
}

/** Names what the client got: status and code of an error, or the end of its answer. */
export function answerSentence({ terminal, outcome, fault, upstreamStatus, responseId, heldMs }: Ended): string {
  const known = fault === null ? undefined : catalogue[fault as keyof typeof catalogue];
  if (known) {
    const wait = 'retryAfterSeconds' in known ? ', with Retry-After' : '';
    const begun = heldMs === null ? '' : '; if its stream had begun, one response.failed with that code';
    return `The client got ${known.status} ${fault} (code ${known.code})${wait}${begun}.`;
  }
  const placed = outcome === null ? '' : `, with x-holdfast-outcome ${outcome}`;
  if (upstreamStatus !== null && upstreamStatus >= 400) {
    return `The client got the provider's own error, ${upstreamStatus}${placed}.`;
  }
  const named = responseId ? ` ${responseId}` : '';
  switch (terminal) {
    case 'completed':
      return `The client got the provider's answer${named}, completed${placed}.`;
    case 'incomplete':
      return `The client got the provider's answer${named}, ended early (response.incomplete)${placed}.`;
    case 'failed':
      return `The client got the provider's failure (response.failed)${placed}.`;
    case 'cancelled':
      return `The client got no end of its answer: it had left, or the turn was cancelled${placed}.`;
    case 'lost':
      return `The client got a cut connection, or one response.failed: the end of the turn is not known${placed}.`;
    case 'active':
      return `The client is getting its answer: the turn runs${placed}.`;
    default:
      return `The client got an error of the upstream${placed}.`;
  }
}

const causeSentences = (cause: string | null | undefined) =>
  cause ? [`Problem with the upstream connection: ${cause}.`] : [];

/** A turn that completed, or that its client ended, needs no reason. */
const endedWell = ({ terminal, fault }: Pick<FlightEnding, 'terminal' | 'fault'>) =>
  fault === null && ['completed', 'incomplete', 'cancelled'].includes(terminal);

function endingSentences(ending: FlightEnding | null): string[] {
  if (!ending) return [];
  const placed = outcomeTable().find(({ outcome }) => outcome === ending.outcome)?.meaning;
  const row = resolutionRows.find(({ id }) => id === ending.decidedBy);
  const sent = ending.heldMs === null ? 'nothing was sent upstream' : `its frame was sent after ${ending.heldMs} ms`;
  const first =
    ending.firstEventMs === null ? 'no event came back' : `the first event came after ${ending.firstEventMs} ms`;
  return [
    `Turn ${short(ending.turn)} was placed as ${ending.outcome}${placed ? `: ${placed}` : '.'}`,
    ...(row ? [`Decided by row ${row.id}: ${row.when}`] : []),
    `It ended after ${ending.totalMs} ms as ${ending.terminal}; ${sent}, ${first}.`,
    answerSentence(ending),
    ...(endedWell(ending) ? [] : [whySentence(ending)]),
    ...causeSentences(ending.cause),
  ];
}

/**
 * Describes in sentences what happened to a session: its owner, the events of its actor and turns, and the reason for
 * the client's result. The rows show the current state, the record the state at the time. A record that cannot be
 * replayed causes no error; its events are then described without the machine's descriptions.
 */
export function explain(record: FlightRecord, rows: StoryRows): string[] {
  const first = firstSteps(record);
  const previous = new Map<string, string>();
  const sentences = record.events.map((recorded) => {
    const sentence = eventSentence(recorded, first.get(recorded), previous.get(recorded.actor));
    previous.set(recorded.actor, recorded.state);
    return sentence;
  });
  const lost = record.dropped > 0 ? [`${record.dropped} earlier events were dropped from the record.`] : [];
  return [
    `Session ${short(record.sessionId)}, as recorded by worker ${short(record.workerId)} up to epoch ${record.epoch}.`,
    ownerSentence(rows),
    ...lost,
    ...sentences,
    ...turnSentences(rows, record.ending),
    ...endingSentences(record.ending),
  ];
}

/**
 * Describes a request that has ended, even one that never had a session: when and where, how it was placed, what its client
 * got and why, and the upstream problem if there was one.
 */
export function explainRequest(failed: FailedRequest): string[] {
  const { t, workerId, request, session, turn, ending } = failed;
  const at = new Date(t).toISOString();
  const what =
    turn === null ? '' : `, turn ${short(turn)}${session === null ? ' of no session' : ` of session ${session}`},`;
  return [
    `Request ${request}${what} ${ending && endedWell(ending) ? 'ended' : 'failed'} at ${at} on worker ${short(workerId)}.`,
    ...(ending
      ? endingSentences(ending)
      : [
          answerSentence({ ...failed, terminal: null, outcome: null, heldMs: null }),
          whySentence(failed),
          ...causeSentences(failed.cause),
        ]),
  ];
}
