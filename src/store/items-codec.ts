import { promisify } from 'node:util';
import { deflate, deflateSync, inflate, inflateSync } from 'node:zlib';
import { decodeText, encodeArray, encodeText } from '../json.ts';

const deflateAsync = promisify(deflate);
const inflateAsync = promisify(inflate);

/** Up to this size (bytes) the detour over the thread pool costs more than it saves the event loop. */
const INLINE_BYTES = 16 * 1024;

/** Items as stored: an array of their exact JSON texts in UTF-8, in zlib format, whose checksum tells a damaged row. */
export const packItems = async (items: readonly string[]): Promise<Buffer> => pack(await encodeArray(items));

/** One item, stored by itself. */
export const packItem = async (item: string): Promise<Buffer> => pack(await encodeText(item));

const pack = (bytes: Buffer): Buffer | Promise<Buffer> =>
  bytes.length <= INLINE_BYTES ? deflateSync(bytes) : deflateAsync(bytes);

/** The text that was packed; null when the bytes are damaged: that is as if nothing had been stored. */
export async function unpackItems(packed: Buffer): Promise<string | null> {
  let bytes: Buffer;
  try {
    bytes = packed.length <= INLINE_BYTES / 4 ? inflateSync(packed) : await inflateAsync(packed);
  } catch {
    return null;
  }
  return decodeText(bytes);
}
