import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import { bodyOf, endsOf, type Item, message, startBoth, user } from './support.ts';

const picture = (image_url: string): Item => ({
  type: 'message',
  role: 'user',
  content: [{ type: 'input_image', image_url }],
});
const output = (...items: Item[]) => [...items, message('msg_1', 'said')];

const lost: [string, Item, Item[]][] = [
  ['reasoning without its content', user('one'), output({ id: 'rs_1', type: 'reasoning', summary: [] })],
  [
    'reasoning whose content is null',
    user('one'),
    output({ id: 'rs_1', type: 'reasoning', summary: [], encrypted_content: null }),
  ],
  [
    'reasoning whose content is empty',
    user('one'),
    output({ id: 'rs_1', type: 'reasoning', summary: [], encrypted_content: '' }),
  ],
  [
    'a hosted tool’s call',
    user('one'),
    output({ id: 'ci_1', type: 'code_interpreter_call', container_id: 'c', code: 'x', outputs: null }),
  ],
  [
    'a generated image',
    user('one'),
    output({ id: 'ig_1', type: 'image_generation_call', result: 'AAAA', status: 'completed' }),
  ],
  ['an item of a new kind', user('one'), output({ id: 'nv_1', type: 'novel_call', data: 'x' })],
  ['a picture by its address', picture('https://img.example/a.png'), output()],
  [
    'a file by its id',
    { type: 'message', role: 'user', content: [{ type: 'input_file', file_id: 'file-1' }] },
    output(),
  ],
  [
    'a picture in a tool’s output',
    { type: 'function_call_output', call_id: 'c', output: [{ type: 'input_image', file_id: 'file-1' }] },
    output(),
  ],
  ['a reference', { type: 'item_reference', id: 'msg_elsewhere' }, output()],
];
const kept: [string, Item, Item[]][] = [
  [
    'sealed reasoning without an id',
    user('one'),
    output({ type: 'reasoning', summary: [], encrypted_content: 'SEALED' }),
  ],
  ['a picture in the item', picture('data:image/png;base64,AAAA'), output()],
  ['tool calls', user('one'), output({ id: 'ct_1', type: 'custom_tool_call', call_id: 'c', name: 'n', input: 'x' })],
];

async function afterLoss([, first, made]: [string, Item, Item[]], restart: boolean) {
  const both = await startBoth((asked) => asked.answer(...(asked.n === 1 ? made : [])));
  const headers = { 'thread-id': 't' };
  await both.ask(bodyOf([first]), headers);
  if (restart) await both.at.restart();
  else {
    const { socket } = both.asked[0]!;
    const gone = once(socket!, 'close');
    socket!.terminate();
    await gone;
  }
  const next = await both.ask(bodyOf([user('two')], { previous_response_id: 'resp_1' }), headers);
  return { ...both, next };
}

describe.each([
  ['its socket is lost', false],
  ['a restart', true],
])('an unstored line after %s', (_, restart) => {
  it.each(lost)('A line with %s cannot be resent exactly, so its next turn is refused', async (...line) => {
    const { next, asked } = await afterLoss(line, restart);
    expect(next.status).toBe(400);
    expect(next.body.error).toMatchObject({
      code: 'previous_response_not_found',
      bridge_code: 'bridge_session_expired',
    });
    expect(asked).toHaveLength(1);
  });

  it.each(kept)('A line with %s continues exactly', async (...line) => {
    const { next, asked } = await afterLoss(line, restart);
    expect(endsOf(next)).toEqual(['response.completed']);
    const said = line[2].map(({ id: _id, status: _status, ...rest }) => rest);
    expect(asked[1]!.body.input).toEqual([line[1], ...said, user('two')]);
    expect(asked[1]!.body).not.toHaveProperty('previous_response_id');
  });
});
