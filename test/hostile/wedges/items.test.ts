import { describe, expect, it } from 'vitest';
import { user } from '../../field/support.ts';
import { type Answer, doneItems, terminalsOf } from '../../support/client.ts';
import { first, framesWith, type Hostile, hostileItems, nested, sentBack, startHostile } from './support.ts';

const places = ['streamed', 'listed', 'both'] as const;
type Place = (typeof places)[number];

const outcomeOf = (answer: Answer, stream: boolean): string => {
  if (!stream) return answer.status === 200 ? 'response.completed' : `status ${answer.status}: ${answer.text}`;
  return terminalsOf(answer)
    .map(({ type }) => type)
    .join();
};

/**
 * Runs one conversation of two turns whose first answer is hostile.
 *
 * @param deep true if the answer nests deeper than a frame may: its turn fails with that reason
 * @returns a description of the failure, or null
 */
async function converse(hostile: Hostile, thread: string, stream: boolean, deep: boolean): Promise<string | null> {
  const headers = { 'thread-id': thread };
  const one = await hostile.ask(first(thread, { stream }), headers);
  const outcome = outcomeOf(one, stream);
  if (deep) {
    if (!one.text.includes('nested deeper than') || outcome.includes('completed')) return `turn 1: ${outcome}`;
  } else if (outcome !== 'response.completed') return `turn 1: ${outcome}`;
  const items = deep ? [] : stream ? doneItems(one) : one.body.output;
  const input = [user(`hello ${thread}`), ...sentBack(items), user('and now')];
  const two = await hostile.ask({ ...first(thread, { stream }), input }, headers);
  return outcomeOf(two, stream) === 'response.completed' ? null : `turn 2: ${outcomeOf(two, stream)}`;
}

describe.each(['websocket', 'http'] as const)('invalid output items over %s', (transport) => {
  it.each([true, false])('A session continues after invalid output items (stream: %s)', async (stream) => {
    const cases = hostileItems.flatMap(([name, item]) => places.map((where) => ({ name, item, where })));
    const byThread = new Map<string, { item: string; where: Place }>();
    const hostile = await startHostile(transport, ({ n, body }) => {
      const thread = /hello (case-\d+)/.exec(JSON.stringify(body))?.[1] ?? '';
      const found = byThread.get(thread);
      byThread.delete(thread);
      return found ? framesWith(n, found.item, found.where) : framesWith(n, 'null', 'listed');
    });
    const wrong: string[] = [];
    for (const [index, { name, item, where }] of cases.entries()) {
      byThread.set(`case-${index}`, { item, where });
      const found = await converse(hostile, `case-${index}`, stream, item.includes(nested(9_000)));
      if (found !== null) wrong.push(`${name}, ${where}: ${found}`);
    }
    expect(wrong).toEqual([]);
    await hostile.atRest();
    expect(hostile.errors()).toEqual([]);
  });
});

