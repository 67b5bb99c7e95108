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

export interface UnpackerListener {
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
