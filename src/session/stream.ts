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
  /** Maximum number of bytes kept from event 0 for a client that reconnects; above that the whole buffer is dropped. */
  bufferBytes: number;
  /** Registers this turn's buffer with the budget of all turns, which may drop it. Default: not counted. */
  share?: ((giveUp: () => void) => BufferShare) | undefined;
  /**
   * Counts bytes that readers have not consumed; returns true if the total over all turns is too high. Default: not
   * counted.
   */
  unread?: ((change: number) => boolean) | undefined;
  /** Called when the reader is further behind than the size of the buffer, and when it has caught up. */
  onPressure(paused: boolean): void;
}

/**
 * The event stream of one turn, from event 0 to its terminal event, and its current reader. A later reader gets all
 * events from the start, or is rejected if the start is not kept any more.
 */
export interface TurnStream {
  /** Sets the data for the answer's headers. A later reader gets the same data with the outcome `reattached`. */
  head(head: AnswerHead): void;
  /** Replaces the provider's headers; no effect on an answer whose status has been sent. */
  restate(headers: AnswerHead['headers']): void;
  /** Adds an event and writes it to the reader. No effect after the end. */
  push(type: string, json: string, telemetry: boolean): void;
  /**
   * Ends the stream.
   *
   * @returns true if this call ended it; only the first one does
   */
  finish(ending: Ending): boolean;
  /** Replaces the reader. The new one gets the buffered events from the start, then live events. */
  attach(sink: ClientSink): void;
  /**
   * Drops buffered events before a turn is sent again whose output was not shown: no event of the first attempt may be
   * shown.
   */
  rewind(): void;
  /** Ends the stream without writing to the reader, which now belongs to another stream. */
  abandon(): void;
  /** Drops the buffer: no reader can attach after this. */
  discard(): void;
  readonly sink: ClientSink;
  readonly attached: boolean;
  /** True if any reader so far was shown an event. */
  readonly shown: boolean;
  /** True while the buffer begins with event 0. */
  readonly complete: boolean;
  readonly finished: boolean;
  /** Size of the buffer kept for a later reader. */
  readonly bufferedBytes: number;
  /** True once a reader has received the terminal event, or the stream was abandoned. */
  readonly delivered: boolean;
  /** Registers a listener that is called once when a reader has received the terminal event; immediately if one has. */
  onDelivered(listener: () => void): void;
}

/**
 * Creates the stream of a turn.
 *
 * @param first sink of the client that sent the request
 */
export function createTurnStream(first: ClientSink, options: StreamOptions): TurnStream {
  let sink = first;
  let buffer: Entry[] | null = [];
  let bytes = 0;
  let shown = false;
  let ending: Ending | { kind: 'abandoned' } | null = null;
  let head: AnswerHead | null = null;
  let delivered = false;
  /** Number of characters written since the reader last kept up. */
  let behind = 0;
  const listeners: (() => void)[] = [];
  /** True if the buffer was dropped while a reader could still have attached. */
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

  /** Runs a write to a reader and closes the reader's connection if the write throws, so that it does not wait in vain. */
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
    // Pausing the upstream also delays its pings. Therefore events are buffered here first, as long as there is room.
    if (behind > options.bufferBytes || crowded) options.onPressure(true);
    shown ||= sink.shown;
  };
  const close = () =>
    orCut(sink, () => {
      if (ending?.kind === 'end') {
        // The terminal event counts as unread until it was read, like any other event.
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
      // The turn continues while no client reads it.
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
      // A client that retries has abandoned its earlier connection, even if its close has not been noticed here yet.
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
