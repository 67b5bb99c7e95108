import type { Clock } from '../clock.ts';
import type { KeyRef, TurnRow } from '../store/port.ts';
import type { Line } from '../transcript/line.ts';
import type { Head } from './result.ts';
import type { Turn } from './turn.ts';

/** Who a lane is: fixed for one (session, epoch) on one worker. */
export interface LaneIdentity {
  readonly id: string;
  readonly epoch: number;
  readonly scope: string;
  readonly workerId: string;
  /** Hard keys this session was made with; empty for lanes, forks and claimed sessions. */
  readonly keys: readonly KeyRef[];
  /** The deadline of its idle socket: only sessions reached by hard evidence keep one for long. */
  kept: 'idle' | 'laneIdle' | 'softIdle';
}

/** The head a lane begins with. */
export interface KnownHead {
  /** What the session's row says: the fence compares it, whether or not such a turn can be read. */
  id: string | null;
  row: TurnRow | null;
  line: Line | null;
}

/** The turns of one session on this worker: the head, the one in hand, those that wait, and one not yet delivered. */
export interface Lane extends LaneIdentity {
  /** The head that the session's row names. */
  headId: string | null;
  /** The last completed or incomplete turn of the line; null also where the row names one that cannot be read. */
  head: TurnRow | null;
  /** The line that the head ends; null when it is not known here. */
  line: Line | null;
  /** Fingerprints under which requests find the head. */
  places: readonly string[];
  readonly current: Turn | null;
  readonly waiting: readonly Turn[];
  /** An ended turn whose client has not got its terminal: kept for the rest of the grace, so that a retry finds it. */
  readonly undelivered: Turn | null;
  /** Bytes of items this worker has stored of the line. */
  storedBytes: number;
  /** Monotonic milliseconds of the last activity. */
  readonly lastUsed: number;
  take(turn: Turn): void;
  /** The turn in hand is nobody's any more here; returns it. */
  giveUp(): Turn | null;
  /** The turn in hand has ended; `head` is what it left, if it became one. */
  finish(head: Head | null): void;
  queue(turn: Turn): void;
  next(): Turn | undefined;
  withdraw(turn: Turn): boolean;
  /** Empties the queue. */
  handBack(): Turn[];
  touch(): void;
  /** Lets the undelivered turn go. */
  forget(): void;
}

/**
 * @param graceMs how long an ended turn waits for its client to come back, milliseconds
 * @param onForgotten called when an ended turn waits no longer
 */
export function createLane(
  identity: LaneIdentity,
  head: KnownHead,
  clock: Clock,
  graceMs: number,
  onForgotten = () => {},
): Lane {
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
