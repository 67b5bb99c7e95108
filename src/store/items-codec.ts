import { promisify } from 'node:util';
import { deflate, deflateSync, inflate, inflateSync } from 'node:zlib';
import { decodeText, encodeText } from '../json.ts';

const deflateAsync = promisify(deflate);
const inflateAsync = promisify(inflate);

/** Up to this size (bytes) the detour over the thread pool costs more than it saves the event loop. */
const INLINE_BYTES = 16 * 1024;

/** Items as stored: their exact JSON text in UTF-8, in zlib format, whose checksum tells a damaged row. */
export async function packItems(json: string): Promise<Buffer> {
  const bytes = await encodeText(json);
  return bytes.length <= INLINE_BYTES ? deflateSync(bytes) : deflateAsync(bytes);
}

/** The text `packItems` was given; null when the bytes are damaged: that is as if nothing had been stored. */
export async function unpackItems(packed: Buffer): Promise<string | null> {
  let bytes: Buffer;
  try {
    bytes = packed.length <= INLINE_BYTES / 4 ? inflateSync(packed) : await inflateAsync(packed);
  } catch {
    return null;
  }
  return decodeText(bytes);
}
