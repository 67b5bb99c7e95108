import type { BridgeError } from '../errors.ts';
import type { UpstreamAnswer } from '../upstream/port.ts';
import type { AnswerHead, ClientSink } from './port.ts';

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
    if (sink.event(entry.type, entry.json, entry.telemetry)) behind = 0;
    else behind += entry.json.length;
    // An upstream that is not read has its pings unanswered: until then the events wait here.
    if (behind > options.bufferBytes) options.onPressure(true);
    shown ||= sink.shown;
  };
  const close = () =>
    orCut(sink, () => {
      if (ending?.kind === 'end') sink.end(ending.type, ending.json);
      else if (ending?.kind === 'fail') sink.fail(ending.error);
      else if (ending?.kind === 'relay') sink.relay(ending.answer);
    });
  const listen = (reader: ClientSink) => {
    reader.onDrain(() => {
      if (reader !== sink) return;
      behind = 0;
      options.onPressure(false);
    });
    reader.onDelivered(() => {
      if (reader !== sink || delivered) return;
      delivered = true;
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
        if (bytes > options.bufferBytes) buffer = null;
        else buffer.push(entry);
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
      sink = reader;
      // A client that asks again has given its earlier connection up, whether or not that is known here yet.
      if (before.attached) before.cut();
      listen(reader);
      behind = 0;
      options.onPressure(false);
      if (head) reader.head({ ...head, outcome: 'reattached' });
      for (const entry of buffer ?? []) write(entry);
      if (ending) close();
    },
    rewind() {
      buffer = [];
      bytes = 0;
    },
    abandon() {
      ending ??= { kind: 'abandoned' };
    },
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
      return buffer !== null;
    },
    get bufferedBytes() {
      return buffer === null ? 0 : bytes;
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
