import { expect, it } from 'vitest';
import { createUnpacker } from '../../src/upstream/streams.ts';

/** Returns what the listener of an unpacker hears of a body in these chunks. */
function unpacked(coding: string | undefined, ...chunks: Buffer[]): string[] {
  const heard: string[] = [];
  const unpacker = createUnpacker(coding, {
    data: (chunk) => void heard.push(chunk.toString('latin1')),
    end: () => void heard.push('end'),
    error: (error) => void heard.push(error.message),
  });
  for (const chunk of chunks) unpacker.push(chunk);
  unpacker.end();
  return heard;
}

it('A body that ends before its form is recognised is passed on', () => {
  expect(unpacked(undefined, Buffer.of(0x1f))).toEqual(['\x1f', 'end']);
  expect(unpacked('gzip', Buffer.of(0x28))).toEqual(['(', 'end']);
  expect(unpacked('br', Buffer.from('{'), Buffer.from('"a"'))).toEqual(['{"a"', 'end']);
});

it('An empty body only ends', () => {
  for (const coding of [undefined, 'gzip', 'br', 'deflate']) expect(unpacked(coding)).toEqual(['end']);
});
