/** Cuts a byte stream into lines; a long line is copied once, however many pieces it comes in. */
export interface Splitter {
  /** Takes the next piece and gives out the lines it completes. Throws `LineTooLong`. */
  push(chunk: Buffer): Buffer[];
}

export class LineTooLong extends Error {
  override readonly name = 'LineTooLong';
}

const NEWLINE = 0x0a;

/** @param maxBytes longest line that is still put together */
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
        // The caller may reuse the memory behind a chunk: what is kept is a copy.
        pieces.push(Buffer.from(chunk.subarray(from)));
        held += chunk.length - from;
        if (held > maxBytes) throw new LineTooLong(`A line is longer than ${maxBytes} bytes.`);
      }
      return lines;
    },
  };
}
