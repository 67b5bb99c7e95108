import { describe, expect, it } from 'vitest';
import {
  comparisonOf,
  MOST_NAMES,
  namedInQuery,
  namesIn,
  namesMade,
  namesWritten,
  referencesIn,
} from '../../src/transcript/provider-ids.ts';

const message = (part: object) => ({ input: [{ type: 'message', role: 'user', content: [part] }] });
const items = (...input: object[]) => ({ input });
const tools = (...given: object[]) => ({ tools: given });
const said = [{ type: 'output_text', text: 'hi' }];

describe('no turn makes', () => {
  it.each<[string, object, string]>([
    ['a vector store', tools({ type: 'file_search', vector_store_ids: ['x'] }), 'tools[0].vector_store_ids[0]'],
    ['a connector', tools({ type: 'mcp', connector_id: 'connector_dropbox' }), 'tools[0].connector_id'],
    ['a tunnel', tools({ type: 'mcp', tunnel_id: 'x' }), 'tools[0].tunnel_id'],
    [
      'a skill of a shell',
      tools({ type: 'shell', environment: { type: 'container_auto', skills: [{ skill_id: 'x' }] } }),
      'tools[0].environment.skills[0].skill_id',
    ],
    [
      'what a tool in a namespace names',
      tools({ type: 'namespace', tools: [{ type: 'file_search', vector_store_ids: ['x'] }] }),
      'tools[0].tools[0].vector_store_ids[0]',
    ],
    [
      'what a tool that the input adds names',
      items({ type: 'additional_tools', tools: [{ type: 'file_search', vector_store_ids: ['x'] }] }),
      'input[0].tools[0].vector_store_ids[0]',
    ],
    ['a stored prompt', { prompt: { id: 'x' } }, 'prompt.id'],
    ['a stored prompt in one word', { prompt: 'x' }, 'prompt'],
    ['a conversation', { conversation: 'x' }, 'conversation'],
    ['a conversation in an object', { conversation: { id: 'x' } }, 'conversation.id'],
    ['an id in a field that is not known', { future: { thing_id: 'x' } }, 'future.thing_id'],
    ['ids in a field that is not known', { future: [{ thingIds: ['x'] }] }, 'future[0].thingIds[0]'],
    ['a value like an id', { future: [[{ where: 'resp_1' }]] }, 'future[0][0].where'],
    ['a value of an unknown family', { future: 'xyz_0a1b2c3d4e5f6a7b8c9d' }, 'future'],
    ['a value of a family with a UUID', { future: 'q-123e4567-e89b-12d3-a456-426614174000' }, 'future'],
    ['a name like an id', { future: { xyz_0a1b2c3d4e5f6a7b8c9d: true } }, 'future.xyz_0a1b2c3d4e5f6a7b8c9d'],
    ['an unknown field of an item', items({ role: 'user', content: 'hi', source: 'file-1' }), 'input[0].source'],
    [
      'an object in place of a text',
      items({ role: 'user', content: [{ text: { file_id: 'x' } }] }),
      'input[0].content[0].text.file_id',
    ],
    ['a list in place of an anchor', { previous_response_id: ['x'] }, 'previous_response_id[0]'],
    ['a list in place of an id', items({ role: 'user', content: 'hi', id: ['x'] }), 'input[0].id[0]'],
    [
      'an object in place of a comparison',
      { prompt_cache_options: { comparison_response_id: { a: 'x' } } },
      'prompt_cache_options.comparison_response_id.a',
    ],
    ['a string in place of an item', { input: ['msg_1'] }, 'input[0]'],
    [
      'a picture by another scheme',
      message({ type: 'input_image', image_url: 'sediment://x' }),
      'input[0].content[0].image_url',
    ],
    [
      'a picture by an id',
      message({ type: 'input_image', image_url: { url: 'file_1' } }),
      'input[0].content[0].image_url.url',
    ],
  ])('%s', (_, body, path) => {
    expect(namesIn(body as never).foreign).toBe(path);
  });
});

