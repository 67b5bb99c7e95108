import type { Clock } from '../clock.ts';
import type { KeyRef, TurnRow } from '../store/port.ts';
import type { Line } from '../transcript/line.ts';
import type { Head } from './commits.ts';
import type { Turn } from './turn.ts';

/** Identity of a lane: fixed for one (session, epoch) on one worker. */
export interface SessionIdentity {
  readonly id: string;
  readonly epoch: number;
  readonly scope: string;
  readonly workerId: string;
  /** Hard keys under which this session was created; empty for parallel lanes, forks and claimed sessions. */
  readonly keys: readonly KeyRef[];
  /** Name of the deadline of its idle socket: only sessions that were reached by hard evidence keep one for long. */
  kept: 'idle' | 'laneIdle' | 'softIdle';
}

/** The head with which a lane begins. */
export interface KnownHead {
  /** Head id in the session's row: the fence compares it, whether or not that turn can be read. */
  id: string | null;
  row: TurnRow | null;
  line: Line | null;
}

/**
 * The turns of one session on this worker: the head, the current one, the waiting ones, and an ended one that has not
 * been delivered yet.
 */
export interface TurnQueue extends SessionIdentity {
  /** Head id in the session's row. */
  headId: string | null;
  /** The last completed or incomplete turn of the line. Also null if the row names a turn that cannot be read. */
  head: TurnRow | null;
  /** The line that ends at the head; null if it is not known here. */
  line: Line | null;
  /** Fingerprints by which requests find the head. */
  places: readonly string[];
  readonly current: Turn | null;
  readonly waiting: readonly Turn[];
  /**
   * An ended turn whose client has not received its terminal event. It is kept for the grace period, so that a retry
   * finds it.
   */
  readonly undelivered: Turn | null;
  /** Number of bytes of the line's items that this worker has stored. */
  storedBytes: number;
  /** Time of the last activity, in monotonic milliseconds. */
  readonly lastUsed: number;
  take(turn: Turn): void;
  /** Removes the current turn from the lane and returns it. */
  giveUp(): Turn | null;
  /**
   * Notes that the current turn has ended.
   *
   * @param head the head that the turn became; null if it did not become one
   */
  finish(head: Head | null): void;
  queue(turn: Turn): void;
  next(): Turn | undefined;
  withdraw(turn: Turn): boolean;
  /** Empties the queue. */
  handBack(): Turn[];
  touch(): void;
  /** Discards the undelivered turn. */
  forget(): void;
}

/**
 * Creates the lane of a session.
 *
 * @param graceMs time for which an ended turn is kept for its client to come back, in milliseconds
 * @param onForgotten called when an ended turn is no longer kept
 */
export function createTurnQueue(
  identity: SessionIdentity,
  head: KnownHead,
  clock: Clock,
  graceMs: number,
  onForgotten = () => {},
): TurnQueue {
  let current: Turn | null = null;
  let waiting: Turn[] = [];
  let undelivered: Turn | null = null;
  let stopGrace = () => {};
  let lastUsed = clock.now();

  const forget = () => {
    stopGrace();
    if (undelivered === null) return;
    undelivered.stream.discard();
    undelivered = null;
    onForgotten();
  };
  const linger = (turn: Turn) => {
    forget();
    if (turn.stream.delivered) return;
    undelivered = turn;
    stopGrace = clock.after(graceMs, forget);
    turn.stream.onDelivered(() => {
      if (undelivered === turn) forget();
    });
  };

  return {
    ...identity,
    headId: head.id,
    head: head.row,
    line: head.line,
    places: [],
    storedBytes: 0,
    get current() {
      return current;
    },
    get waiting() {
      return waiting;
    },
    get undelivered() {
      return undelivered;
    },
    get lastUsed() {
      return lastUsed;
    },
    take(turn) {
      forget();
      current = turn;
    },
    giveUp() {
      const turn = current;
      current = null;
      return turn;
    },
    finish(left) {
      const turn = current;
      current = null;
      lastUsed = clock.now();
      if (left) {
        this.headId = left.row.id;
        this.head = left.row;
        this.line = left.line;
        this.places = left.places;
      }
      if (turn) linger(turn);
    },
    queue(turn) {
      lastUsed = clock.now();
      waiting.push(turn);
    },
    next: () => waiting.shift(),
    withdraw(turn) {
      const before = waiting.length;
      waiting = waiting.filter((each) => each !== turn);
      return waiting.length < before;
    },
    handBack() {
      const handed = waiting;
      waiting = [];
      return handed;
    },
    touch() {
      lastUsed = clock.now();
    },
    forget,
  };
}
