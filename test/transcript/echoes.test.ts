import { describe, expect, it } from 'vitest';
import { membersOf } from '../../src/json.ts';
import { membersOfResponse, withoutEchoes } from '../../src/transcript/items.ts';
import { parseFrame } from '../../src/upstream/frames.ts';
import { createRandom, randomlyEdited } from '../support/random.ts';

const instructions = `Answer "briefly", with \\ and é. ${'More words. '.repeat(400)}`;
const tools = Array.from({ length: 40 }, (_, at) => ({ type: 'function', name: `f${at}`, parameters: { a: [{}] } }));
const response = (more: object = {}) => ({
  id: 'resp_1',
  instructions,
  output: [],
  tools,
  status: 'completed',
  ...more,
});
const event = (more: object = {}, type = 'response.created') =>
  JSON.stringify({ type, sequence_number: 3, response: response(more), last: [1] });

/** Returns the value of a text; undefined when it is not JSON. */
function parsedOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Reads an event as the frames of a provider are read. */
function read(text: string): string {
  const shortened = withoutEchoes(text);
  if (parsedOf(shortened.text) !== undefined) shortened.learn();
  return shortened.text;
}

const scanned = (text: string) => membersOf(text, membersOf(text).get('response')?.start ?? text.length);

describe('echoes of a request in the events of its response', () => {
  it('What was met once is left out of later events, and nothing else is', () => {
    expect(read(event())).toBe(event());
    expect(JSON.parse(read(event()))).toEqual(JSON.parse(event({ instructions: null, tools: null })));
    const other = event({ instructions: `${instructions}.`, usage: { total: 1 } });
    expect(JSON.parse(read(other))).toEqual(JSON.parse(other.replace(JSON.stringify(tools), 'null')));
    expect(read(event({ instructions: 'short', tools: [] }))).toBe(event({ instructions: 'short', tools: [] }));
    // Only where a response has it: any other member is data of the event.
    const item = JSON.stringify({ type: 'response.output_item.done', item: { instructions, tools } });
    expect(read(item)).toBe(item);
  });

  it('The members of a response are found with and without echoes', () => {
    for (const text of [
      event(),
      ` ${event()}`,
      JSON.stringify({ response: response(), type: 'x' }, null, 2),
      event().replace('"last"', '"response"'),
      event().replace('{"id"', '{"tools":1,"id"'),
      event().replace('"tools"', '"t\\u006fols"'),
      '{"type":"response.created","response":null}',
      '{"type":"response.created"}',
      '[]',
      '',
    ]) {
      read(text);
      expect(membersOfResponse(text)).toEqual(scanned(text));
    }
  });

  it('Random changes never make JSON of what is not, or another value of what is', () => {
    read(event());
    const random = createRandom(5, 'changes of an echo');
    const parts = [
      '"',
      '\\',
      '{',
      '}',
      '[',
      ']',
      ',',
      ':',
      'x',
      ' ',
      '\n',
      '1',
      'null',
      '"tools":',
      '"response":{',
      '\\"',
    ];
    const start = event();
    // The beginning and the end of each echo, where a change matters most.
    const places = ['"type"', '"response"', '"instructions"', '"output"', '"tools"', '"status"', '"last"'].map((name) =>
      start.indexOf(name),
    );
    let valid = 0;
    for (let round = 0; round < 6_000; round += 1) {
      const text = randomlyEdited(random, start, parts, ({ length }) =>
        random.chance(0.75) ? random.pick(places) + random.integer(-15, 24) : random.integer(0, length),
      );
      const expected = parsedOf(text);
      const found = parsedOf(withoutEchoes(text).text);
      expect(found === undefined, text).toBe(expected === undefined);
      if (expected === undefined) continue;
      valid += 1;
      const whole = expected as { response?: Record<string, unknown> };
      const left = found as typeof whole;
      for (const name of ['instructions', 'tools']) {
        if (left.response?.[name] === null && whole.response) left.response[name] = whole.response[name];
      }
      expect(left).toEqual(whole);
      expect(membersOfResponse(text)).toEqual(scanned(text));
    }
    expect(valid).toBeGreaterThan(300);
  });

  it('A frame means the same whether or not its echoes are known', () => {
    const echo = {
      instructions: `${instructions} 2`,
      tools: [...tools, { type: 'custom' }],
      text: { x: 'y'.repeat(600) },
    };
    for (const [type, status] of [
      ['response.created', 'in_progress'],
      ['response.in_progress', 'in_progress'],
      ['response.completed', 'completed'],
      ['response.failed', 'failed'],
      ['response.incomplete', 'incomplete'],
    ] as const) {
      const frame = event({ ...echo, status, previous_response_id: 'resp_0', error: { code: 'server_error' } }, type);
      const { data, ...first } = parseFrame(frame);
      const { data: left, ...again } = parseFrame(frame);
      expect(again).toEqual(first);
      const { instructions: _i, tools: _t, text: _x, ...rest } = data!.response as Record<string, unknown>;
      expect(left!.response).toEqual({ instructions: null, tools: null, text: null, ...rest });
    }
    expect(parseFrame(event(echo).slice(0, -1)).kind).toBe('malformed');
  });

  it('The texts that were met last are remembered, none of them very long', () => {
    const own = (nth: number) => event({ instructions: `${nth} ${instructions}`, tools: [] });
    for (let nth = 0; nth < 9; nth += 1) read(own(nth));
    expect(read(own(8))).not.toBe(own(8));
    expect(read(own(0))).toBe(own(0));
    const long = event({ instructions: 'x'.repeat(200_000), tools: [] });
    read(long);
    expect(read(long)).toBe(long);
  });
});
