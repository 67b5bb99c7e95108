import type { AnyStateMachine, InspectionEvent, StateValue } from 'xstate';
import type { SessionContext, SessionEvent } from '../../machines/session.ts';
import { isFields } from '../json.ts';
import type { TurnLine } from '../session/turn.ts';
import type { Clock } from '../system.ts';

/** Parts of a running XState actor that the hub uses. */
export interface ActorLike {
  readonly id: string;
  readonly logic?: unknown;
  getSnapshot(): unknown;
}

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
export function identify(ref: ActorLike, sessionOfTurn: string | undefined): Identity | null {
  const machine = (ref.logic as AnyStateMachine | undefined)?.id;
  if (machine === 'session') {
    const [sessionId, epoch] = ref.id.split('@') as [string, string?];
    const name = `session ${short(sessionId)}${epoch ? ` epoch ${epoch}` : ''}`;
    return { kind: 'session', id: `session:${sessionId}`, name, sessionId, parentId: undefined };
  }
  if (machine === 'turn') {
    const { turnId } = (ref.getSnapshot() as { context?: { turnId?: string } } | undefined)?.context ?? {};
    if (!turnId) return null;
    const parentId = sessionOfTurn === undefined ? undefined : `session:${sessionOfTurn}`;
    return {
      kind: 'turn',
      id: `turn:${turnId}`,
      name: `turn ${short(turnId)}`,
      sessionId: sessionOfTurn ?? null,
      parentId,
    };
  }
  if (machine === 'worker') {
    const workerId = ref.id.replace(/^worker:/, '');
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

/** One step of an actor. Snapshots are immutable, so keeping references to their parts needs no copy. */
export interface Step {
  t: number;
  actor: string;
  event: string;
  fields: SafeFields;
  value: StateValue;
  context: unknown;
}

/**
 * Recorded step. Of the snapshot only the context is kept; the state value is in `state`, as a text shared by all
 * sessions.
 */
interface Kept extends FlightEvent {
  context: unknown;
}

/** The last steps of one session and its turns. */
interface Ring {
  /** Records that the newest actor of the session started in this state. Replay then refers to this actor. */
  begin(actor: string, base: { value: StateValue; context: unknown }): void;
  add(step: Step): void;
  base(): FlightBase | null;
  events(): FlightEvent[];
  readonly dropped: number;
}

/** Interned texts of state values. There are few, and all sessions share them. */
const texts = new Map<string, string>();
const intern = (text: string) => {
  const known = texts.get(text);
  if (known === undefined && texts.size < 1_000) texts.set(text, text);
  return known ?? text;
};

/**
 * Creates an empty ring.
 *
 * @param capacity number of steps kept; a step that repeats the previous one takes no extra place
 */
function createRing(capacity: number): Ring {
  const kept: Kept[] = [];
  let subject: string | null = null;
  let start: { value: StateValue; context: unknown } | null = null;
  let dropped = 0;

  /** Returns whether a step is identical to the previous one and changed nothing. It is counted, not stored again. */
  function repeats(last: Kept | undefined, step: Step, state: string): last is Kept {
    return (
      last !== undefined &&
      last.actor === step.actor &&
      last.event === step.event &&
      last.state === state &&
      last.context === step.context &&
      JSON.stringify(last.fields ?? {}) === JSON.stringify(step.fields)
    );
  }

  return {
    begin(actor, base) {
      subject = actor;
      start = base;
    },
    add(step) {
      const { t, actor, event, fields, value, context } = step;
      const state = intern(JSON.stringify(value));
      const last = kept.at(-1);
      if (repeats(last, step, state)) {
        last.times = (last.times ?? 1) + 1;
        last.t = t;
        return;
      }
      const noted = Object.keys(fields).length > 0 && { fields };
      kept.push({ t, actor, event, ...noted, state, context });
      if (kept.length <= capacity) return;
      const [oldest] = kept.splice(0, 1) as [Kept];
      dropped += oldest.times ?? 1;
      if (oldest.actor === subject) start = { value: JSON.parse(oldest.state), context: oldest.context };
    },
    base: () => start && { value: start.value, context: safeContext(start.context) },
    events: () => kept.map(({ context: _, ...event }) => event),
    get dropped() {
      return dropped;
    },
  };
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
  observe(event: InspectionEvent): void;
  /** A turn was placed on a session, or moved to another one. */
  place(turn: ActorLike): void;
}

/** Recorder of the last machine events of every session, for diagnosis after a failure. */
export interface Recorder {
  /** The `inspect` option of sessions and turns. Never throws. */
  readonly observe: (event: InspectionEvent) => void;
  /** Records that a turn was placed on a session. Its events then belong to that session's story. */
  place(turn: ActorLike, sessionId: string): void;
  /** Returns the session on which a turn was placed last. */
  sessionOf(turn: ActorLike): string | undefined;
  /** Returns the running actors, without ended ones. */
  running(): Iterable<ActorLike>;
  /** Passes every event and placement on to this observer, once it is recorded. Null: to none. */
  follow(follower: Follower | null): void;
  /** Records the end of a turn. After a bad end, the story of its session is passed to `onBadEnd`. */
  turnEnded(line: TurnLine): void;
  /** Returns the story of a session, or null when nothing is recorded. */
  story(sessionId: string): FlightRecord | null;
  /** Number of sessions with recorded events. */
  readonly size: number;
}

/** Set of running actors. Adding one costs almost nothing. */
export interface Running {
  add(ref: ActorLike): void;
  /** Returns the running actors, without ended ones. */
  all(): Iterable<ActorLike>;
  /** Number of actors held, including ended ones. */
  readonly size: number;
}

/** Below this number of actors no sweep is made. */
const FEW = 256;

/**
 * Creates the set of running actors. Ended actors are removed when it is read, or when it holds more than `FEW` plus
 * twice the number that was running at the last sweep.
 */
export function createRunning(): Running {
  const refs = new Set<ActorLike>();
  let left = 0;
  const sweep = () => {
    for (const ref of refs) {
      const snapshot = ref.getSnapshot() as { status: string } | undefined;
      if (snapshot && snapshot.status !== 'active') refs.delete(ref);
    }
    left = refs.size;
  };
  return {
    add(ref) {
      // Sweep before adding: the new actor has no snapshot yet, and XState throws when the snapshot is read.
      if (refs.size > FEW + 2 * left) sweep();
      refs.add(ref);
    },
    all() {
      sweep();
      return refs;
    },
    get size() {
      return refs.size;
    },
  };
}

interface Flight {
  ring: Ring;
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
  const placed = new WeakMap<object, string>();
  const known = new WeakMap<object, { sessionId: string; actor: string; epoch: number | null }>();
  const running = createRunning();
  let follower: Follower | null = null;
  let minute = Number.NEGATIVE_INFINITY;
  let handed = 0;

  function whoIs(ref: ActorLike) {
    let who = known.get(ref);
    if (who) return who;
    const identity = identify(ref, placed.get(ref));
    if (!identity?.sessionId) return null;
    const epoch = identity.kind === 'session' ? Number(ref.id.split('@')[1] ?? 1) : null;
    who = { sessionId: identity.sessionId, actor: epoch === null ? identity.id : `session@${epoch}`, epoch };
    known.set(ref, who);
    return who;
  }

  function flightOf(sessionId: string): Flight {
    let flight = flights.get(sessionId);
    if (!flight) flights.set(sessionId, (flight = { ring: createRing(events), epoch: 0, ending: null }));
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

  function record(event: Extract<InspectionEvent, { type: '@xstate.snapshot' }>): void {
    const who = whoIs(event.actorRef as unknown as ActorLike);
    if (!who) return;
    const { value, context, status } = event.snapshot as unknown as {
      value: StateValue;
      context: unknown;
      status: string;
    };
    const flight = flightOf(who.sessionId);
    const { type, fields } = safeEvent(event.event);
    if (who.epoch !== null && type === 'xstate.init' && who.epoch >= flight.epoch) {
      flight.epoch = who.epoch;
      flight.ring.begin(who.actor, { value, context });
      ended.delete(who.sessionId);
    }
    flight.ring.add({ t: clock.wall(), actor: who.actor, event: type, fields, value, context });
    // Applies also to a turn placed on a session that never started: its story must not be kept without limit.
    if (status !== 'active' && (who.epoch === flight.epoch || flight.epoch === 0)) retire(who.sessionId);
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
    observe(event) {
      try {
        if (event.type === '@xstate.snapshot') record(event);
        else if (event.type === '@xstate.actor') running.add(event.actorRef as unknown as ActorLike);
      } catch {
        // A gap in a story is better than a turn that fails because of its recording.
      }
      follower?.observe(event);
    },
    place(turn, sessionId) {
      placed.set(turn, sessionId);
      known.delete(turn);
      follower?.place(turn);
    },
    sessionOf: (turn) => placed.get(turn),
    running: running.all,
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
