import { describe, expect, it } from 'vitest';
import { parseExact } from '../../src/json.ts';
import { contextFingerprint, fieldTexts, identitiesOf, identity, shownItems } from '../../src/transcript/items.ts';
import { readRequest } from '../../src/transcript/read.ts';
import type { Item } from '../../src/transcript/types.ts';

const contextOf = (body: object) => contextFingerprint(fieldTexts(body as never));

const text = (type: string, words: string, more: object = {}) => ({ type, text: words, ...more });
const said = (more: object = {}): Item => ({
  type: 'message',
  role: 'assistant',
  content: [text('output_text', 'hello')],
  ...more,
});
const asked = (more: object = {}): Item => ({
  type: 'message',
  role: 'user',
  content: [text('input_text', 'hi')],
  ...more,
});
const call = (more: object = {}): Item => ({
  type: 'function_call',
  call_id: 'c1',
  name: 'look',
  arguments: '{}',
  ...more,
});

describe('equal items', () => {
  it.each<[string, Item, Item]>([
    ['the id made by the server', said({ id: 'msg_1' }), said()],
    ['Codex metadata', said({ internal_chat_message_metadata_passthrough: { turn_id: 't' } }), said()],
    ['their status', said({ status: 'completed' }), said()],
    [
      'empty annotations and log probabilities',
      said({ content: [text('output_text', 'hello', { annotations: [], logprobs: [] })] }),
      said(),
    ],
    ['null fields', said({ phase: null }), said()],
    ['the order of their fields', { role: 'user', type: 'message', content: asked().content }, asked()],
    ['text given as a string', asked({ content: 'hi' }), asked()],
    ['a missing type where the role implies it', { role: 'user', content: 'hi' }, asked()],
    ['a missing type of an item with only an id', { id: 'msg_1' }, { type: 'item_reference', id: 'msg_1' }],
    ['a call’s status', call({ id: 'fc_1', status: 'completed' }), call()],
    [
      'fields beside encrypted reasoning',
      { type: 'reasoning', id: 'rs_1', summary: [text('summary_text', 'thought')], encrypted_content: 'x' },
      { type: 'reasoning', summary: [], encrypted_content: 'x' },
    ],
  ])('Two items are the same when they differ only in %s', (_, one, other) => {
    expect(identity(one)).toBe(identity(other));
  });
});

describe('different items', () => {
  it.each<[string, Item, Item]>([
    ['their text', asked(), asked({ content: 'ho' })],
    ['the role', asked({ content: 'hi' }), asked({ content: 'hi', role: 'developer' })],
    ['the kind of their part', said(), said({ content: [text('refusal', 'hello')] })],
    ['the number of their parts', asked(), asked({ content: [text('input_text', 'hi'), text('input_text', '')] })],
    ['annotations', said(), said({ content: [text('output_text', 'hello', { annotations: [{ type: 'x' }] })] })],
    ['annotations that are no list', said(), said({ content: [text('output_text', 'hello', { annotations: '' })] })],
    ['the id of the call', call(), call({ call_id: 'c2' })],
    ...[
      'function_call_output',
      'custom_tool_call_output',
      'local_shell_call_output',
      'shell_call_output',
      'apply_patch_call_output',
      'computer_call_output',
      'tool_search_output',
    ].map((type): [string, Item, Item] => [
      `the call they answer (${type})`,
      { type, call_id: 'c1', output: 'x' },
      { type, call_id: 'c2', output: 'x' },
    ]),
    [
      'the output of a call',
      { type: 'function_call_output', call_id: 'c1', output: 'x' },
      { type: 'function_call_output', call_id: 'c1', output: 'y' },
    ],
    [
      'whether a patch could be applied',
      { type: 'apply_patch_call_output', call_id: 'c1', status: 'completed' },
      { type: 'apply_patch_call_output', call_id: 'c1', status: 'failed' },
    ],
    ['a call’s name', call(), call({ name: 'act' })],
    ['the exact text of a call’s arguments', call(), call({ arguments: '{ }' })],
    [
      'encrypted reasoning',
      { type: 'reasoning', encrypted_content: 'x' },
      { type: 'reasoning', encrypted_content: 'y' },
    ],
    [
      'a summary beside empty encrypted reasoning',
      { type: 'reasoning', encrypted_content: '', summary: [text('summary_text', 'a')] },
      { type: 'reasoning', encrypted_content: '', summary: [text('summary_text', 'b')] },
    ],
    [
      'a field beside encrypted content of another type',
      { type: 'compaction', encrypted_content: 'x', note: 'a' },
      { type: 'compaction', encrypted_content: 'x', note: 'b' },
    ],
    [
      'an approval’s id',
      { type: 'mcp_approval_response', approval_request_id: 'a', approve: true },
      { type: 'mcp_approval_response', approval_request_id: 'b', approve: true },
    ],
    ['an unknown field', asked(), asked({ novelty: 1 })],
    ['an id, where the type is unknown', { type: 'novel', id: '1' }, { type: 'novel', id: '2' }],
    ['a list in place of an object', { type: 'novel', n: { 0: 'a' } }, { type: 'novel', n: ['a'] }],
    ['numbers as text', { type: 'novel', n: 1 }, { type: 'novel', n: '1' }],
  ])('Two items are different when they differ in %s', (_, one, other) => {
    expect(identity(one)).not.toBe(identity(other));
  });
});

