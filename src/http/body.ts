import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { createBrotliDecompress, createGunzip, createInflate, createZstdDecompress } from 'node:zlib';
import { BridgeError } from '../errors.ts';
import { nestsDeeperThan, parseExact, rawNumber } from '../json.ts';

const unpackers = new Map<string, () => NodeJS.ReadWriteStream & { destroy(): void }>([
  ['gzip', createGunzip],
  ['x-gzip', createGunzip],
  ['deflate', createInflate],
  ['br', createBrotliDecompress],
  ['zstd', createZstdDecompress],
]);

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
  // Leaving the loop must not destroy the connection: the client is still to be answered.
  const source = encoding === 'identity' ? req.iterator({ destroyOnReturn: false }) : unpack(req, encoding);
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
  const make = unpackers.get(encoding);
  if (!make) throw new BridgeError('bridge_unsupported_media_type');
  const unpacker = make();
  req.once('error', () => unpacker.destroy());
  return req.pipe(unpacker) as unknown as Readable;
}

/** Deepest nesting of a body: what reads it further on may be recursive. */
const MOST_LEVELS = 1_000;

const notAnObject = () => new BridgeError('bridge_invalid_request', { detail: 'The body must be a JSON object.' });

/** A body as an object and as the text it was written in. */
export interface ParsedBody {
  body: Record<string, unknown>;
  text: string;
}

/** Parses a body as a JSON object; numbers that a double cannot hold stay as written. Throws `BridgeError`. */
export function parseBody(bytes: Buffer): ParsedBody {
  let text: string;
  let value: unknown;
  try {
    text = utf8.decode(bytes);
    if (nestsDeeperThan(text, MOST_LEVELS)) throw tooDeep();
    value = parseExact(text);
  } catch (error) {
    throw error instanceof BridgeError ? error : new BridgeError('bridge_invalid_json', { cause: error });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value) || rawNumber(value) !== null) {
    throw notAnObject();
  }
  return { body: value as Record<string, unknown>, text };
}

/** The value of `parseBody` alone. Throws `BridgeError`. */
export const parseObject = (bytes: Buffer): Record<string, unknown> => parseBody(bytes).body;

/** A body that an outer app's own parser has read: its text is gone, and the value is all there is. Throws `BridgeError`. */
export function parsedBefore(body: object): ParsedBody {
  if (Array.isArray(body)) throw notAnObject();
  let text: string;
  try {
    text = JSON.stringify(body);
  } catch (error) {
    if (error instanceof RangeError) throw tooDeep();
    throw error;
  }
  if (nestsDeeperThan(text, MOST_LEVELS)) throw tooDeep();
  return { body: body as Record<string, unknown>, text };
}

const tooDeep = () =>
  new BridgeError('bridge_invalid_request', { detail: `The body is nested deeper than ${MOST_LEVELS} levels.` });
