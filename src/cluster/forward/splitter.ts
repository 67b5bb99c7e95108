/** Splits a byte stream into lines. A long line is copied once, regardless of the number of chunks. */
export interface Splitter {
  /**
   * Adds a chunk and returns the lines that it completes.
   *
   * @throws LineTooLong if an unfinished line exceeds the maximum
   */
  push(chunk: Buffer): Buffer[];
}

/** Error for a line that exceeds the maximum length. */
export class LineTooLong extends Error {
  override readonly name = 'LineTooLong';
}

const NEWLINE = 0x0a;

/**
 * Creates a splitter.
 *
 * @param maxBytes maximum length of a line that arrives in several chunks, in bytes
 */
export function createSplitter(maxBytes: number): Splitter {
  let pieces: Buffer[] = [];
  let held = 0;
  return {
    push(chunk) {
      const lines: Buffer[] = [];
      let from = 0;
      for (let at = chunk.indexOf(NEWLINE); at >= 0; at = chunk.indexOf(NEWLINE, from)) {
        const last = chunk.subarray(from, at);
        lines.push(held === 0 ? last : Buffer.concat([...pieces, last]));
        pieces = [];
        held = 0;
        from = at + 1;
      }
      if (from < chunk.length) {
        // The caller may reuse the memory of a chunk, so the rest is copied.
        pieces.push(Buffer.from(chunk.subarray(from)));
        held += chunk.length - from;
        if (held > maxBytes) throw new LineTooLong(`A line is longer than ${maxBytes} bytes.`);
      }
      return lines;
    },
  };
}