describe('the id of an item', () => {
  const identified = (type: string, id: string) => identity({ type, id, content: [] });

  it.each([
    ...['message', 'function_call', 'function_call_output', 'custom_tool_call', 'custom_tool_call_output'],
    ...['local_shell_call', 'shell_call', 'shell_call_output', 'apply_patch_call', 'apply_patch_call_output'],
    ...['tool_search_call', 'tool_search_output', 'compaction', 'web_search_call'],
  ])('The id of an item may change when its type is %s', (type) => {
    expect(identified(type, 'one')).toBe(identified(type, 'other'));
    expect(identitiesOf({ type, id: 'one', content: [] })).toHaveLength(1);
  });

  it.each(['local_shell_call_output', 'computer_call', 'mcp_call', 'image_generation_call', 'item_reference'])(
    'The id of an item may be missing, but not change, when its type is %s',
    (type) => {
      expect(identified(type, 'one')).not.toBe(identified(type, 'other'));
      expect(identitiesOf({ type, id: 'one', content: [] })).toEqual([
        identified(type, 'one'),
        identity({ type, content: [] }),
      ]);
    },
  );
});

it('An item is recognised whole, without its id, without the marks of its text, and without both', () => {
  const novel = (more: object, marks: object) => ({ type: 'novel', ...more, content: [{ text: 'x', ...marks }] });
  const marks = { annotations: ['a'], logprobs: ['b'] };
  expect(identitiesOf(novel({ id: '1' }, marks))).toEqual([
    identity(novel({ id: '1' }, marks)),
    identity(novel({}, marks)),
    identity(novel({ id: '1' }, {})),
    identity(novel({}, {})),
  ]);
});

it('Encrypted content of reasoning is hidden from a client that did not request it, and no other', () => {
  const items = [
    { type: 'reasoning', id: 'rs_1', summary: [], encrypted_content: 'x' },
    { type: 'compaction', encrypted_content: 'y' },
    said(),
  ];
  expect(shownItems(items, false)).toEqual(items);
  expect(shownItems(items, true)).toEqual([{ type: 'reasoning', id: 'rs_1', summary: [] }, items[1], items[2]]);
});

describe('a number that no double holds', () => {
  const numbered = (digits: string) => identity(parseExact(`{"type":"novel","n":${digits}}`) as Item);

  it('A number that no double holds keeps its digits', () => {
    expect(numbered('9007199254740993')).not.toBe(numbered('9007199254740992'));
    expect(numbered('1e400')).not.toBe(numbered('1e401'));
    expect(numbered('5.1e-324')).not.toBe(numbered('5e-324'));
    expect(numbered('1E400')).toBe(numbered('1e400'));
  });

  it('A number has the same identity in any notation', () => {
    for (const ten of ['10.0', '1e1', '1E+01', '1e0000001']) expect(numbered(ten)).toBe(numbered('10'));
  });
});

