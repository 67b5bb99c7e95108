import type { StateValue } from 'xstate';
import type { SessionContext, SessionEvent } from '../../machines/session.ts';
import { isFields } from '../json.ts';
import type { Observed, Step } from '../runtime/index.ts';
import type { TurnLine } from '../session/turn.ts';
import type { Clock } from '../system.ts';

/**
 * Identity of an actor in the inspector. Ids contain no process, so a session that moves to another worker continues in
 * the same picture.
 */
export interface Identity {
  kind: 'session' | 'turn' | 'worker';
  /** Id shown to viewers, for example `session:<uuid>`. */
  id: string;
  /** Short name shown above the machine. */
  name: string;
  /** Session that the actor is or belongs to; null for a worker, and for a turn without a session. */
  sessionId: string | null;
  parentId: string | undefined;
}

const short = (id: string) => id.slice(0, 8);

/**
 * Derives the identity of an actor from its machine and id. Returns null for machines that do not belong to the bridge.
 *
 * @param sessionOfTurn the session on which a turn was placed, if known
 */
export function identify({ id, machine }: Observed, sessionOfTurn: string | undefined): Identity | null {
  if (machine.id === 'session') {
    const [sessionId, epoch] = id.split('@') as [string, string?];
    const name = `session ${short(sessionId)}${epoch ? ` epoch ${epoch}` : ''}`;
    return { kind: 'session', id: `session:${sessionId}`, name, sessionId, parentId: undefined };
  }
  if (machine.id === 'turn') {
    const parentId = sessionOfTurn === undefined ? undefined : `session:${sessionOfTurn}`;
    return {
      kind: 'turn',
      id: `turn:${id}`,
      name: `turn ${short(id)}`,
      sessionId: sessionOfTurn ?? null,
      parentId,
    };
  }
  if (machine.id === 'worker') {
    const workerId = id.replace(/^worker:/, '');
    return {
      kind: 'worker',
      id: `worker:${workerId}`,
      name: `worker ${short(workerId)}`,
      sessionId: null,
      parentId: undefined,
    };
  }
  return null;
}

/** Names of the fields that events of the session machine carry besides their type. */
type Field = SessionEvent extends infer E ? (E extends SessionEvent ? Exclude<keyof E, 'type'> : never) : never;
type Check = (value: unknown) => boolean;

const isNumber: Check = (value) => typeof value === 'number' && Number.isFinite(value);
const isBoolean: Check = (value) => typeof value === 'boolean';
const isId: Check = (value) => typeof value === 'string' && /^[0-9a-f-]{8,36}$/i.test(value);
const oneOf =
  (...values: string[]): Check =>
  (value) =>
    values.includes(value as string);

/** Event fields that may be shown. A new field stays hidden until it is added here; the compiler requires an entry. */
const eventFields: Record<Field, Check> = {
  generation: isNumber,
  resendable: isBoolean,
  keepSocket: isBoolean,
  socketOpen: isBoolean,
  leaseValid: isBoolean,
  rowExists: isBoolean,
  cause: oneOf('lease', 'socket'),
  reason: oneOf('superseded', 'drain', 'hold_expired'),
};

const contextFields: Record<keyof SessionContext | 'turnId', Check> = {
  generation: isNumber,
  creates: isNumber,
  turns: isNumber,
  takeovers: isNumber,
  turnId: isId,
};

/** Value without content, credentials or personal data. */
type SafeValue = string | number | boolean;
export type SafeFields = Readonly<Record<string, SafeValue>>;

function pick(value: unknown, checks: Record<string, Check>): SafeFields {
  if (typeof value !== 'object' || value === null) return {};
  const picked: Record<string, SafeValue> = {};
  for (const [name, check] of Object.entries(checks)) {
    const field = (value as Record<string, unknown>)[name];
    if (field !== undefined && check(field)) picked[name] = field as SafeValue;
  }
  return picked;
}

/** Returns the type of an event and those of its fields that hold neither content nor credentials. */
export function safeEvent(event: { type: string }): { type: string; fields: SafeFields } {
  const type = /^[\w.:-]{1,80}$/.test(event.type) ? event.type : 'unnamed';
  return { type, fields: pick(event, eventFields) };
}

/** Returns the fields of a machine's context that hold neither content nor credentials. */
export const safeContext = (context: unknown): SafeFields => pick(context, contextFields);

