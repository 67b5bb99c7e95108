import { promisify } from 'node:util';
import { deflate, deflateSync, inflate, inflateSync } from 'node:zlib';
import { decodeText, encodeArray, encodeText } from '../json.ts';

const deflateAsync = promisify(deflate);
const inflateAsync = promisify(inflate);

/** Largest size in bytes that is coded inline: up to it the thread pool costs more than it saves the event loop. */
const INLINE_BYTES = 16 * 1024;

/**
 * Encodes items for storage: an array of their exact JSON texts in UTF-8, in zlib format, whose checksum detects damaged
 * rows.
 */
export const packItems = async (items: readonly string[]): Promise<Buffer> => pack(await encodeArray(items));

/** Encodes one item that is stored by itself. */
export const packItem = async (item: string): Promise<Buffer> => pack(await encodeText(item));

const pack = (bytes: Buffer): Buffer | Promise<Buffer> =>
  bytes.length <= INLINE_BYTES ? deflateSync(bytes) : deflateAsync(bytes);

/**
 * Decodes packed text.
 *
 * @returns null when the bytes are damaged, which is treated as if nothing had been stored
 */
export async function unpackItems(packed: Buffer): Promise<string | null> {
  let bytes: Buffer;
  try {
    bytes = packed.length <= INLINE_BYTES / 4 ? inflateSync(packed) : await inflateAsync(packed);
  } catch {
    return null;
  }
  return decodeText(bytes);
}
