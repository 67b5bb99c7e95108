import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { createBrotliDecompress, createGunzip, createInflate, createZstdDecompress } from 'node:zlib';
import { BridgeError } from '../errors.ts';

const unpackers = new Map<string, () => NodeJS.ReadWriteStream & { destroy(): void }>([
  ['gzip', createGunzip],
  ['x-gzip', createGunzip],
  ['deflate', createInflate],
  ['br', createBrotliDecompress],
  ['zstd', createZstdDecompress],
]);

/** What one request has taken of the bytes that a worker may have in hand. */
export interface Share {
  /** Takes more. Throws `bridge_bodies_full` when there is not so much left; what was taken before stays taken. */
  take(bytes: number): void;
  /** Gives everything back. Later calls change nothing. */
  release(): void;
}

/** Bytes of request bodies that all requests of a worker have in hand together. */
export interface Budget {
  open(): Share;
  readonly taken: number;
}

export function createBudget(most: number): Budget {
  let taken = 0;
  return {
    open() {
      let own = 0;
      let released = false;
      return {
        take(bytes) {
          if (released || taken + bytes > most) throw new BridgeError('bridge_bodies_full');
          own += bytes;
          taken += bytes;
        },
        release() {
          released = true;
          taken -= own;
          own = 0;
        },
      };
    },
    get taken() {
      return taken;
    },
  };
}

/** What has been read is gathered in blocks of this size: each has memory of its own, which can be given to a thread. */
const BLOCK = 1_048_576;

/** Gathers chunks in few blocks, without ever copying all of them at once. */
function createBlocks() {
  const blocks: Buffer[] = [];
  let room = Buffer.alloc(0);
  let used = 0;
  return {
    push(chunk: Buffer) {
      for (let at = 0; at < chunk.length; ) {
        if (used === room.length) {
          if (used > 0) blocks.push(room);
          room = Buffer.allocUnsafeSlow(blocks.length === 0 ? Math.min(BLOCK, Math.max(4_096, chunk.length)) : BLOCK);
          used = 0;
        }
        const copied = chunk.copy(room, used, at);
        at += copied;
        used += copied;
      }
    },
    /** All of it. */
    end: (): Buffer[] => (used === 0 ? blocks : [...blocks, used === room.length ? room : room.subarray(0, used)]),
  };
}

/**
 * Reads a whole request body, unpacked, of at most `limit` bytes: the limit counts what comes out, so a small packed body
 * cannot grow beyond it, and so does the share. Throws `BridgeError`: `bridge_body_too_large`, `bridge_bodies_full`,
 * `bridge_unsupported_media_type` or `bridge_invalid_json` (for a body that does not unpack).
 *
 * @returns the body in parts, each with memory of its own
 */
export async function readBody(req: IncomingMessage, limit: number, share: Share): Promise<Buffer[]> {
  const declared = Number(req.headers['content-length'] ?? 0);
  if (declared > limit) throw new BridgeError('bridge_body_too_large');
  const encoding = req.headers['content-encoding']?.toLowerCase().trim() ?? 'identity';
  // Before a byte is read: what is announced will come.
  let promised = encoding === 'identity' && declared > 0 ? declared : 0;
  share.take(promised);
  const source = encoding === 'identity' ? req : unpack(req, encoding);
  const blocks = createBlocks();
  let size = 0;
  try {
    for await (const chunk of source as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > limit) throw new BridgeError('bridge_body_too_large');
      if (size > promised) {
        share.take(size - promised);
        promised = size;
      }
      blocks.push(chunk);
    }
  } catch (error) {
    if (error instanceof BridgeError) throw error;
    throw new BridgeError('bridge_invalid_json', { detail: 'The body could not be read.', cause: error });
  }
  return blocks.end();
}

function unpack(req: IncomingMessage, encoding: string): Readable {
  const make = unpackers.get(encoding);
  if (!make) throw new BridgeError('bridge_unsupported_media_type');
  const unpacker = make();
  req.once('error', () => unpacker.destroy());
  return req.pipe(unpacker) as unknown as Readable;
}

/** A body that an outer app's own parser has read: its text is gone, and the value is all there is. Throws `BridgeError`. */
export function textOfParsed(body: object): string {
  try {
    return JSON.stringify(body);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new BridgeError('bridge_invalid_request', { detail: 'The body is nested too deeply.' });
  }
}
