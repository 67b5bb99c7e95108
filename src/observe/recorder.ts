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
  /** Events kept of each session. Default 64. */
  events?: number;
  /** Sessions without an actor here whose stories are kept. Default 500. */
  ended?: number;
  /** Called with the story of a turn that ended badly, at most 60 times a minute. What it throws is ignored. */
  onBadEnd?(sessionId: string, turnId: string, record: FlightRecord): void;
}

/** Remembers the last machine events of every session, so that it can be told afterwards what happened. */
export interface Recorder {
  /** The `inspect` option of sessions and turns. Never throws. */
  readonly observe: (event: InspectionEvent) => void;
  /** A turn was placed on a session: its events are part of that session's story from now on. */
  place(turn: ActorLike, sessionId: string): void;
  /** A turn has ended; with a bad end its session's story is handed to `onBadEnd`. */
  turnEnded(line: TurnLine): void;
  /** Null for a session nothing is remembered of. */
  story(sessionId: string): FlightRecord | null;
  /** Sessions something is remembered of. */
  readonly size: number;
}

interface Flight {
  ring: Ring;
  epoch: number;
  /** Of the last turn that ended, if it ended badly. */
  ending: FlightEnding | null;
}

const MINUTE = 60_000;
const MOST_A_MINUTE = 60;

/**
 * Ended badly: the bridge gave up on it, or its end is unknown. A client that cancels, and a provider that refuses a
 * request as wrong, are the order of the day.
 */
export function endedBadly({ terminal, fault, upstreamStatus }: FlightEnding): boolean {
  if (terminal === 'lost') return true;
  if (fault !== null) return fault !== 'bridge_turn_cancelled' && fault !== 'bridge_session_closed';
  return terminal === 'failed' && (upstreamStatus === null || upstreamStatus >= 500);
}

export function createRecorder(options: RecorderOptions): Recorder {
  const { clock, events = 64, ended: mostEnded = 500 } = options;
  const flights = new Map<string, Flight>();
  /** Those without an actor, the one that ended first in front. */
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

  /** Keeps the stories of sessions that have no actor for as long as there is room. */
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
    // A turn placed on a session that never began keeps no story either.
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
        // A story with a gap is better than a turn that fails over its story.
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
        // Whoever keeps stories reports its own errors.
      }
    },
    story: tell,
    get size() {
      return flights.size;
    },
  };
}