/** Responses and errors of unusual shapes, each as the frames of a turn. */
const strange: readonly [string, (id: string) => string[]][] = [
  ['a response that is null', () => ['{"type":"response.completed","response":null}']],
  ['a response that is an array', () => ['{"type":"response.completed","response":[1,{"id":"x"}]}']],
  ['a response that is a string', () => ['{"type":"response.completed","response":"resp_1"}']],
  ['an output that is an object', (id) => [`{"type":"response.completed","response":{"id":"${id}","output":{"0":1}}}`]],
  ['an output that is null', (id) => [`{"type":"response.completed","response":{"id":"${id}","output":null}}`]],
  [
    'usage that is a string',
    (id) => [`{"type":"response.completed","response":{"id":"${id}","output":[],"usage":"7"}}`],
  ],
  [
    'usage nested deeply',
    (id) => [`{"type":"response.completed","response":{"id":"${id}","output":[],"usage":{"a":${nested(9_000)}}}}`],
  ],
  [
    'usage with NUL',
    (id) => [`{"type":"response.completed","response":{"id":"${id}","output":[],"usage":{"\\u0000":1,"a":"\\u0000"}}}`],
  ],
  [
    'a huge response id',
    (id) => [`{"type":"response.completed","response":{"id":"${id}${'i'.repeat(500_000)}","output":[]}}`],
  ],
  ['a response id with NUL', (id) => [`{"type":"response.completed","response":{"id":"${id}\\u0000","output":[]}}`]],
  ['an id that is an object', () => ['{"type":"response.completed","response":{"id":{"toString":1},"output":[]}}']],
  ['an error that is a number', (id) => [`{"type":"response.failed","response":{"id":"${id}","error":7,"output":[]}}`]],
  [
    'an error nested deeply',
    (id) => [`{"type":"response.failed","response":{"id":"${id}","error":{"message":"m","more":${nested(9_000)}}}}`],
  ],
  [
    'an error frame nested deeply',
    () => [`{"type":"error","error":{"message":"m","code":"c","more":${nested(9_000)}}}`],
  ],
  ['an error frame of arrays', () => ['{"type":"error","error":[[]],"status":"no","headers":[1]}']],
  [
    'an error frame with odd headers',
    () => [
      '{"type":"error","status":429,"error":{"message":"m"},"headers":{"retry-after":"1\\r\\nx: y","x-codex-a":"\\ud800","__proto__":"1"}}',
    ],
  ],
  [
    'telemetry of unusual types',
    (id) => [
      '{"type":"codex.rate_limits","limit_name":{"toString":1},"rate_limits":[[]]}',
      `{"type":"response.metadata","headers":${nested(9_000)}}`,
      '{"type":"codex.response.metadata","headers":{"x-codex-turn-state":"a","x":{"toString":1}}}',
      `{"type":"response.completed","response":{"id":"${id}","output":[]}}`,
    ],
  ],
  [
    'an index that is no number',
    (id) => [
      '{"type":"response.output_item.done","output_index":{"valueOf":1},"item":{"type":"message"}}',
      `{"type":"response.completed","response":{"id":"${id}","output":[]}}`,
    ],
  ],
];

describe.each(['websocket', 'http'] as const)('answers of unusual shapes over %s', (transport) => {
  it.each([true, false])('A session continues after an answer of unusual shape (stream: %s)', async (stream) => {
    let frames: readonly string[] = [];
    const hostile = await startHostile(transport, ({ n }) => (n % 2 === 1 ? frames : framesWith(n, 'null', 'listed')));
    const wrong: string[] = [];
    for (const [index, [name, of]] of strange.entries()) {
      const id = `resp_${transport}_${stream}_${index}`;
      frames = [`{"type":"response.created","response":{"id":"${id}","status":"in_progress","output":[]}}`, ...of(id)];
      const headers = { 'thread-id': `strange-${index}` };
      const one = await hostile.ask(first(`strange-${index}`, { stream }), headers);
      if (one.cut || (stream && terminalsOf(one).length !== 1)) wrong.push(`${name}: ${one.status} ${one.text}`);
      if (one.text.includes('bridge_internal')) wrong.push(`${name}: ${one.text.slice(0, 500)}`);
      const two = await hostile.ask(first(`strange-${index} again`, { stream }), headers);
      if (outcomeOf(two, stream) !== 'response.completed') wrong.push(`${name}: next: ${two.status} ${two.text}`);
    }
    expect(wrong).toEqual([]);
    await hostile.atRest();
    expect(hostile.errors()).toEqual([]);
  });
});

describe('upstream error text', () => {
  it('The text of an upstream error reaches its client, and neither the log nor the store', async () => {
    const secret = 'the-words-of-a-person';
    const hostile = await startHostile('websocket', () => [
      `{"type":"error","status":400,"error":{"message":"${secret}","type":"invalid_request_error","code":"odd ${secret}","param":"input[0].content"}}`,
    ]);
    const answer = await hostile.ask(first('secret', { stream: true }), { 'thread-id': 'secret' });
    expect(answer.text).toContain(secret);
    await hostile.atRest();
    const [session] = await hostile.at.store.sessions(1);
    const [turn] = await hostile.at.store.turnDetails(session!.id, 1);
    expect(turn!.error).toEqual({ status: 400, type: 'invalid_request_error', code: null, param: 'input[0].content' });
    expect(JSON.stringify([hostile.lines, turn, await hostile.at.store.story(session!.id)])).not.toContain(secret);
  });
});
