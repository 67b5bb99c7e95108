import type { BridgeError } from '../errors.ts';
import type { UpstreamAnswer } from '../upstream/port.ts';
import type { AnswerHead, ClientSink } from './port.ts';
import type { BufferShare } from './quota.ts';

type TerminalType = 'response.completed' | 'response.incomplete' | 'response.failed';

interface Entry {
  type: string;
  json: string;
  telemetry: boolean;
}

type Ending =
  | { kind: 'end'; type: TerminalType; json: string }
  | { kind: 'fail'; error: BridgeError }
  | { kind: 'relay'; answer: UpstreamAnswer };

export interface StreamOptions {
  /** Bytes kept from event 0 for a client that comes back; beyond it the buffer is given up as a whole. */
  bufferBytes: number;
  /** Counts what is kept, and gives it up where all turns together keep too much. Default: it is not counted. */
  share?: ((giveUp: () => void) => BufferShare) | undefined;
  /** Counts bytes that readers are behind; true when all of them together are too far behind. Default: not counted. */
  unread?: ((change: number) => boolean) | undefined;
  /** The reader is further behind the writer than the buffer is large, or has caught up again. */
  onPressure(paused: boolean): void;
}

/**
 * What one turn has to say, from event 0 to its one terminal, and whoever reads it at the moment.
 * A later reader gets everything from the start, or is refused when the start is no longer kept.
 */
export interface TurnStream {
  /** What the answer's headers will say; a later reader is told the same, except that it was reattached. */
  head(head: AnswerHead): void;
  /** Replaces the provider's part of the head; no effect on an answer whose status has left. */
  restate(headers: AnswerHead['headers']): void;
  push(type: string, json: string, telemetry: boolean): void;
  /** The terminal. Only the first is taken; returns whether this was it. */
  finish(ending: Ending): boolean;
  /** Replaces the reader: events from the start, then live. */
  attach(sink: ClientSink): void;
  /** Forgets buffered events when a turn is sent again unseen: nothing of the first attempt may be shown. */
  rewind(): void;
  /** Ends without a word: the reader now belongs to another stream. */
  abandon(): void;
  /** Keeps nothing any more: no reader can come after this. */
  discard(): void;
  readonly sink: ClientSink;
  readonly attached: boolean;
  /** Whether any reader so far was shown an event. */
  readonly shown: boolean;
  /** The buffer still begins with event 0. */
  readonly complete: boolean;
  readonly finished: boolean;
  /** What of it is kept for a later reader. */
  readonly bufferedBytes: number;
  /** The terminal has reached a reader. */
  readonly delivered: boolean;
  /** Called once when the terminal has reached a reader; at once if it has. */
  onDelivered(listener: () => void): void;
}

/** @param first the client the turn was admitted for */
export function createTurnStream(first: ClientSink, options: StreamOptions): TurnStream {
  let sink = first;
  let buffer: Entry[] | null = [];
  let bytes = 0;
  let shown = false;
  let ending: Ending | { kind: 'abandoned' } | null = null;
  let head: AnswerHead | null = null;
  let delivered = false;
  /** Bytes written since the reader last kept up. */
  let behind = 0;
  const listeners: (() => void)[] = [];
  /** The start was given up while a reader could still have come. */
  let cropped = false;
  const giveUp = () => {
    buffer = null;
    bytes = 0;
    cropped = true;
  };
  const share = options.share?.(giveUp);
  const caughtUp = () => {
    options.unread?.(-behind);
    behind = 0;
  };
  const discard = () => {
    buffer = null;
    bytes = 0;
    share?.empty();
  };

  /** A reader that cannot be written to is cut off: it must not wait for what does not come. */
  const orCut = <T>(reader: ClientSink, act: () => T): T => {
    try {
      return act();
    } catch (error) {
      reader.cut();
      throw error;
    }
  };
  const write = (entry: Entry) => {
    if (!sink.attached) return;
    let crowded = false;
    if (sink.event(entry.type, entry.json, entry.telemetry)) caughtUp();
    else {
      behind += entry.json.length;
      crowded = options.unread?.(entry.json.length) ?? false;
    }
    // An upstream that is not read has its pings unanswered: until then the events wait here, while there is room.
    if (behind > options.bufferBytes || crowded) options.onPressure(true);
    shown ||= sink.shown;
  };
  const close = () =>
    orCut(sink, () => {
      if (ending?.kind === 'end') {
        // Counted until it was read, like every event before it.
        if (sink.attached) {
          behind += ending.json.length;
          options.unread?.(ending.json.length);
        }
        sink.end(ending.type, ending.json);
      } else if (ending?.kind === 'fail') sink.fail(ending.error);
      else if (ending?.kind === 'relay') sink.relay(ending.answer);
    });
  const listen = (reader: ClientSink) => {
    reader.onDrain(() => {
      if (reader !== sink) return;
      caughtUp();
      options.onPressure(false);
    });
    reader.onGone(() => {
      if (reader !== sink) return;
      caughtUp();
      // While no client reads, the turn goes on all the same.
      options.onPressure(false);
    });
    reader.onDelivered(() => {
      if (reader !== sink || delivered) return;
      delivered = true;
      caughtUp();
      discard();
      for (const listener of listeners.splice(0)) listener();
    });
  };
  listen(first);

  return {
    head(given) {
      head = given;
      sink.head(given);
    },
    restate(headers) {
      if (!head || ending) return;
      head = { ...head, headers };
      if (!sink.committed) sink.head(head);
    },
    push(type, json, telemetry) {
      if (ending) return;
      const entry = { type, json, telemetry };
      if (buffer) {
        bytes += json.length;
        buffer.push(entry);
        if (bytes <= options.bufferBytes) share?.grow(json.length);
        else {
          share?.empty();
          giveUp();
        }
      }
      write(entry);
    },
    finish(given) {
      if (ending) return false;
      ending = given;
      close();
      return true;
    },
    attach(reader) {
      const before = sink;
      caughtUp();
      sink = reader;
      // A client that asks again has given its earlier connection up, whether or not that is known here yet.
      if (before.attached) before.cut();
      listen(reader);
      options.onPressure(false);
      if (head) reader.head({ ...head, outcome: 'reattached' });
      for (const entry of buffer ?? []) write(entry);
      if (ending) close();
    },
    rewind() {
      discard();
      buffer = [];
      cropped = false;
    },
    abandon() {
      ending ??= { kind: 'abandoned' };
      discard();
    },
    discard,
    get sink() {
      return sink;
    },
    get attached() {
      return sink.attached;
    },
    get shown() {
      return shown;
    },
    get complete() {
      return !cropped;
    },
    get bufferedBytes() {
      return bytes;
    },
    get finished() {
      return ending !== null;
    },
    get delivered() {
      return delivered || ending?.kind === 'abandoned';
    },
    onDelivered(listener) {
      if (delivered) listener();
      else listeners.push(listener);
    },
  };
}
