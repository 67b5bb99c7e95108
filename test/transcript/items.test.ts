import { describe, expect, it } from 'vitest';
import {
  bareResponse,
  isFromClient,
  isNameOnly,
  normaliseInput,
  typeOf,
  writtenInput,
} from '../../src/transcript/items.ts';
import { isExactItem } from '../../src/transcript/planner.ts';
import { LONGEST_METADATA, readItem, readRequest } from '../../src/transcript/read.ts';

const message = (part: unknown) => ({ type: 'message', role: 'user', content: [part] });
const reading = (body: Record<string, unknown>) => readRequest(body, JSON.stringify(body), 0);

describe('items that can be resent exactly', () => {
  it.each([
    ...['message', 'function_call', 'function_call_output', 'custom_tool_call', 'custom_tool_call_output'],
    ...['local_shell_call', 'local_shell_call_output', 'apply_patch_call', 'apply_patch_call_output'],
    ...['tool_search_call', 'tool_search_output', 'additional_tools', 'compaction'],
  ])('An item of type %s is exact unless it refers to something stored elsewhere', (type) => {
    expect(isExactItem({ type, output: 'x' })).toBe(true);
    expect(isExactItem({ type, output: [{ type: 'input_file', file_id: 'file_1' }] })).toBe(false);
    expect(isExactItem({ type, content: [{ type: 'input_image', file_id: 'file_1' }] })).toBe(false);
  });

  it.each(['input_text', 'output_text', 'text', 'refusal', 'summary_text', 'reasoning_text'])(
    'An item is exact with a part of type %s',
    (type) => {
      expect(isExactItem(message({ type, text: 'x' }))).toBe(true);
    },
  );

  it.each<[boolean, unknown]>([
    [true, 'x'],
    [false, null],
    [false, 7],
    [false, { type: 'future', file_data: 'AA' }],
    [true, { type: 'input_image', image_url: 'data:image/png;base64,AA' }],
    [false, { type: 'input_image', image_url: 'https://example.com/a.png' }],
    [false, { type: 'input_image', image_url: { url: 'data:' } }],
    [false, { type: 'input_image', image_url: 'data:image/png;base64,AA', file_id: 'file_1' }],
    [true, { type: 'input_file', file_data: 'AA' }],
    [false, { type: 'input_file' }],
    [false, { type: 'input_file', file_data: 'AA', file_id: 'file_1' }],
    [false, { type: 'input_file', file_data: 'AA', file_url: 'https://example.com' }],
  ])('Exactness of an item is %s with a part %j', (exact, part) => {
    expect(isExactItem(message(part))).toBe(exact);
  });

  it('A reasoning item is exact only with encrypted content, and no other type is exact by that', () => {
    const sealed = (encrypted_content: unknown) => isExactItem({ type: 'reasoning', encrypted_content });
    expect(['x', '', null, 7].map(sealed)).toEqual([true, false, false, false]);
    expect(isExactItem({ type: 'web_search_call' })).toBe(false);
  });
});

describe('an item', () => {
  it('The type of an item is its declared one, otherwise a message if it has a role, otherwise a reference if it has an id', () => {
    const items = [{ type: 'x', role: 'user' }, { role: 'user', id: 'a' }, { id: 'a' }, { id: '' }, { id: 7 }, {}];
    expect(items.map(typeOf)).toEqual(['x', 'message', 'item_reference', 'unknown', 'unknown', 'unknown']);
  });

  it('An item only names its content when the content is missing', () => {
    const named = (item: object) => isNameOnly({ id: 'i', ...item });
    expect(
      [{}, { type: 'item_reference' }, { type: 'reasoning' }, { type: 'image_generation_call' }].map(named),
    ).toEqual([true, true, true, true]);
    for (const empty of [null, '', []]) {
      expect(named({ type: 'reasoning', encrypted_content: empty, content: empty })).toBe(true);
      expect(named({ type: 'image_generation_call', result: empty })).toBe(true);
    }
    expect(named({ type: 'reasoning', encrypted_content: 'x' })).toBe(false);
    expect(named({ type: 'reasoning', content: [{ text: 'x' }] })).toBe(false);
    expect(named({ type: 'reasoning', content: { length: 0 } })).toBe(false);
    expect(named({ type: 'image_generation_call', result: 'AA' })).toBe(false);
    expect(named({ type: 'message' })).toBe(false);
    for (const id of [undefined, '', 7]) expect(isNameOnly({ type: 'item_reference', id })).toBe(false);
  });

  it('An item that only names its content has the name', () => {
    const read = (value: object) => readItem({ value: value as never, json: JSON.stringify(value) });
    expect([read({ id: 'msg_1' }).named, read({ type: 'message', id: 'msg_1', content: [] }).named]).toEqual([
      'msg_1',
      null,
    ]);
  });
});

describe('an item that only clients make', () => {
  it.each(['user', 'system', 'developer'])('A message is made by a client when its role is %s', (role) => {
    expect(isFromClient({ type: 'message', role })).toBe(true);
    expect(isFromClient({ role, content: 'x' })).toBe(true);
    expect(isFromClient({ type: 'novel', role })).toBe(false);
  });

  it.each([
    ...['function_call_output', 'custom_tool_call_output', 'computer_call_output', 'local_shell_call_output'],
    ...['apply_patch_call_output', 'mcp_approval_response'],
  ])('An item is made by a client when its type is %s', (type) => {
    expect(isFromClient({ type })).toBe(true);
  });

  it.each<object>([
    { type: 'message', role: 'assistant' },
    { type: 'message' },
    { type: 'message', role: 'function_call_output' },
    { type: 'function_call' },
    { type: 'reasoning' },
    { type: 'compaction' },
    { type: 'user' },
  ])('An item is not known to be made by a client: %j', (item) => {
    expect(isFromClient(item as never)).toBe(false);
  });
});

