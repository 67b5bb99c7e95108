import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { createBrotliDecompress, createGunzip, createInflate, createZstdDecompress } from 'node:zlib';
import { BridgeError } from '../errors.ts';
import type { Lease } from '../session/quota.ts';

const unpackers = new Map<string, () => NodeJS.ReadWriteStream & { destroy(): void }>([
  ['gzip', createGunzip],
  ['x-gzip', createGunzip],
  ['deflate', createInflate],
  ['br', createBrotliDecompress],
  ['zstd', createZstdDecompress],
]);

/**
 * Size of the blocks in which a body is collected, in bytes. Each block has its own memory, so it can be transferred to
 * a worker thread.
 */
const BLOCK = 1_048_576;

/** Collects chunks into a few blocks. At no time is the whole body copied at once. */
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
    /** Returns all blocks, the last one trimmed. */
    end: (): Buffer[] => (used === 0 ? blocks : [...blocks, used === room.length ? room : room.subarray(0, used)]),
  };
}

/**
 * Reads and decompresses a whole request body. Both `limit` and the limits of the lease apply to the decompressed
 * bytes, so a small compressed body cannot exceed them.
 *
 * @param limit maximum size, in bytes
 * @returns the body in parts, each with memory of its own
 * @throws {BridgeError} `bridge_body_too_large`, `bridge_unsupported_media_type`, `bridge_invalid_json` (for a body
 * that cannot be decompressed), and any error of `lease.addBytes`
 */
export async function readBody(req: IncomingMessage, limit: number, lease: Pick<Lease, 'addBytes'>): Promise<Buffer[]> {
  const declared = Number(req.headers['content-length'] ?? 0);
  if (declared > limit) throw new BridgeError('bridge_body_too_large');
  const encoding = req.headers['content-encoding']?.toLowerCase().trim() ?? 'identity';
  // Leaving the loop must not destroy the connection: the client still has to receive an answer.
  const source = encoding === 'identity' ? req.iterator({ destroyOnReturn: false }) : unpack(req, encoding);
  const blocks = createBlocks();
  let size = 0;
  try {
    for await (const chunk of source as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > limit) throw new BridgeError('bridge_body_too_large');
      lease.addBytes(chunk.length);
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

/**
 * Serialises a body that an outer app's parser has already consumed; its original text is no longer available.
 *
 * @throws {BridgeError} `bridge_invalid_request` for a body that is nested too deeply
 */
export function textOfParsed(body: object): string {
  try {
    return JSON.stringify(body);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new BridgeError('bridge_invalid_request', { detail: 'The body is nested too deeply.' });
  }
}