const credential = /authorization|token|secret|password|cookie|credential|api.?key|pepper|nonce/i;

/**
 * Copies any value for a viewer who may see content. The copy is bounded in depth, width and length, has no functions,
 * and has no values whose name suggests a credential.
 *
 * @param depth maximum nesting depth
 */
export function boundedCopy(value: unknown, depth = 6): unknown {
  if (typeof value === 'string') return value.length > 2_000 ? `${value.slice(0, 2_000)}...` : value;
  if (typeof value === 'number' || typeof value === 'boolean' || value === null) return value;
  if (typeof value !== 'object') return undefined;
  if (depth === 0) return '...';
  if (Array.isArray(value)) return value.slice(0, 100).map((each) => boundedCopy(each, depth - 1) ?? null);
  return Object.fromEntries(
    Object.entries(value)
      .slice(0, 100)
      .map(([key, each]) => [key, credential.test(key) ? '[redacted]' : boundedCopy(each, depth - 1)]),
  );
}

/** One event of a session's actor or of one of its turns, with the state it led to. */
export interface FlightEvent {
  /** Wall-clock time, in milliseconds. */
  t: number;
  /** `session@<epoch>` or `turn:<id>`. */
  actor: string;
  event: string;
  fields?: SafeFields;
  /** State after the event: an XState state value as JSON text. */
  state: string;
  /** Number of consecutive repetitions that changed nothing; absent for a single event. */
  times?: number;
}

/** State from which replay starts. Older events were dropped. */
interface FlightBase {
  value: StateValue;
  context: SafeFields;
}

/** Fields of a turn's log line that describe how it ended. */
export type FlightEnding = Pick<
  TurnLine,
  | 'turn'
  | 'outcome'
  | 'shape'
  | 'form'
  | 'terminal'
  | 'fault'
  | 'upstreamStatus'
  | 'heldMs'
  | 'firstEventMs'
  | 'totalMs'
> &
  // Optional: stories stored by an earlier release lack it.
  Partial<Pick<TurnLine, 'cause' | 'decidedBy'>>;

/** The last events of one session on one worker, as plain JSON without content or credentials. */
export interface FlightRecord {
  version: 1;
  sessionId: string;
  workerId: string;
  /** Epoch of the newest actor seen. `base` and replay refer to that actor. */
  epoch: number;
  /** Null when no event of the session's own actor was seen. */
  base: FlightBase | null;
  events: readonly FlightEvent[];
  /** Number of events dropped. */
  dropped: number;
  /** The last turn that ended, if it ended badly; null in the story of a running session. */
  ending: FlightEnding | null;
}

/**
 * Bounds of a stored record: characters of a text, which may name a host, and levels of a state value. The number of events is a
 * setting of the worker that stored it (HOLDFAST_RECORDED_EVENTS).
 */
const LONGEST_TEXT = 500;
const DEEPEST_STATE = 8;
/** Last time that a `Date` can hold, in milliseconds since the Unix epoch. */
const LAST_TIME = 8.64e15;

const isText: Check = (value) => typeof value === 'string' && value.length <= LONGEST_TEXT;
const isTime: Check = (value) => isNumber(value) && Math.abs(value as number) <= LAST_TIME;
const isStateValue = (value: unknown, levels = DEEPEST_STATE): boolean =>
  isText(value) ||
  (levels > 0 && isFields(value) && Object.values(value).every((below) => isStateValue(below, levels - 1)));
const orNull =
  (check: Check): Check =>
  (value) =>
    value === null || check(value);
const orAbsent =
  (check: Check): Check =>
  (value) =>
    value === undefined || check(value);

function isStateText(value: unknown): boolean {
  if (!isText(value)) return false;
  try {
    return isStateValue(JSON.parse(value as string));
  } catch {
    return false;
  }
}
const isSafeFields: Check = (value) =>
  isFields(value) && Object.values(value).every((each) => isText(each) || isNumber(each) || isBoolean(each));

/** Returns whether a value has a form of which every field is known. */
const has = (value: unknown, form: Record<string, Check>): boolean =>
  isFields(value) && Object.entries(form).every(([name, check]) => check(value[name]));

