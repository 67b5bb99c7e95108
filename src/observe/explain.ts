import { sessionMachine } from '../../machines/session.ts';
import { catalogue } from '../errors.ts';
import { outcomeTable } from '../resolve/outcomes.ts';
import { rows as resolutionRows } from '../resolve/resolve.ts';
import type { SessionRow, TurnRow, WorkerRow } from '../store/port.ts';
import type { FailedRequest } from './failures.ts';
import type { FlightEnding, FlightEvent, FlightRecord } from './flight.ts';
import { sessionPhrase, turnPhrase } from './phrases.ts';
import { type ReplayedStep, replaySteps } from './replay.ts';

/** What the database knows of the session now; null and empty for what is gone. */
export interface StoryRows {
  session: SessionRow | null;
  turns: readonly TurnRow[];
  workers: readonly WorkerRow[];
}

const short = (id: string) => id.slice(0, 8);

/** A state value as one reads it: `live.idle`, and `live.streaming (flow.waiting, client.attached)`. */
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

/** What the machine itself says about the transition that was taken; null when the event changed nothing. */
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
  const ignored = step && !meaning ? ', which meant nothing there' : '';
  return `${at} Epoch ${id}: ${what}${times}${ignored}; ${moved}.${meaning ? ` ${meaning}` : ''}`;
}

function ownerSentence({ session, workers }: StoryRows): string {
  if (!session) return 'The database has no row of the session: it was never created, or was purged.';
  const { ownerWorkerId, epoch, state, activeTurnId } = session;
  const owner = workers.find(({ id }) => id === ownerWorkerId);
  const health = owner
    ? owner.state === 'dead'
      ? ', which is dead'
      : owner.leaseLeftMs > 0
        ? `, which is ${owner.state}`
        : ', whose lease has run out'
    : '';
  const who = ownerWorkerId ? `worker ${short(ownerWorkerId)}${health}` : 'nobody';
  const active = activeTurnId ? `, with turn ${short(activeTurnId)} active` : ', with no turn active';
  return `By its row the session is ${state}, owned by ${who}, in epoch ${epoch}${active}.`;
}

function turnSentences({ turns }: StoryRows, ending: FlightEnding | null): string[] {
  const row = turns.find(({ id }) => id === ending?.turn);
  if (!ending || !row) return [];
  const by = `worker ${short(row.authorWorkerId)} in epoch ${row.epoch}`;
  const recorded = row.state === 'active' ? 'is still active' : `is recorded as ${row.state}`;
  const later =
    row.state !== 'active' && row.state !== ending.terminal ? `, though its client was told ${ending.terminal}` : '';
  return [`Turn ${short(row.id)} was started by ${by} and ${recorded}${later}.`];
}

/** Why a client got an error: the fault in words, or what the upstream said. */
function whySentence({ fault, upstreamStatus }: Pick<FailedRequest, 'fault' | 'upstreamStatus'>): string {
  const known = fault === null ? undefined : catalogue[fault as keyof typeof catalogue];
  const why = known
    ? `${fault}: ${known.message}`
    : upstreamStatus !== null
      ? `the provider answered ${upstreamStatus}.`
      : (fault ?? 'the upstream said so.');
  return `The client got that because of ${why}${known ? ` ${known.action}` : ''}`;
}

const causeSentences = (cause: string | null | undefined) => (cause ? [`On the way to the upstream: ${cause}.`] : []);

function endingSentences(ending: FlightEnding | null): string[] {
  if (!ending) return [];
  const placed = outcomeTable().find(({ outcome }) => outcome === ending.outcome)?.meaning;
  const row = resolutionRows.find(({ id }) => id === ending.decidedBy);
  const sent = ending.heldMs === null ? 'nothing was sent upstream' : `its frame left after ${ending.heldMs} ms`;
  const first =
    ending.firstEventMs === null ? 'no event came back' : `the first event came after ${ending.firstEventMs} ms`;
  return [
    `Turn ${short(ending.turn)} was placed as ${ending.outcome}${placed ? `: ${placed}` : '.'}`,
    ...(row ? [`The row that decided was ${row.id}: ${row.when}`] : []),
    `It ended after ${ending.totalMs} ms as ${ending.terminal}; ${sent}, ${first}.`,
    whySentence(ending),
    ...causeSentences(ending.cause),
  ];
}

/**
 * Tells what happened to a session in sentences: who owns it, what its actor and its turns went through, and why the
 * client got what it got. Rows are those of now, the record is of then. Never throws over a record it cannot replay:
 * the events are told without the machine's own words for them.
 */
export function explain(record: FlightRecord, rows: StoryRows): string[] {
  let steps: ReplayedStep[] = [];
  try {
    ({ steps } = replaySteps(record));
  } catch {
    // An older machine's record.
  }
  const first = new Map<FlightEvent, ReplayedStep>();
  for (const step of steps) if (!first.has(step.recorded)) first.set(step.recorded, step);
  const previous = new Map<string, string>();
  const told = record.events.map((recorded) => {
    const sentence = eventSentence(recorded, first.get(recorded), previous.get(recorded.actor));
    previous.set(recorded.actor, recorded.state);
    return sentence;
  });
  const lost = record.dropped > 0 ? [`${record.dropped} earlier events are not remembered.`] : [];
  return [
    `Session ${short(record.sessionId)} as worker ${short(record.workerId)} saw it, up to epoch ${record.epoch}.`,
    ownerSentence(rows),
    ...lost,
    ...told,
    ...turnSentences(rows, record.ending),
    ...endingSentences(record.ending),
  ];
}

/**
 * Tells of a request that failed, whether or not it ever had a session: when and where, how it was placed, why its client
 * got what it got, and what was in the way to the upstream.
 */
export function explainFailure(failed: FailedRequest): string[] {
  const { t, workerId, request, session, turn, ending } = failed;
  const at = new Date(t).toISOString();
  const what =
    turn === null ? '' : `, turn ${short(turn)}${session === null ? ' of no session' : ` of session ${session}`},`;
  return [
    `Request ${request}${what} failed at ${at} on worker ${short(workerId)}.`,
    ...(ending ? endingSentences(ending) : [whySentence(failed), ...causeSentences(failed.cause)]),
  ];
}