describe('the context of a request', () => {
  const body = { model: 'm', store: false, input: [asked()], tools: [{ type: 'function', name: 'look' }] };

  it.each([
    ...['type', 'input', 'previous_response_id', 'conversation', 'background', 'client_metadata', 'metadata', 'stream'],
    ...['stream_options', 'user', 'safety_identifier', 'prompt_cache_key', 'prompt_cache_retention'],
    ...['prompt_cache_options', 'moderation', 'access_programs', 'service_tier', 'max_output_tokens'],
    ...['max_tool_calls', 'temperature', 'top_p', 'top_logprobs', 'generate'],
  ])('The context fingerprint does not depend on the field %s', (name) => {
    expect(contextOf({ ...body, [name]: 'another' })).toBe(contextOf(body));
  });

  it.each<[string, unknown]>([
    ['tool_choice', 'auto'],
    ['parallel_tool_calls', true],
    ['truncation', 'disabled'],
    ['store', true],
    ['tools', []],
    ['include', []],
    ['text', { format: { type: 'text' } }],
  ])('The context fingerprint is the same without %s and with its default', (name, value) => {
    expect(contextOf({ model: 'm', [name]: value })).toBe(contextOf({ model: 'm' }));
    expect(contextOf({ model: 'm', [name]: 'another' })).not.toBe(contextOf({ model: 'm' }));
  });

  it.each<[string, object]>([
    ['its input', { input: [] }],
    ['sampling and limits', { temperature: 0, top_p: 1, max_output_tokens: 5, max_tool_calls: 2, top_logprobs: 1 }],
    ['metadata of any kind', { client_metadata: { turn_id: 't' }, metadata: { a: '1' }, user: 'u' }],
    ['delivery options', { stream: true, stream_options: { include_obfuscation: false }, background: false }],
    ['cache hints and tiers', { prompt_cache_key: 'k', prompt_cache_retention: '24h', service_tier: 'flex' }],
    ['a warm-up', { generate: false }],
    ['its anchor', { previous_response_id: 'resp_1' }],
    ['explicit defaults', { tool_choice: 'auto', parallel_tool_calls: true, truncation: 'disabled', include: [] }],
    ['null', { instructions: null, reasoning: null, text: null }],
    ['empty objects', { reasoning: {} }],
  ])('The context fingerprint is not changed by %s', (_, more) => {
    expect(contextOf({ ...body, ...more })).toBe(contextOf(body));
  });

  it.each<[string, object]>([
    ['the model', { model: 'n' }],
    ['instructions', { instructions: 'Be brief.' }],
    ['tools', { tools: [] }],
    ['annotations of a tool', { tools: [{ type: 'function', name: 'look', annotations: ['x'] }] }],
    ['tools in another order', { tools: [{ type: 'function', name: 'act' }, body.tools[0]] }],
    ['the tool choice', { tool_choice: 'required' }],
    ['reasoning', { reasoning: { effort: 'high' } }],
    ['the text format', { text: { verbosity: 'low' } }],
    ['truncation', { truncation: 'auto' }],
    ['compaction by the server', { context_management: [{ type: 'compaction', compact_threshold: 9 }] }],
    ['a stored prompt', { prompt: { id: 'p' } }],
    ['the include list', { include: ['reasoning.encrypted_content'] }],
    ['the store flag', { store: true }],
    ['parallel calls', { parallel_tool_calls: false }],
    ['an unknown field', { novelty: 1 }],
  ])('The context fingerprint is changed by %s', (_, more) => {
    expect(contextOf({ ...body, ...more })).not.toBe(contextOf(body));
  });

  it('The context fingerprint does not depend on the order of `include`', () => {
    const [one, other] = [
      ['a', 'b'],
      ['b', 'a', 'b'],
    ].map((include) => contextOf({ ...body, include }));
    expect(one).toBe(other);
  });
});

describe('request fingerprints', () => {
  const body = { model: 'm', temperature: 1, input: [asked()] };
  it.each<[string, object, boolean]>([
    ['when only delivery options and metadata differ', { stream: true, client_metadata: { attempt: 2 } }, true],
    ['when only server-made ids differ', { input: [asked({ id: 'msg_1' })] }, true],
    ['when only the type of the frame differs', { type: 'response.create' }, true],
    ['when only options of the stream differ', { stream_options: { include_obfuscation: false } }, true],
    ['when one has a member that is null', { instructions: null }, true],
    ['unless a member differs', { instructions: 'Be brief.' }, false],
    ['unless the text of an item differs', { input: [asked({ content: 'ho' })] }, false],
    ['unless sampling differs', { temperature: 0 }, false],
    ['unless the anchor differs', { previous_response_id: 'resp_1' }, false],
    ['unless there is an additional item', { input: [asked(), asked()] }, false],
  ])('Two requests have the same request fingerprint %s', (_, more, same) => {
    const print = (asks: object) => readRequest(asks as never, JSON.stringify(asks), 0).requestFp;
    expect(print({ ...body, ...more }) === print(body)).toBe(same);
  });
});
