import { PassThrough, type Readable, type Transform } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import {
  constants,
  createBrotliDecompress,
  createGunzip,
  createInflate,
  createInflateRaw,
  createZstdDecompress,
} from 'node:zlib';
import { createParser } from 'eventsource-parser';
import { membersOf, withMembers } from '../json.ts';
import { reportFault } from '../system.ts';
import { refusalFrame } from './errors.ts';
import type { ConnectionHandlers, Unreachable, UpstreamAnswer } from './port.ts';

type Step =
  | { kind: 'frame'; text: string }
  | { kind: 'refused'; answer: UpstreamAnswer }
  | { kind: 'closed'; info: { code: number; reason: string; unreachable?: Unreachable } };

/** Connection that a flow belongs to. */
interface FlowOwner {
  /** Stops or resumes reading from the network. Frames already read wait in the flow. */
  hold(held: boolean): void;
  /** Ends the connection after the reader threw. The reader gets nothing more except `closed`. */
  broken(): void;
}

/**
 * Receiving side of a connection: order, backpressure and the single `closed` event, the same for every transport. It is
 * held until a reader attaches.
 */
export class FrameFlow {
  readonly #owner: FlowOwner;
  #reader: ConnectionHandlers | null = null;
  #paused = false;
  #muted = false;
  #ended = false;
  #draining = false;
  #held = true;
  /** Null while nothing waits, as on nearly every connection at any time. */
  #waiting: Step[] | null = null;

  constructor(owner: FlowOwner) {
    this.#owner = owner;
  }

  get held(): boolean {
    return this.#held;
  }

  attach(reader: ConnectionHandlers): void {
    this.#reader = reader;
    this.#settle();
  }