describe('a turn of the scope must have made', () => {
  it.each<[string, object, string]>([
    ['a file', message({ type: 'input_file', file_id: 'x' }), 'input[0].content[0].file_id'],
    ['a picture by file', message({ type: 'input_image', file_id: 'x' }), 'input[0].content[0].file_id'],
    [
      'a container of an earlier call',
      items({ type: 'code_interpreter_call', container_id: 'x', code: '1' }),
      'input[0].container_id',
    ],
    [
      'a file in a tool’s answer',
      items({ type: 'function_call_output', output: [{ file_id: 'x' }] }),
      'input[0].output[0].file_id',
    ],
    [
      'the file of a screenshot',
      items({ type: 'computer_call_output', call_id: 'c', output: { file_id: 'x' } }),
      'input[0].output.file_id',
    ],
    [
      'a file in a variable of a prompt',
      { prompt: { variables: { one: { type: 'input_file', file_id: 'x' } } } },
      'prompt.variables.one.file_id',
    ],
    [
      'a cited file',
      items({ role: 'assistant', content: [{ ...said[0], annotations: [{ container_id: 'x' }] }] }),
      'input[0].content[0].annotations[0].container_id',
    ],
    ['a container', tools({ type: 'code_interpreter', container: 'x' }), 'tools[0].container'],
    [
      'files of a container',
      tools({ type: 'code_interpreter', container: { file_ids: ['x'] } }),
      'tools[0].container.file_ids[0]',
    ],
    [
      'the container of a shell',
      tools({ type: 'shell', environment: { container_id: 'x' } }),
      'tools[0].environment.container_id',
    ],
    [
      'the mask of a picture',
      tools({ type: 'image_generation', input_image_mask: { file_id: 'x' } }),
      'tools[0].input_image_mask.file_id',
    ],
    [
      'a picture, whatever stands beside its id',
      items({ type: 'image_generation_call', id: 'x', result: 'AA' }),
      'input[0].id',
    ],
    ['open reasoning', items({ type: 'reasoning', id: 'x', content: said }), 'input[0].id'],
    [
      'a question that is answered',
      items({ type: 'mcp_approval_response', approval_request_id: 'x' }),
      'input[0].approval_request_id',
    ],
    ['an item with no more than an id', items({ id: 'x' }), 'input[0].id'],
    ['a message without content', items({ id: 'x', role: 'user' }), 'input[0].id'],
    [
      'a hosted call without its substance',
      items({ id: 'x', type: 'web_search_call', status: 'completed' }),
      'input[0].id',
    ],
    ['an item of a type that is not known', items({ id: 'x', type: 'future', text: 'hi' }), 'input[0].id'],
    [
      'the id of a safety check',
      items({ type: 'computer_call_output', acknowledged_safety_checks: [{ id: 'x' }] }),
      'input[0].acknowledged_safety_checks[0].id',
    ],
  ])('%s', (_, body, path) => {
    expect(namesIn(body as never)).toEqual({ owned: new Map([['x', path]]), foreign: null });
  });
});

it.each<[string, object]>([
  ['text', { input: 'file_id' }],
  ['messages with ids of their own', items({ type: 'message', id: 'msg_1', role: 'assistant', content: [] })],
  ['a picture in the request', message({ type: 'input_image', image_url: 'data:image/png;base64,AA' })],
  ['a picture at an address', message({ type: 'input_image', image_url: 'https://example.com/file_1' })],
  ['a container to be made', tools({ type: 'code_interpreter', container: { type: 'auto' } })],
  ['functions', tools({ type: 'function', name: 'file_search' })],
  [
    'a function that takes the id of a file',
    tools({ type: 'function', name: 'f', parameters: { properties: { file_id: {} }, required: ['file_id'] } }),
  ],
  [
    'what clients write about themselves',
    {
      metadata: { id: 'resp_1' },
      client_metadata: { session_id: 'resp_1' },
      user: 'resp_1',
      safety_identifier: 'resp_1',
      prompt_cache_key: 'resp_1',
      model: 'ft:gpt:org::1',
    },
  ],
  [
    'content that looks like an id',
    items(
      { role: 'user', content: 'resp_1' },
      { type: 'function_call', id: 'fc_1', call_id: 'call_1', name: 'f', arguments: '{"file_id":"file_1"}' },
      { type: 'function_call_output', call_id: 'call_1', output: 'file_1' },
    ),
  ],
  ['sealed reasoning', items({ type: 'reasoning', id: 'rs_1', summary: [], encrypted_content: 'x' })],
  [
    'the form of an answer',
    { text: { format: { type: 'json_schema', name: 'n', schema: { properties: { id: { const: 'file_1' } } } } } },
  ],
  [
    'words of the API',
    {
      include: ['file_search_call.results'],
      tool_choice: { type: 'file_search' },
      truncation: 'auto',
      future: { mode: 'in_progress', type: 'file_citation' },
    },
  ],
  [
    'an anchor and a comparison, which are asked about elsewhere',
    { previous_response_id: 'resp_1', prompt_cache_options: { comparison_response_id: 'resp_1' } },
  ],
])('%s name nothing at the provider', (_, body) => {
  expect(namesIn(body as never)).toEqual({ owned: new Map(), foreign: null });
});

