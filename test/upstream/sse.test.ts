import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createSseParser, SseOverflow } from '../../src/upstream/sse.ts';

const read = (chunks: (Buffer | string)[], maxChars = 1_000_000): string[] => {
  const events: string[] = [];
  const parser = createSseParser((data) => events.push(data), maxChars);
  for (const chunk of chunks) parser.push(Buffer.from(chunk));
  parser.end();
  return events;
};

describe('the event stream parser', () => {
  it('gives the data of each event and nothing else', () => {
    const stream =
      ': hello\n\nevent: response.created\nid: 7\nretry: 10\ndata: {"a":1}\n\n\n\ndata:{"b":2}\n\nevent: ping\n\ndata\n\n';
    expect(read([stream])).toEqual(['{"a":1}', '{"b":2}', '']);
  });

  it('joins data lines and takes off one blank only', () => {
    expect(read(['data: one\ndata:  two\ndata:\ndata:three\n\n'])).toEqual(['one\n two\n\nthree']);
  });

  it('takes LF, CR and CRLF, mixed', () => {
    expect(read(['data: a\r\n\r\ndata: b\r\rdata: c\n\ndata: d\r\n\ndata: e\n\r\n'])).toEqual([
      'a',
      'b',
      'c',
      'd',
      'e',
    ]);
  });

  it('skips a byte order mark at the very start only', () => {
    expect(read(['\uFEFFdata: a\n\n\uFEFFdata: b\n\n'])).toEqual(['a']);
  });

  it('gives what a clean end left without its blank line', () => {
    expect(read(['data: {"a":1}\n'])).toEqual(['{"a":1}']);
    expect(read(['data: {"a":1}'])).toEqual(['{"a":1}']);
    expect(read([': only a comment'])).toEqual([]);
  });

  it('gives an event as soon as its blank line is there', () => {
    const events: string[] = [];
    const parser = createSseParser((data) => events.push(data), 100);
    parser.push(Buffer.from('data: a\r\n\r'));
    expect(events).toEqual(['a']);
    parser.push(Buffer.from('\ndata: b\n'));
    expect(events).toEqual(['a']);
    parser.push(Buffer.from('\n'));
    expect(events).toEqual(['a', 'b']);
  });

  it('refuses an event past its limit, in one line or in many', () => {
    expect(() => read([`data: ${'x'.repeat(200)}`], 100)).toThrow(SseOverflow);
    expect(() =>
      read(
        Array.from({ length: 30 }, () => 'data: 12345\n'),
        100,
      ),
    ).toThrow(SseOverflow);
    expect(
      read(
        Array.from({ length: 30 }, () => 'data: 12345\n\n'),
        100,
      ),
    ).toHaveLength(30);
  });

  it('reads the same however the bytes are cut', () => {
    const value = fc.string({ unit: fc.constantFrom('a', ' ', ':', 'ü', '€', '😀', '{', '\uFEFF'), maxLength: 12 });
    const newline = fc.constantFrom('\n', '\r', '\r\n');
    const field = fc.oneof(
      { weight: 4, arbitrary: value.map((text) => `data: ${text}`) },
      value.map((text) => `:${text}`),
      value.map((text) => `event: ${text}`),
      fc.constant(''),
    );
    const stream = fc.array(fc.tuple(field, newline), { maxLength: 30 }).map((lines) => lines.flat().join(''));
    const cuts = fc.array(fc.nat(400), { maxLength: 40 });
    fc.assert(
      fc.property(stream, cuts, (text, at) => {
        const bytes = Buffer.from(text);
        const sorted = [...new Set([0, ...at.map((cut) => Math.min(cut, bytes.length)), bytes.length])].sort(
          (a, b) => a - b,
        );
        const chunks = sorted.slice(1).map((end, index) => bytes.subarray(sorted[index], end));
        expect(read(chunks)).toEqual(reference(text));
      }),
      { numRuns: 500, verbose: 1 },
    );
  });
});

/** The whole text at once: split into lines, then into events. */
function reference(text: string): string[] {
  const lines = text.replace(/^\uFEFF/, '').split(/\r\n|\r|\n/);
  const events: string[] = [];
  let data: string[] = [];
  for (const line of [...lines, '']) {
    if (line.startsWith('data: ')) data.push(line.slice(6));
    if (line !== '' || data.length === 0) continue;
    events.push(data.join('\n'));
    data = [];
  }
  return events;
}
