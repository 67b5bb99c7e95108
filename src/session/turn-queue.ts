import type { Clock } from '../clock.ts';
import type { TurnRow } from '../store/port.ts';
import type { Line } from '../transcript/line.ts';
import type { Turn } from './turn.ts';

/** The last turn of a session's line, as known to the session. */
export interface Head {
  row: TurnRow;
  /** Null if the forms of some ancestor are not known here. */
  line: Line | null;
  /** Fingerprints by which requests find the turn. */
  places: readonly string[];
}

/**
 * The turns of one session on this worker: the head, the current one, the waiting ones, and an ended one that has not
 * been delivered yet.
 */
export class TurnQueue {
  /** Head id in the session's row: the fence compares it, whether or not that turn can be read. */
  headId: string | null;
  /** The last completed or incomplete turn of the line. Also null if the row names a turn that cannot be read. */
  head: TurnRow | null;
  /** The line that ends at the head; null if it is not known here. */
  line: Line | null;
  /** Fingerprints by which requests find the head; empty if they are not known here. */
  places: readonly string[] = [];
  current: Turn | null = null;
  readonly waiting: Turn[] = [];
  /**
   * An ended turn whose client has not received its terminal event. It is kept for the grace period, so that a retry
   * finds it.
   */
  undelivered: Turn | null = null;
  /** Number of bytes of the line's items that this worker has stored. */
  storedBytes = 0;
  /** Time of the last activity, in monotonic milliseconds. */
  lastUsed: number;
  readonly #clock: Clock;
  readonly #graceMs: number;
  readonly #onDiscarded: () => void;
  #stopGrace: (() => void) | null = null;

  /**
   * @param graceMs time for which an ended turn is kept for its client to come back, in milliseconds
   * @param onDiscarded called when an ended turn is no longer kept
   */
  constructor(
    head: Pick<TurnQueue, 'headId' | 'head' | 'line'>,
    clock: Clock,
    graceMs: number,
    onDiscarded: () => void,
  ) {
    this.headId = head.headId;
    this.head = head.head;
    this.line = head.line;
    this.lastUsed = clock.now();
    this.#clock = clock;
    this.#graceMs = graceMs;
    this.#onDiscarded = onDiscarded;
  }

  /** The current turn, or the ended one whose client has not received its terminal event yet. */
  get attachable(): Turn | null {
    return this.current ?? this.undelivered;
  }

  touch(): void {
    this.lastUsed = this.#clock.now();
  }

  /** Makes a turn the current one. */
  take(turn: Turn): void {
    this.#discardUndelivered();
    this.current = turn;
  }

  /** Removes the current turn and returns it. */
  giveUp(): Turn | null {
    const turn = this.current;
    this.current = null;
    return turn;
  }

  /**
   * Notes that the current turn has ended. It is kept until its client has received the end, at most for the grace
   * period.
   *
   * @param head the head that the turn became; null if it did not become one
   */
  finish(head: Head | null): void {
    const turn = this.current;
    this.current = null;
    this.touch();
    if (head) {
      this.headId = head.row.id;
      this.head = head.row;
      this.line = head.line;
      this.places = head.places;
    }
    if (turn) this.#keep(turn);
  }

  /** Lets a turn wait for its admission. */
  queue(turn: Turn): void {
    this.touch();
    this.waiting.push(turn);
  }

  /**
   * Removes a waiting turn.
   *
   * @returns false if it does not wait here
   */
  withdraw(turn: Turn): boolean {
    const index = this.waiting.indexOf(turn);
    if (index >= 0) this.waiting.splice(index, 1);
    return index >= 0;
  }

  /** Removes all waiting turns and returns them. */
  takeWaiting(): Turn[] {
    return this.waiting.splice(0);
  }

  #keep(turn: Turn): void {
    this.#discardUndelivered();
    if (turn.stream.delivered) return;
    this.undelivered = turn;
    this.#stopGrace = this.#clock.after(this.#graceMs, () => this.#discardUndelivered());
    turn.stream.onDelivered(() => {
      if (this.undelivered === turn) this.#discardUndelivered();
    });
  }

  #discardUndelivered(): void {
    this.#stopGrace?.();
    this.#stopGrace = null;
    if (this.undelivered === null) return;
    this.undelivered.stream.discard();
    this.undelivered = null;
    this.#onDiscarded();
  }
}
