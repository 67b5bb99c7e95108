import { PassThrough, type Readable, type Transform } from 'node:stream';
import {
  constants,
  createBrotliDecompress,
  createGunzip,
  createInflate,
  createInflateRaw,
  createZstdDecompress,
} from 'node:zlib';

/**
 * Asks for bodies as they are: unpacking costs more than it saves here. Without `*;q=0` any other coding would be merely
 * less welcome. What comes packed all the same is unpacked.
 */
export const UNPACKED = { 'accept-encoding': 'identity;q=1, *;q=0' } as const;

/** Undoes the content coding of one body, piece by piece. */
export interface Unpacker {
  push(chunk: Buffer): void;
  /** The body has ended; `end` of the listener follows once everything was given out. */
  end(): void;
  /** Stop or go on giving out. What was pushed waits. */
  hold(held: boolean): void;
  /** Nothing more is wanted, and nothing more is said. */
  destroy(): void;
}

export interface UnpackerListener {
  data(chunk: Buffer): void;
  end(): void;
  /** The body is not what it claims to be, or was cut. */
  error(error: Error): void;
}

const startsWith = (chunk: Buffer, ...magic: number[]) => magic.every((byte, at) => chunk[at] === byte);
const isGzip = (chunk: Buffer) => startsWith(chunk, 0x1f, 0x8b);
const isZstd = (chunk: Buffer) => startsWith(chunk, 0x28, 0xb5, 0x2f, 0xfd);
/** RFC 1950; many servers send the bare form of RFC 1951 under the same name. */
const isZlib = (chunk: Buffer) => (chunk[0]! & 0x0f) === 8 && ((chunk[0]! << 8) | (chunk[1] ?? 0)) % 31 === 0;

// A body that was cut gives out what can be had of it.
const lenient = { finishFlush: constants.Z_SYNC_FLUSH };

/** The beginning of JSON, of an event stream or of a page. No coding's output is likely to begin like that. */
const isText = (chunk: Buffer) =>
  /^\s*(?:\{\s*["}]|\[\s*[[{"\]]|(?:data|event|id|retry):|: ?\w\w|<[!a-z?][a-z])/i.test(
    chunk.toString('latin1', 0, PREFIX),
  );
/** Bytes that show what a body is. */
const PREFIX = 6;
const NAMED_ONLY = new Set(['br', 'deflate']);

/** Whether more of the beginning is needed: pieces may be cut anywhere. */
const isOpen = (coding: string, begun: Buffer): boolean =>
  NAMED_ONLY.has(coding) ? begun.length < PREFIX : begun.length < 4 && (begun[0] === 0x1f || begun[0] === 0x28);

/**
 * Codings say what a body claims; its first bytes say what it is. An edge may label what it did not compress, and may
 * strip the label from what it did.
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
 * The listener bounds what is given out: it comes in small pieces, and `destroy` ends it at any of them.
 *
 * @param coding the `content-encoding`; one that is not known leaves the body as it is
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

/** The headers of an answer whose body was unpacked on the way. */
export function unpackedHeaders(headers: Record<string, string>): Record<string, string> {
  if (headers['content-encoding'] === undefined) return headers;
  const { 'content-encoding': _coding, 'content-length': _length, ...rest } = headers;
  return rest;
}

/** The same body, unpacked. Destroying either destroys both. */
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
