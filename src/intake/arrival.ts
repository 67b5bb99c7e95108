import { encodedSlices, PartedText, type Text } from '../json.ts';

/** Text with which a body is expected to begin: the first `length` characters of `text`, which hold no U+FFFD. */
export interface Beginning {
  readonly text: Text;
  readonly length: number;
}

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

/** Returns the number of bytes before a character of UTF-8 that is cut at the end. */
function wholeCharacters(bytes: Buffer): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    const byte = bytes[bytes.length - back]!;
    if ((byte & 0xc0) === 0x80) continue;
    const size = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return size > back ? bytes.length - back : bytes.length;
  }
  return bytes.length;
}

/**
 * A body that arrives in chunks. While it repeats the expected beginning, its bytes are compared and nothing of them is
 * kept; what follows is kept as text. A body that differs, or that may not be UTF-8, is kept as bytes.
 */
export class Arrival<B extends Beginning = Beginning> {
  /** What the body is compared with; null: nothing. */
  readonly beginning: B | null;
  /** Number of bytes received. */
  bytes = 0;
  /** Number of characters that repeat the beginning. */
  #same = 0;
  readonly #added: string[] = [];
  /** Bytes of a character of which the rest has not arrived. */
  #cut: Buffer = Buffer.alloc(0);
  /** What follows `#same` and `#added`, once the body is kept as bytes. */
  readonly #blocks = createBlocks();
  #asBytes: boolean;

  constructor(beginning: B | null = null) {
    this.beginning = beginning;
    this.#asBytes = beginning === null;
  }

  /** Takes the next bytes. They may be changed afterwards. */
  push(chunk: Buffer): void {
    this.bytes += chunk.length;
    if (this.#asBytes) return this.#blocks.push(chunk);
    const bytes = this.#cut.length === 0 ? chunk : Buffer.concat([this.#cut, chunk]);
    const end = wholeCharacters(bytes);
    if (this.#takes(bytes.toString('utf8', 0, end))) this.#cut = Buffer.from(bytes.subarray(end));
    else this.#keepBytes(bytes);
  }

  /** Returns what follows the beginning; null when the whole body has to be read. To be called after the last chunk. */
  get rest(): string | null {
    const repeats = !this.#asBytes && this.#same === this.beginning!.length && this.#cut.length === 0;
    return repeats ? this.#added.join('') : null;
  }

  /** Returns the whole body in parts, each with memory of its own. To be called after the last chunk. */
  async whole(): Promise<Buffer[]> {
    if (!this.#asBytes) this.#keepBytes(this.#cut);
    const parts: Buffer[] = [];
    const text = this.beginning === null ? [] : PartedText.of(this.beginning.text, this.#same);
    for (const each of [...text, ...this.#added]) for await (const part of encodedSlices(each)) parts.push(part);
    return [...parts, ...this.#blocks.end()];
  }

  /** Takes text that has arrived. Returns false, and takes nothing, when the body is to be kept as bytes. */
  #takes(text: string): boolean {
    const { text: expected, length } = this.beginning!;
    const same = Math.min(text.length, length - this.#same);
    if (expected.slice(this.#same, this.#same + same) !== text.slice(0, same)) return false;
    const added = text.slice(same);
    if (added.includes('\ufffd')) return false;
    this.#same += same;
    if (added !== '') this.#added.push(added);
    return true;
  }

  #keepBytes(bytes: Buffer): void {
    this.#asBytes = true;
    this.#cut = Buffer.alloc(0);
    this.#blocks.push(bytes);
  }
}
