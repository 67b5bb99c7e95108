import type { InspectionEvent, StateValue } from 'xstate';
import type { Clock } from '../clock.ts';
import { endingOf } from './failures.ts';
import type { FlightEnding, FlightRecord } from './flight.ts';
import { type ActorLike, identify } from './inspect/identity.ts';
import type { TurnLine } from './log.ts';
import { createRing, type Ring } from './ring.ts';
import { safeEvent } from './safe.ts';

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

/** Recorder of the last machine events of every session, for diagnosis after a failure. */
export interface Recorder {
  /** The `inspect` option of sessions and turns. Never throws. */
  readonly observe: (event: InspectionEvent) => void;
  /** Records that a turn was placed on a session. Its events then belong to that session's story. */
  place(turn: ActorLike, sessionId: string): void;
  /** Records the end of a turn. After a bad end, the story of its session is passed to `onBadEnd`. */
  turnEnded(line: TurnLine): void;
  /** Returns the story of a session, or null when nothing is recorded. */
  story(sessionId: string): FlightRecord | null;
  /** Number of sessions with recorded events. */
  readonly size: number;
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
      if (event.type !== '@xstate.snapshot') return;
      try {
        record(event);
      } catch {
        // A gap in a story is better than a turn that fails because of its recording.
      }
    },
    place(turn, sessionId) {
      placed.set(turn, sessionId);
      known.delete(turn);
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