  frame(text: string): void {
    if (!this.#muted) this.#arrive({ kind: 'frame', text });
  }

  refused(answer: UpstreamAnswer): void {
    this.#arrive({ kind: 'refused', answer });
  }

  /** Reports the end of the connection. Later calls have no effect. */
  close(code: number, reason: string, unreachable?: Unreachable): void {
    this.#arrive({ kind: 'closed', info: { code, reason, ...(unreachable && { unreachable }) } });
    this.#ended = true;
  }

  pause(): void {
    this.#paused = true;
    this.#settle();
  }

  resume(): void {
    this.#paused = false;
    this.#settle();
  }

  /** Discards all further frames, including waiting ones. `closed` is still delivered. */
  mute(): void {
    this.#muted = true;
    this.#settle();
  }

  #arrive(step: Step): void {
    if (this.#ended) return;
    // Fast path of nearly every frame.
    if (this.#reader && !this.#paused && !this.#draining && this.#waiting === null)
      return this.#give(this.#reader, step);
    (this.#waiting ??= []).push(step);
    this.#settle();
  }

  #settle(): void {
    this.#drain();
    const hold = !this.#muted && (this.#reader === null || this.#paused || this.#waiting !== null);
    if (hold === this.#held) return;
    this.#held = hold;
    this.#owner.hold(hold);
  }

  #drain(): void {
    const waiting = this.#waiting;
    if (this.#draining || !this.#reader || !waiting) return;
    this.#draining = true;
    let next = 0;
    while (next < waiting.length && (!this.#paused || this.#muted)) this.#give(this.#reader, waiting[next++]!);
    this.#draining = false;
    this.#waiting = next < waiting.length ? waiting.slice(next) : null;
  }

  /** Never throws: an exception of the reader ends this one connection, like its loss. */
  #give(reader: ConnectionHandlers, step: Step): void {
    try {
      if (step.kind === 'closed') reader.closed(step.info);
      else if (this.#muted) return;
      else if (step.kind === 'frame') reader.frame(step.text);
      else if (reader.refused) reader.refused(step.answer);
      else reader.frame(refusalFrame(step.answer));
    } catch (error) {
      reportFault(error, 'upstream reader');
      if (step.kind === 'closed') return;
      this.#muted = true;
      this.#owner.broken();
    }
  }
}

/**
 * Requests uncompressed bodies: decompression costs more than it saves here. Without `*;q=0` other codings would only have
 * a lower preference. A body compressed anyway is decompressed.
 */
export const UNPACKED = { 'accept-encoding': 'identity;q=1, *;q=0' } as const;

/** Decoder of one body's content coding, chunk by chunk. */
export interface Unpacker {
  push(chunk: Buffer): void;
  /** Ends the body. The listener's `end` follows once all output was delivered. */
  end(): void;
  /** Stops or resumes delivery. Pushed data is queued. */
  hold(held: boolean): void;
  /** Stops for good: the listener is not called again. */
  destroy(): void;
}

interface UnpackerListener {
  data(chunk: Buffer): void;
  end(): void;
  /** Called when the body does not match its coding, or was cut. */
  error(error: Error): void;
}

const startsWith = (chunk: Buffer, ...magic: number[]) => magic.every((byte, at) => chunk[at] === byte);
const isGzip = (chunk: Buffer) => startsWith(chunk, 0x1f, 0x8b);
const isZstd = (chunk: Buffer) => startsWith(chunk, 0x28, 0xb5, 0x2f, 0xfd);
/** Zlib format of RFC 1950. Many servers send the raw format of RFC 1951 under the same name. */
const isZlib = (chunk: Buffer) => (chunk[0]! & 0x0f) === 8 && ((chunk[0]! << 8) | (chunk[1] ?? 0)) % 31 === 0;

// A cut body still yields what can be decoded.
const lenient = { finishFlush: constants.Z_SYNC_FLUSH };

/** Matches the start of JSON, of an event stream or of a page. Compressed data is unlikely to start like that. */
const isText = (chunk: Buffer) =>
  /^\s*(?:\{\s*["}]|\[\s*[[{"\]]|(?:data|event|id|retry):|: ?\w\w|<[!a-z?][a-z])/i.test(
    chunk.toString('latin1', 0, PREFIX),
  );
/** Bytes needed to recognise a body. */
const PREFIX = 6;
const NAMED_ONLY = new Set(['br', 'deflate']);

/** Returns whether more bytes are needed to decide: chunks may be cut anywhere. */
const isOpen = (coding: string, begun: Buffer): boolean =>
  NAMED_ONLY.has(coding) ? begun.length < PREFIX : begun.length < 4 && (begun[0] === 0x1f || begun[0] === 0x28);

/**
 * Selects the decoder by the first bytes of a body before its declared coding. An edge may label bodies that it did not
 * compress, and remove the label from those it did.
 */
function decoderFor(coding: string, first: Buffer): Transform | null {
  if (isGzip(first)) return createGunzip(lenient);
  if (isZstd(first)) return createZstdDecompress();
  if (isText(first)) return null;
  if (coding === 'br') return createBrotliDecompress();
  if (coding === 'deflate') return isZlib(first) ? createInflate(lenient) : createInflateRaw(lenient);
  return null;
}

/**
 * Creates an unpacker. Output comes in small chunks, so that the listener can enforce its limit with `destroy` at any of
 * them.
 *
 * @param coding the `content-encoding`; with an unknown one the body is passed on unchanged
 */
export function createUnpacker(coding: string | undefined, listener: UnpackerListener): Unpacker {
  const name = (coding ?? '').trim().toLowerCase();
  let decoder: Transform | null = null;
  let begun = false;
  let start: Buffer = Buffer.alloc(0);
  let held = false;
  let over = false;

  const give = (chunk: Buffer) => {
    if (decoder) decoder.write(chunk);
    else listener.data(chunk);
  };
  const begin = () => {
    begun = true;
    decoder = decoderFor(name, start);
    decoder?.on('data', (chunk: Buffer) => over || listener.data(chunk));
    decoder?.on('end', () => over || listener.end());
    decoder?.on('error', (error) => over || listener.error(error));
    if (held) decoder?.pause();
    const first = start;
    start = Buffer.alloc(0);
    give(first);
  };

  return {
    push(chunk) {
      if (over || chunk.length === 0) return;
      if (begun) return give(chunk);
      start = start.length === 0 ? chunk : Buffer.concat([start, chunk]);
      if (!isOpen(name, start)) begin();
    },
    end() {
      if (over) return;
      if (!begun && start.length > 0) begin();
      if (over) return;
      if (decoder) decoder.end();
      else listener.end();
    },
    hold(wanted) {
      held = wanted;
      if (wanted) decoder?.pause();
      else decoder?.resume();
    },
    destroy() {
      over = true;
      decoder?.destroy();
    },
  };
}

/** Returns the headers of an answer whose body was unpacked: without its coding and length. */
export function unpackedHeaders(headers: Record<string, string>): Record<string, string> {
  if (headers['content-encoding'] === undefined) return headers;
  const { 'content-encoding': _coding, 'content-length': _length, ...rest } = headers;
  return rest;
}

/** Returns the unpacked body. Destroying either stream destroys both. */
export function unpackStream(body: Readable, coding: string | undefined): Readable {
  const out = new PassThrough();
  const unpacker = createUnpacker(coding, {
    data(chunk) {
      if (out.write(chunk)) return;
      unpacker.hold(true);
      body.pause();
    },
    end: () => out.end(),
    error: (error) => out.destroy(error),
  });
  out.on('drain', () => {
    unpacker.hold(false);
    body.resume();
  });
  out.on('close', () => {
    unpacker.destroy();
    body.destroy();
  });
  body.on('data', (chunk: Buffer) => unpacker.push(chunk));
  body.on('end', () => unpacker.end());
  body.on('error', (error) => out.destroy(error));
  return out;
}

/** Receives one server-sent event. The name is empty without an `event:` line. */
type SseListener = (data: string, name: string) => void;

/** Longest `event:` name kept, in characters; the API has no longer ones. */
const LONGEST_NAME = 128;

/** One event exceeds the parser's limit. */
export class SseOverflow extends Error {
  override readonly name = 'SseOverflow';
}

export interface SseParser {
  /**
   * Parses the next bytes, however they are cut.
   *
   * @throws `SseOverflow` when one event exceeds the limit
   */
  push(chunk: Buffer): void;
  /** Ends the stream. A last event without its closing blank line is delivered. */
  end(): void;
}

/**
 * Creates an incremental parser for `text/event-stream`, over bytes that may be cut within a character.
 *
 * @param maxChars most characters of an unfinished event that are held, in UTF-16 units
 */
export function createSseParser(listener: SseListener, maxChars: number): SseParser {
  const decoder = new StringDecoder('utf8');
  let overflow = false;
  const parser = createParser({
    maxBufferSize: maxChars,
    onEvent: ({ data, event = '' }) => listener(data, event.slice(0, LONGEST_NAME)),
    onError: ({ type }) => {
      overflow ||= type === 'max-buffer-size-exceeded';
    },
  });
  const feed = (text: string) => {
    parser.feed(text);
    if (overflow) throw new SseOverflow(`an event is longer than ${maxChars} characters`);
  };
  return {
    push: (chunk) => feed(decoder.write(chunk)),
    end: () => feed(`${decoder.end()}\n\n`),
  };
}

/** Event names of the API. Any other name, above all `message`, says nothing about the data. */
const apiName = /^(?:response|codex|responsesapi)\.[a-z_.]+$|^error$/;

/**
 * Converts an event to the frame that a WebSocket would have carried; null for the end marker of a stream. If the JSON
 * lacks a `type`, as with some gateways, the event's name is used.
 */
export function frameOfEvent(data: string, name: string): string | null {
  if (data === '[DONE]') return null;
  if (data.startsWith(`{"type":"${name}"`) || !apiName.test(name) || !data.trimStart().startsWith('{')) return data;
  return membersOf(data).has('type') ? data : withMembers(data, new Map([['type', JSON.stringify(name)]]));
}

/**
 * Splits a text with one JSON text per line; a single JSON text is returned as it is. A split between `}` and `{` is safe:
 * within one JSON text a comma stands between two objects.
 */
export function jsonTexts(text: string): string[] {
  // Nearly every text is one line, which is found much faster than the places to split.
  if (!text.includes('\n')) return [text];
  return text.includes('}\n{') || text.includes('}\r\n{') ? text.trim().split(/(?<=\})\r?\n(?=\{)/) : [text];
}

/**
 * Returns the frames in one WebSocket message: nearly always the message itself. Gateways that translate an event stream
 * forward its text unchanged, possibly with several events per message or a byte order mark.
 */
export function framesOfMessage(message: string): string[] {
  const text = message.charCodeAt(0) === 0xfeff ? message.slice(1) : message;
  if (text.startsWith('{')) return jsonTexts(text);
  if (!/^(?:(?:data|event|id|retry) *:|:)/.test(text)) return [text];
  const frames: string[] = [];
  const parser = createSseParser((data, name) => {
    const frame = frameOfEvent(data, name);
    if (frame !== null) frames.push(frame);
  }, text.length);
  parser.push(Buffer.from(text, 'utf8'));
  parser.end();
  return frames;
}
