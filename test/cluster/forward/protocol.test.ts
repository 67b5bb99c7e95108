import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createSplitter, LineTooLong } from '../../../src/cluster/forward/protocol.ts';

describe('lines of a stream', () => {
  it('Lines are the same however the stream is split into chunks', () => {
    const text = fc.array(fc.string({ unit: 'binary', maxLength: 20 }).map((each) => each.replaceAll('\n', ' ')));
    fc.assert(
      fc.property(text, fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1 }), (lines, sizes) => {
        const bytes = Buffer.from(lines.map((line) => `${line}\n`).join(''));
        const splitter = createSplitter(1_000);
        const found: string[] = [];
        for (let at = 0, i = 0; at < bytes.length; i += 1) {
          const size = sizes[i % sizes.length]!;
          // A transport may reuse its memory as soon as the chunk was returned.
          const piece = Buffer.from(bytes.subarray(at, at + size));
          found.push(...splitter.push(piece).map(String));
          piece.fill(0);
          at += size;
        }
        expect(found).toEqual(lines.map((line) => Buffer.from(line).toString()));
      }),
    );
  });

  it('A line over the maximum length is refused', () => {
    const splitter = createSplitter(10);
    splitter.push(Buffer.from('0123456789'));
    expect(() => splitter.push(Buffer.from('0'))).toThrow(LineTooLong);
  });
});