const ofEvent: Record<keyof FlightEvent, Check> = {
  t: isTime,
  actor: isText,
  event: isText,
  fields: orAbsent(isSafeFields),
  state: isStateText,
  times: orAbsent(isNumber),
};
const ofBase: Record<keyof FlightBase, Check> = { value: (value) => isStateValue(value), context: isSafeFields };
const ofEnding: Record<keyof FlightEnding, Check> = {
  turn: isText,
  outcome: isText,
  shape: isText,
  form: orNull(isText),
  terminal: isText,
  fault: orNull(isText),
  upstreamStatus: orNull(isNumber),
  heldMs: orNull(isNumber),
  firstEventMs: orNull(isNumber),
  totalMs: isNumber,
  cause: orAbsent(orNull(isText)),
  decidedBy: orAbsent(orNull(isText)),
};
const ofRecord: Record<keyof FlightRecord, Check> = {
  version: (value) => value === 1,
  sessionId: isText,
  workerId: isText,
  epoch: isNumber,
  base: orNull((value) => has(value, ofBase)),
  events: (value) => Array.isArray(value) && value.every((event) => has(event, ofEvent)),
  dropped: isNumber,
  ending: orNull((value) => has(value, ofEnding)),
};

/**
 * Returns a record that was stored, with its known fields only. Null where another release, or damage, left a value of
 * another form, because its readers rely on all of it.
 */
export function recordOf(value: unknown): FlightRecord | null {
  if (!has(value, ofRecord)) return null;
  const only = (whole: object, form: object) =>
    Object.fromEntries(Object.entries(whole).filter(([name]) => Object.hasOwn(form, name)));
  const record = value as FlightRecord;
  return {
    ...(only(record, ofRecord) as unknown as FlightRecord),
    base: record.base && (only(record.base, ofBase) as unknown as FlightBase),
    events: record.events.map((event) => only(event, ofEvent) as unknown as FlightEvent),
    ending: record.ending && (only(record.ending, ofEnding) as unknown as FlightEnding),
  };
}

/** Texts of state values, the same object for the same state in all sessions. There are few. */
const texts = new Map<string, string>();
const textsOfObjects = new WeakMap<object, string>();

/** Returns a state value as JSON text. */
function textOf(value: StateValue): string {
  if (typeof value === 'string') return texts.get(value) ?? intern(value, JSON.stringify(value));
  let text = textsOfObjects.get(value);
  if (text === undefined) {
    text = JSON.stringify(value);
    textsOfObjects.set(value, (text = texts.get(text) ?? intern(text, text)));
  }
  return text;
}

function intern(key: string, text: string): string {
  if (texts.size < 1_000) texts.set(key, text);
  return text;
}

/**
 * The last steps of one session and its turns. Everything is kept as it came, because few records are ever read: events and
 * contexts are immutable, and only their harmless fields leave the ring.
 */
class Ring {
  readonly #capacity: number;
  // One list for each field of a step; an object for each step would take three times the memory.
  readonly #times: number[] = [];
  readonly #actors: string[] = [];
  readonly #events: { type: string }[] = [];
  readonly #states: string[] = [];
  readonly #contexts: unknown[] = [];
  /** Numbers of consecutive repetitions, by place in the lists; absent for a single step. */
  readonly #repeats = new Map<number, number>();
  /** Place of the oldest step once the lists are full. */
  #oldest = 0;
  #subject: string | null = null;
  #start: { state: string; context: unknown } | null = null;
  #dropped = 0;

  /** @param capacity number of steps kept; a step that repeats the previous one takes no extra place */
  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /** Number of steps dropped. */
  get dropped(): number {
    return this.#dropped;
  }

  /** Records that the newest actor of the session started in this state. Replay then refers to this actor. */
  begin(actor: string, { value, context }: Step): void {
    this.#subject = actor;
    this.#start = { state: textOf(value), context };
  }

