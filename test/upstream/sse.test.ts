import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createSseParser, frameOfEvent, framesOfMessage, SseOverflow } from '../../src/upstream/streams.ts';

const read = (chunks: (Buffer | string)[], maxChars = 1_000_000): string[] => {
  const events: string[] = [];
  const parser = createSseParser((data) => events.push(data), maxChars);
  for (const chunk of chunks) parser.push(Buffer.from(chunk));
  parser.end();
  return events;
};

describe('the event stream parser', () => {
  it('The parser returns the data of each event and nothing else', () => {
    const stream =
      ': hello\n\nevent: response.created\nid: 7\nretry: 10\ndata: {"a":1}\n\n\n\ndata:{"b":2}\n\nevent: ping\n\ndata\n\n';
    expect(read([stream])).toEqual(['{"a":1}', '{"b":2}', '']);
  });

  it('The parser joins data lines and removes only one leading space', () => {
    expect(read(['data: one\ndata:  two\ndata:\ndata:three\n\n'])).toEqual(['one\n two\n\nthree']);
  });

  it('The parser accepts LF, CR and CRLF, mixed', () => {
    expect(read(['data: a\r\n\r\ndata: b\r\rdata: c\n\ndata: d\r\n\ndata: e\n\r\n'])).toEqual([
      'a',
      'b',
      'c',
      'd',
      'e',
    ]);
  });

  it('The parser skips a byte order mark only at the very start', () => {
    expect(read(['\uFEFFdata: a\n\n\uFEFFdata: b\n\n'])).toEqual(['a']);
  });

  it('The parser returns an event that a clean end left without its blank line', () => {
    expect(read(['data: {"a":1}\n'])).toEqual(['{"a":1}']);
    expect(read(['data: {"a":1}'])).toEqual(['{"a":1}']);
    expect(read([': only a comment'])).toEqual([]);
  });

  it('The parser returns an event as soon as its blank line has arrived', () => {
    const events: string[] = [];
    const parser = createSseParser((data) => events.push(data), 100);
    parser.push(Buffer.from('data: a\r\n\r'));
    expect(events).toEqual(['a']);
    parser.push(Buffer.from('\ndata: b\n'));
    expect(events).toEqual(['a']);
    parser.push(Buffer.from('\n'));
    expect(events).toEqual(['a', 'b']);
  });

  it('The parser refuses an event above its limit, in one line or in many', () => {
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

  it('The parser gives the same result however the bytes are split', () => {
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

/** Reference implementation: splits the whole text into lines, then into events. */
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

describe('an event as a frame', () => {
  it.each([
    [
      'takes its type from its name where the data has none',
      '{"id":1.0}',
      'response.created',
      '{"id":1.0,"type":"response.created"}',
    ],
    [
      'keeps its own type',
      '{ "a": 1, "type": "response.done" }',
      'response.completed',
      '{ "a": 1, "type": "response.done" }',
    ],
    ['takes no type from a name unknown to the API', '{"id":1}', 'message', '{"id":1}'],
    ['stays unchanged when it is no object', '"x"', 'error', '"x"'],
    ['does not exist for the end mark', '[DONE]', '', null],
  ])('An event as a frame %s', (_what, data, name, frame) => {
    expect(frameOfEvent(data, name)).toBe(frame);
  });

  it('An event has only the name of its own lines', () => {
    const seen: [string, string][] = [];
    const parser = createSseParser((data, name) => seen.push([data, name]), 1_000);
    parser.push(Buffer.from('event: response.a\n\nevent:error\rdata: 1\r\rdata: 2\n\n'));
    expect(seen).toEqual([
      ['1', 'error'],
      ['2', ''],
    ]);
  });
});

describe('a WebSocket message', () => {
  const one = '{"type":"a","text":"}\\n{"}';
  it.each([
    ['is one frame', one, [one]],
    [
      'is one frame when it is pretty-printed',
      '{\n"a": [{\n"b": {}\n},\n{\n}\n]\n}',
      ['{\n"a": [{\n"b": {}\n},\n{\n}\n]\n}'],
    ],
    ['may begin with a byte order mark', `\uFEFF${one}`, [one]],
    ['may hold a JSON text on each line', `${one}\n{"type":"b"}\r\n{}\n`, [one, '{"type":"b"}', '{}']],
    [
      'may be an event stream',
      `event: response.x\ndata: {"n":1}\n\n: c\n\ndata: ${one}\n\ndata: [DONE]\n\n`,
      ['{"n":1,"type":"response.x"}', one],
    ],
    ['of any other form stays unchanged', '[DONE]', ['[DONE]']],
  ])('A WebSocket message %s', (_what, message, frames) => {
    expect(framesOfMessage(message)).toEqual(frames);
  });
});