it('more names than can be asked about are refused, and depth costs no stack', () => {
  const many = (length: number) =>
    items(...Array.from({ length }, (_, index) => ({ type: 'item_reference', id: `msg_${index}` })));
  expect(namesIn(many(MOST_NAMES))).toMatchObject({ foreign: null, owned: { size: MOST_NAMES } });
  expect(namesIn(many(MOST_NAMES + 1)).foreign).toBe(`input[${MOST_NAMES}].id`);
  let deep: object = { id: 'x' };
  for (let level = 0; level < 20_000; level += 1) deep = { a: [deep] };
  expect(namesIn({ deep }).foreign).toMatch(/^deep\.a\[0\]\.a\[0\]/);
});

it('what output items would be known by is what their echo asks for', () => {
  const output = [
    { type: 'code_interpreter_call', id: 'ci_1', code: '1', container_id: 'cntr_1', outputs: [] },
    { type: 'image_generation_call', id: 'ig_1', result: 'AA' },
    { type: 'mcp_approval_request', id: 'mcpr_1', name: 'n', arguments: '{}' },
    {
      type: 'message',
      id: 'msg_1',
      role: 'assistant',
      content: [{ ...said[0], annotations: [{ file_id: 'cfile_1' }] }],
    },
    null,
  ] as never;
  expect(namesMade(output)).toEqual(['cntr_1', 'ig_1', 'cfile_1', 'mcpr_1']);
});

it('a query names by its names or by its values', () => {
  const named = (query: string) => namedInQuery(new URLSearchParams(query), ['after']);
  expect(named('include[]=file_search_call.results&limit=5&order=asc&after=msg_1&starting_after=7')).toBeNull();
  expect(named('limit=5&before=msg_1')).toBe('before');
  expect(named('thing_id=7')).toBe('thing_id');
  expect(named('thing_ids[]=7')).toBe('thing_ids[]');
});

it('references to items are listed once each, and a compared response is named', () => {
  const reference = (id: unknown) => ({ type: 'item_reference', id });
  const body = { input: [reference('msg_1'), { role: 'user', content: 'hi' }, reference('msg_1'), reference(7)] };
  expect(referencesIn(body)).toEqual(['msg_1']);
  expect(referencesIn({ input: 'hi' })).toEqual([]);
  const sealed = { type: 'reasoning', id: 'rs_2', summary: [], encrypted_content: 'x' };
  const open = { type: 'reasoning', id: 'rs_3', content: [{ type: 'reasoning_text', text: 'thought' }] };
  const named = { type: 'reasoning', id: 'rs_1', summary: [], content: [], encrypted_content: null };
  const pictures = ['', 'AA'].map((result) => ({ type: 'image_generation_call', id: `ig_${result}`, result }));
  const untyped = [{ id: 'msg_2' }, { type: null, id: 'msg_3' }, { role: 'assistant', id: 'msg_4', content: 'hi' }];
  expect(referencesIn({ input: [sealed, open, named, ...pictures, ...untyped] })).toEqual([
    'rs_1',
    'ig_',
    'msg_2',
    'msg_3',
  ]);
  expect(comparisonOf({ prompt_cache_options: { comparison_response_id: 'resp_1' } })).toBe('resp_1');
  expect(comparisonOf({ prompt_cache_options: { prewarm: true } })).toBeNull();
});

it.each<[string, string, string | null]>([
  [
    'an anchor, the first time',
    '{"previous_response_id":"resp_1","previous_response_id":null}',
    'previous_response_id',
  ],
  ['with an escape in its name', '{"prompt":{"id":"a"},"pr\\u006fmpt":null}', 'prompt'],
  [
    'in a part',
    '{"input":[{"content":["x",{"file_id":"a","n":{"b":1},"file_id":null}]}]}',
    'input[0].content[1].file_id',
  ],
  ['with white space around it', '{"input":[{"type" : "item_reference","type"\n:"message"}]}', 'input[0].type'],
  ['no name of two objects', '{"a":{"id":1},"b":[{"id":1},{"id":1}],"id":{"a":"id","c":"a"}}', null],
  ['no value and no text', '{"a":"a","b":["a","a"],"c":"\\"a\\":1,\\"a\\":2"}', null],
])('a name that is written twice counts as foreign: %s', (_, text, path) => {
  expect(namesWritten(JSON.parse(text), text).foreign).toBe(path);
});