  /** @param t wall-clock time, in milliseconds */
  add(t: number, actor: string, { event, value, context }: Step): void {
    const state = textOf(value);
    const length = this.#times.length;
    const last = (this.#oldest + length - 1) % length;
    if (length > 0 && this.#isRepeated(last, actor, event, state, context)) {
      this.#repeats.set(last, (this.#repeats.get(last) ?? 1) + 1);
      this.#times[last] = t;
      return;
    }
    const at = length < this.#capacity ? length : this.#oldest;
    if (at < length) this.#drop();
    this.#times[at] = t;
    this.#actors[at] = actor;
    this.#events[at] = event;
    this.#states[at] = state;
    this.#contexts[at] = context;
  }

  base(): FlightBase | null {
    return this.#start && { value: JSON.parse(this.#start.state), context: safeContext(this.#start.context) };
  }

  events(): FlightEvent[] {
    return this.#times.map((_, nth) => {
      const at = (this.#oldest + nth) % this.#times.length;
      const { type, fields } = safeEvent(this.#events[at]!);
      const times = this.#repeats.get(at);
      return {
        t: this.#times[at]!,
        actor: this.#actors[at]!,
        event: type,
        ...(Object.keys(fields).length > 0 && { fields }),
        state: this.#states[at]!,
        ...(times !== undefined && { times }),
      };
    });
  }

  /** Returns whether a step is identical to the one before it and changed nothing. It is counted, not stored again. */
  #isRepeated(last: number, actor: string, event: { type: string }, state: string, context: unknown): boolean {
    const before = this.#events[last]!;
    return (
      before.type === event.type &&
      this.#actors[last] === actor &&
      this.#states[last] === state &&
      this.#contexts[last] === context &&
      JSON.stringify(safeEvent(before)) === JSON.stringify(safeEvent(event))
    );
  }

  /** Drops the oldest step. If it was of the actor to which replay refers, replay starts from the state it led to. */
  #drop(): void {
    const at = this.#oldest;
    if (this.#actors[at] === this.#subject) this.#start = { state: this.#states[at]!, context: this.#contexts[at] };
    this.#dropped += this.#repeats.get(at) ?? 1;
    this.#repeats.delete(at);
    this.#oldest = (at + 1) % this.#capacity;
  }
}

/** Returns the fields of a turn's log line that describe its end. */
export function endingOf(line: TurnLine): FlightEnding {
  const { turn, outcome, decidedBy, shape, form, terminal, fault, cause, upstreamStatus } = line;
  const { heldMs, firstEventMs, totalMs } = line;
  return {
    ...{ turn, outcome, decidedBy, shape, form, terminal, fault, cause, upstreamStatus },
    ...{ heldMs, firstEventMs, totalMs },
  };
}

export interface RecorderOptions {
  workerId(): string;
  clock: Pick<Clock, 'now' | 'wall'>;
  /** Number of events kept per session. Default 64. */
  events?: number;
  /** Number of sessions without an actor here whose stories are kept. Default 500. */
  ended?: number;
  /** Called with the story of a turn that ended badly, at most 60 times a minute. Its exceptions are ignored. */
  onBadEnd?(sessionId: string, turnId: string, record: FlightRecord): void;
}

/** Observer of the machines that the recorder passes its observations on to. It throws nothing. */
export interface Follower {
  observe(step: Step): void;
  /** A turn was placed on a session, or moved to another one. */
  place(turn: Observed): void;
}

/** Recorder of the last machine events of every session, for diagnosis after a failure. */
export interface Recorder {
  /** Records a step of any machine. Never throws. */
  readonly observe: (step: Step) => void;
  /** Records that a turn was placed on a session. Its events then belong to that session's story. */
  place(turn: Observed, sessionId: string): void;
  /** Returns the session on which a running turn was placed last. */
  sessionOf(turn: Observed): string | undefined;
  /** Returns the running actors, without ended ones. */
  running(): Iterable<Observed>;
  /** Passes every event and placement on to this observer, once it is recorded. Null: to none. */
  follow(follower: Follower | null): void;
  /** Records the end of a turn. After a bad end, the story of its session is passed to `onBadEnd`. */
  turnEnded(line: TurnLine): void;
  /** Returns the story of a session, or null when nothing is recorded. */
  story(sessionId: string): FlightRecord | null;
  /** Number of sessions with recorded events. */
  readonly size: number;
}

/** A running actor that belongs to the story of a session. */
interface Part {
  sessionId: string;
  /** Its name in that story. */
  name: string;
  /** Epoch of a session's own actor; null for a turn. */
  epoch: number | null;
}

interface Flight {
  readonly ring: Ring;
  epoch: number;
  /** The last turn that ended, if it ended badly. */
  ending: FlightEnding | null;
}

const MINUTE = 60_000;
const MOST_A_MINUTE = 60;

/**
 * Returns whether a turn ended badly: the bridge failed it, or its end is unknown. Cancellation by a client, and a
 * request that the provider refuses as invalid, are normal.
 */