it('A response made by the bridge has its time in seconds, and a model also where the request named none', () => {
  const made = (model: unknown) => bareResponse({ id: 'resp_1', model, now: 1_700_000_000_999 });
  expect(made('m')).toMatchObject({ id: 'resp_1', object: 'response', created_at: 1_700_000_000, model: 'm' });
  expect(made('m')).toMatchObject({ status: 'in_progress', output: [], tools: [], parallel_tool_calls: true });
  for (const none of ['', 7, null, undefined]) expect(made(none).model).toBe('unknown');
});

describe('the shape of a request', () => {
  it.each<[string, object]>([
    ['delta', { previous_response_id: 'resp_1', input: [{ type: 'function_call' }] }],
    ['fresh', { previous_response_id: '', input: 'x' }],
    ['fresh', { previous_response_id: null }],
    [
      'fresh',
      {
        input: [
          { role: 'user', content: 'x' },
          { type: 'item_reference', id: 'msg_1' },
        ],
      },
    ],
    ['full', { input: [{ role: 'assistant', content: 'x' }] }],
    ['full', { input: [{ role: 'user', content: 'x' }, { type: 'function_call' }] }],
    ['full', { input: [{ type: 'tool_search_output' }] }],
    ['full', { input: [{ type: 'function_call_output' }] }],
    ['full', { input: [{ type: 'reasoning' }] }],
    ['full', { input: [{ type: 'compaction' }] }],
    ['full', { input: [{ type: 'mcp_approval_request' }] }],
    ['full', { input: [{ type: 'mcp_approval_response' }] }],
  ])('The shape is %s of %j', (shape, body) => {
    expect(reading({ model: 'm', ...body }).shape).toBe(shape);
  });
});

describe('tools that may act outside the conversation', () => {
  it.each([
    ...['function', 'custom', 'namespace', 'tool_search'],
    ...['web_search', 'web_search_preview', 'file_search'],
  ])('A tool of type %s does not', (type) => {
    expect(reading({ tools: [{ type }] }).hostedTools).toBe(false);
    expect(reading({ tools: [{ type }, { type: 'mcp' }] }).hostedTools).toBe(true);
  });

  it.each<[boolean, unknown]>([
    [false, undefined],
    [false, null],
    [false, []],
    [true, [{ type: 'code_interpreter' }]],
    [true, [{ type: 'novel' }]],
    [true, [{}]],
    [true, [null]],
    [true, ['function']],
  ])('Whether there are such tools is %s of %j', (are, tools) => {
    expect(reading({ tools }).hostedTools).toBe(are);
  });
});

describe('the input of a request', () => {
  const item = { type: 'message', role: 'user', content: [{ type: 'input_text', text: 'h\u00e9' }] };

  it('A text input is one message, with its escapes as written', () => {
    expect(normaliseInput('h\u00e9')).toEqual([item]);
    const written = writtenInput('h\u00e9', '"h\\u00e9"');
    expect(written).toEqual([{ value: item, json: JSON.stringify(item).replace('\u00e9', '\\u00e9') }]);
    expect(writtenInput('h\u00e9', null)).toEqual([{ value: item, json: JSON.stringify(item) }]);
  });

  it('The texts of the items are kept as they were written', () => {
    expect(writtenInput([{ n: 1 }], '[ {"n": 1.0} ]')).toEqual([{ value: { n: 1 }, json: '{"n": 1.0}' }]);
    expect(writtenInput([{ n: 1 }], null)).toEqual([{ value: { n: 1 }, json: '{"n":1}' }]);
    for (const none of [undefined, null, { 0: 'x' }]) expect(writtenInput(none, '[{}]')).toEqual([]);
  });
});

describe('members that are read from a body', () => {
  it('Only listed members of a body are read', () => {
    const kept = { model: 'm', stream: true, store: false, background: false, include: ['x'], prompt_cache_key: 'k' };
    const body = { ...kept, previous_response_id: 'resp_1', input: 'hi', instructions: 'x', metadata: { a: 'b' } };
    expect(reading(body).body).toEqual({ ...kept, previous_response_id: 'resp_1' });
  });

  it('Some members are read only for their presence', () => {
    expect(reading({ conversation: { id: 'conv_1' }, reasoning: { effort: 'low' } }).body).toEqual({
      conversation: {},
      reasoning: {},
    });
    expect(reading({ conversation: null, reasoning: null }).body).toEqual({ conversation: null, reasoning: null });
    expect(reading({}).body).toEqual({});
  });

  it('Only short texts of metadata are read', () => {
    const longest = 'x'.repeat(LONGEST_METADATA);
    const metadata = { turn_id: longest, 'x-codex-turn-metadata': `${longest}x`, 'x-codex-turn-state': 7, other: 'x' };
    expect(reading({ client_metadata: metadata }).body).toEqual({
      client_metadata: { turn_id: longest, 'x-codex-turn-metadata': null, 'x-codex-turn-state': null },
    });
    expect(reading({ client_metadata: null }).body).toEqual({ client_metadata: null });
    expect(reading({ client_metadata: { turn_id: ['x'], 'x-codex-turn-state': null } }).body).toEqual({
      client_metadata: { turn_id: null, 'x-codex-turn-state': null },
    });
  });
});
