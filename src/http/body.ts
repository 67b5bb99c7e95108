import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { createBrotliDecompress, createGunzip, createInflate, createZstdDecompress } from 'node:zlib';
import { BridgeError } from '../errors.ts';

const unpackers: Record<string, () => NodeJS.ReadWriteStream & { destroy(): void }> = {
  gzip: createGunzip,
  'x-gzip': createGunzip,
  deflate: createInflate,
  br: createBrotliDecompress,
  zstd: createZstdDecompress,
};

const utf8 = new TextDecoder('utf-8', { fatal: true });

/**
 * Reads a whole request body, unpacked, of at most `limit` bytes: the limit counts what comes out, so a small packed body
 * cannot grow beyond it. Throws `BridgeError`: `bridge_body_too_large`, `bridge_unsupported_media_type` or
 * `bridge_invalid_json` (for a body that does not unpack).
 */
export async function readBody(req: IncomingMessage, limit: number): Promise<Buffer> {
  const declared = Number(req.headers['content-length']);
  if (declared > limit) throw new BridgeError('bridge_body_too_large');
  const encoding = req.headers['content-encoding']?.toLowerCase().trim() ?? 'identity';
  const source = encoding === 'identity' ? req : unpack(req, encoding);
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of source as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > limit) throw new BridgeError('bridge_body_too_large');
      chunks.push(chunk);
    }
  } catch (error) {
    if (error instanceof BridgeError) throw error;
    throw new BridgeError('bridge_invalid_json', { detail: 'The body could not be read.', cause: error });
  }
  return Buffer.concat(chunks);
}

function unpack(req: IncomingMessage, encoding: string): Readable {
  const make = unpackers[encoding];
  if (!make) throw new BridgeError('bridge_unsupported_media_type');
  const unpacker = make();
  req.once('error', () => unpacker.destroy());
  return req.pipe(unpacker) as unknown as Readable;
}

/** Parses a body as a JSON object. Throws `BridgeError`. */
export function parseObject(body: Buffer): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(utf8.decode(body));
  } catch (error) {
    throw new BridgeError('bridge_invalid_json', { cause: error });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new BridgeError('bridge_invalid_request', { detail: 'The body must be a JSON object.' });
  }
  return value as Record<string, unknown>;
}