export function endedBadly({ terminal, fault, upstreamStatus }: FlightEnding): boolean {
  if (terminal === 'lost') return true;
  if (fault !== null) return fault !== 'bridge_turn_cancelled' && fault !== 'bridge_session_closed';
  return terminal === 'failed' && (upstreamStatus === null || upstreamStatus >= 500);
}

/** Creates a recorder without any events. */
export function createRecorder(options: RecorderOptions): Recorder {
  const { clock, events = 64, ended: mostEnded = 500 } = options;
  const flights = new Map<string, Flight>();
  /** Sessions without an actor, the one that ended first in front. */
  const ended = new Set<string>();
  /** Running actors; null for one that belongs to no session. */
  const running = new Map<Observed, Part | null>();
  let follower: Follower | null = null;
  let minute = Number.NEGATIVE_INFINITY;
  let handed = 0;

  function partOf(actor: Observed, sessionOfTurn?: string): Part | null {
    const identity = identify(actor, sessionOfTurn);
    if (!identity?.sessionId) return null;
    const { kind, id, sessionId } = identity;
    if (kind === 'turn') return { sessionId, name: id, epoch: null };
    const epoch = Number(actor.id.split('@')[1] ?? 1);
    return { sessionId, name: `session@${epoch}`, epoch };
  }

  function flightOf(sessionId: string): Flight {
    let flight = flights.get(sessionId);
    if (!flight) flights.set(sessionId, (flight = { ring: new Ring(events), epoch: 0, ending: null }));
    return flight;
  }

  /** Keeps the stories of sessions without an actor up to the limit, and drops the oldest. */
  function retire(sessionId: string): void {
    ended.delete(sessionId);
    ended.add(sessionId);
    for (const oldest of ended) {
      if (ended.size <= mostEnded) break;
      ended.delete(oldest);
      flights.delete(oldest);
    }
  }

  function record(step: Step): void {
    const { actor, event, status } = step;
    let part = running.get(actor);
    if (part === undefined) running.set(actor, (part = partOf(actor)));
    if (part === null) return;
    const { sessionId, name, epoch } = part;
    const flight = flightOf(sessionId);
    if (epoch !== null && event.type === 'xstate.init' && epoch >= flight.epoch) {
      flight.epoch = epoch;
      flight.ring.begin(name, step);
      ended.delete(sessionId);
    }
    flight.ring.add(clock.wall(), name, step);
    // Applies also to a turn placed on a session that never started: its story must not be kept without limit.
    if (status !== 'active' && (epoch === flight.epoch || flight.epoch === 0)) retire(sessionId);
  }

  function tell(sessionId: string): FlightRecord | null {
    const flight = flights.get(sessionId);
    if (!flight) return null;
    const { ring, epoch, ending } = flight;
    const { dropped } = ring;
    const base = ring.base();
    return { version: 1, sessionId, workerId: options.workerId(), epoch, base, events: ring.events(), dropped, ending };
  }

  function mayHandOver(): boolean {
    if (clock.now() - minute >= MINUTE) {
      minute = clock.now();
      handed = 0;
    }
    return (handed += 1) <= MOST_A_MINUTE;
  }

  return {
    observe(step) {
      try {
        record(step);
      } catch {
        // A gap in a story is better than a turn that fails because of its recording.
      }
      follower?.observe(step);
      if (step.status !== 'active') running.delete(step.actor);
    },
    place(turn, sessionId) {
      if (!running.has(turn)) return;
      running.set(turn, partOf(turn, sessionId));
      follower?.place(turn);
    },
    sessionOf: (turn) => running.get(turn)?.sessionId,
    running: () => running.keys(),
    follow(next) {
      follower = next;
    },
    turnEnded(line) {
      const flight = line.session === null ? undefined : flights.get(line.session);
      if (line.session === null || !flight) return;
      flight.ending = null;
      if (!endedBadly(line)) return;
      const ending = endingOf(line);
      flight.ending = ending;
      if (!options.onBadEnd || !mayHandOver()) return;
      const story = tell(line.session);
      if (!story) return;
      try {
        options.onBadEnd(line.session, line.turn, story);
      } catch {
        // The keeper of stories reports its own errors.
      }
    },
    story: tell,
    get size() {
      return flights.size;
    },
  };
}
