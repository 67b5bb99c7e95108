import { expect, it } from 'vitest';
import { parseFrame } from '../../src/upstream/frames.ts';
import { createRandom, randomlyEdited } from '../support/random.ts';

/** Parses a frame as text that never counts as a plain delta: JSON may begin with a space. */
const parsed = (frame: string) => parseFrame(` ${frame}`);
const withoutData = (frame: string) => ({ ...parsed(frame), data: null });

const delta = (rest: string) => `{"type":"response.output_text.delta"${rest}}`;

it.each([
  delta(',"item_id":"msg_1","output_index":0,"content_index":0,"delta":"Hel","logprobs":[],"sequence_number":7'),
  `{"sequence_number":12,"type":"response.reasoning_summary_text.delta","delta":"a \\"quoted\\" \\u00e9 \\\\ word\\n"}`,
  delta(',"delta":"","obfuscation":null,"done":false,"output_index":-1'),
  delta(',"delta":"\\ud83d\\ude00 and 😀"'),
  delta(''),
])('A plain delta is recognised without parsing it, with the same meaning: %s', (frame) => {
  expect(parseFrame(frame)).toEqual(withoutData(frame));
  expect(parseFrame(frame).data).toBeNull();
  expect(() => JSON.parse(frame)).not.toThrow();
});

it('The longest plain delta has 4,096 characters', () => {
  const around = delta(',"delta":""').length;
  const longest = delta(`,"delta":"${'x'.repeat(4_096 - around)}"`);
  expect(parseFrame(longest).data).toBeNull();
  expect(parseFrame(longest.replace('x', 'xx')).data).not.toBeNull();
});

it.each([
  ['a second type', delta(',"type":"response.completed"')],
  ['a type whose name is escaped', delta(',"\\u0074ype":"response.completed"')],
  ['a response id', delta(',"response_id":"resp_1"')],
  ['a response', delta(',"response":{"id":"resp_1","status":"completed"}')],
  ['a nested value', delta(',"delta":{"text":"x"}')],
  ['a list of log probabilities', delta(',"delta":"x","logprobs":[{"token":"x","logprob":0}]')],
  ['no delta', '{"type":"response.completed","response":{"id":"r"}}'],
  ['a long text', delta(`,"delta":"${'x'.repeat(5_000)}"`)],
  ['a number with a fraction', delta(',"index":1.5')],
])('A frame with %s is parsed', (_, frame) => {
  expect(parseFrame(frame)).toEqual(parsed(frame));
  expect(parseFrame(frame).data).not.toBeNull();
});

it.each([
  ['a cut frame', delta(',"delta":"x').slice(0, -1)],
  ['an unclosed text', delta(',"delta":"x')],
  ['an unknown escape', delta(',"delta":"\\x41"')],
  ['a short escape', delta(',"delta":"\\u12"')],
  ['a raw line break in a text', delta(',"delta":"a\nb"')],
  ['a number with a leading zero', delta(',"output_index":01')],
  ['a missing comma', delta('"delta":"x"')],
  ['text after the object', `${delta(',"delta":"x"')}}`],
  ['two objects', `${delta('')}\n${delta('')}`],
])('%s is malformed, although it begins like a plain delta', (_, frame) => {
  expect(() => JSON.parse(frame)).toThrow();
  expect(parseFrame(frame).kind).toBe('malformed');
});

it('Random changes of a delta never give it another meaning than its parsed form has', () => {
  const start = delta(',"item_id":"msg_1","delta":"Hel\\n","logprobs":[],"sequence_number":7');
  const parts = [
    '"',
    '\\',
    '{',
    '}',
    '[',
    ']',
    ',',
    ':',
    'response',
    'type',
    '"type":',
    '\n',
    'u0041',
    '0',
    '-',
    ' ',
    '.',
  ];
  const random = createRandom(20_261_129, 'changes of a delta');
  for (let round = 0; round < 20_000; round += 1) {
    const frame = randomlyEdited(random, start, parts);
    expect({ ...parseFrame(frame), data: null }, frame).toEqual(withoutData(frame));
  }
});
