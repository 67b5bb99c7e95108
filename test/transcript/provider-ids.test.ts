import { describe, expect, it } from 'vitest';
import { MOST_NAMES, namedInQuery, namesIn, namesMade, namesWritten } from '../../src/transcript/provider-ids.ts';
import { comparisonOf, referencesIn } from '../../src/transcript/read.ts';

const message = (part: object) => ({ input: [{ type: 'message', role: 'user', content: [part] }] });
const items = (...input: object[]) => ({ input });
const tools = (...given: object[]) => ({ tools: given });
const said = [{ type: 'output_text', text: 'hi' }];

describe('ids of objects that other calls make', () => {
  it.each<[string, object, string]>([
    ['a vector store', tools({ type: 'file_search', vector_store_ids: ['x'] }), 'tools[0].vector_store_ids[0]'],
    [
      'a skill of a shell',
      tools({ type: 'shell', environment: { type: 'container_auto', skills: [{ skill_id: 'x' }] } }),
      'tools[0].environment.skills[0].skill_id',
    ],
    [
      'an id named by a tool in a namespace',
      tools({ type: 'namespace', tools: [{ type: 'file_search', vector_store_ids: ['x'] }] }),
      'tools[0].tools[0].vector_store_ids[0]',
    ],
    [
      'an id named by a tool that the input adds',
      items({ type: 'additional_tools', tools: [{ type: 'file_search', vector_store_ids: ['x'] }] }),
      'input[0].tools[0].vector_store_ids[0]',
    ],
    ['a conversation', { conversation: 'x' }, 'conversation'],
    ['a conversation in an object', { conversation: { id: 'x' } }, 'conversation.id'],
  ])('A request with %s names an object that its scope must have made', (_, body, path) => {
    expect(namesIn(body as never)).toEqual({ owned: new Map([['x', path]]), foreign: null });
  });
});

describe('ids that no call makes', () => {
  it.each<[string, object, string]>([
    ['a connector', tools({ type: 'mcp', connector_id: 'connector_of_ann' }), 'tools[0].connector_id'],
    ['a tunnel', tools({ type: 'mcp', tunnel_id: 'x' }), 'tools[0].tunnel_id'],
    ['a stored prompt', { prompt: { id: 'x' } }, 'prompt.id'],
    ['a stored prompt in one word', { prompt: 'x' }, 'prompt'],
    ['an id in an unknown field', { future: { thing_id: 'x' } }, 'future.thing_id'],
    ['ids in an unknown field', { future: [{ thingIds: ['x'] }] }, 'future[0].thingIds[0]'],
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
    ['an object in place of an id', items({ role: 'user', content: 'hi', id: { a: 'x' } }), 'input[0].id.a'],
    ['an unknown field of a tool', tools({ type: 'future', thing_id: 'x' }), 'tools[0].thing_id'],
    ['two foreign ids, of which the first is named', { prompt: { id: 'x' }, conversation: 'y' }, 'prompt.id'],
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
  ])('A request with %s is foreign', (_, body, path) => {
    expect(namesIn(body as never).foreign).toBe(path);
  });
});

describe('ids that a turn of the scope must have made', () => {
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
      'a file in a variable with the name of another field',
      { prompt: { variables: { type: { type: 'input_file', file_id: 'x' } } } },
      'prompt.variables.type.file_id',
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
      'a picture with any fields beside its id',
      items({ type: 'image_generation_call', id: 'x', result: 'AA' }),
      'input[0].id',
    ],
    ['open reasoning', items({ type: 'reasoning', id: 'x', content: said }), 'input[0].id'],
    [
      'a question that is answered',
      items({ type: 'mcp_approval_response', approval_request_id: 'x' }),
      'input[0].approval_request_id',
    ],
    ['an item with only an id', items({ id: 'x' }), 'input[0].id'],
    ['a message without content', items({ id: 'x', role: 'user' }), 'input[0].id'],
    [
      'a hosted call without its content',
      items({ id: 'x', type: 'web_search_call', status: 'completed' }),
      'input[0].id',
    ],
    ['an item of an unknown type', items({ id: 'x', type: 'future', text: 'hi' }), 'input[0].id'],
    [
      'the id of a safety check',
      items({ type: 'computer_call_output', acknowledged_safety_checks: [{ id: 'x' }] }),
      'input[0].acknowledged_safety_checks[0].id',
    ],
  ])('Ownership of the id is checked for %s', (_, body, path) => {
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
    'metadata that clients write',
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
  ...'dropbox gmail googlecalendar googledrive microsoftteams outlookcalendar outlookemail sharepoint'
    .split(' ')
    .map((service): [string, object] => [
      `the provider’s connector to ${service}`,
      tools({ type: 'mcp', connector_id: `connector_${service}` }),
    ]),
  ['words in unknown fields', { future: 'x', ...tools({ type: 'future', future: 'x' }) }],
  ['a word in place of an object', { reasoning: 'high', ...items({ type: 'future', caller: 'program' }) }],
  ['variables of any name', { prompt: { variables: { xyz_0a1b2c3d4e5f6a7b8c9d: 'x' } } }],
  ['variables in one text', { prompt: { variables: 'resp_1' } }],
  ['queries that look like ids', items({ type: 'file_search_call', queries: ['resp_1'], results: [{ text: 'x' }] })],
  [
    'names that clients give themselves and their requests',
    {
      client_session_id: '0197a4c2-aaaa-7000-8000-000000000001',
      session_id: 'mine',
      trace: { trace_id: '4bf92f3577b34da6a3ce929d0e0e4736', user_id: 7 },
    },
  ],
  [
    'an anchor and a comparison, which are checked elsewhere',
    { previous_response_id: 'resp_1', prompt_cache_options: { comparison_response_id: 'resp_1' } },
  ],
])('A request with %s names nothing at the provider', (_, body) => {
  expect(namesIn(body as never)).toEqual({ owned: new Map(), foreign: null });
});

it('A request with more ids than can be checked is refused, and deep nesting does not overflow the stack', () => {
  const many = (length: number) =>
    items(...Array.from({ length }, (_, index) => ({ type: 'item_reference', id: `msg_${index}` })));
  expect(namesIn(many(MOST_NAMES))).toMatchObject({ foreign: null, owned: { size: MOST_NAMES } });
  expect(namesIn(many(MOST_NAMES + 1)).foreign).toBe(`input[${MOST_NAMES}].id`);
  let deep: object = { id: 'x' };
  for (let level = 0; level < 20_000; level += 1) deep = { a: [deep] };
  expect(namesIn({ deep }).foreign).toMatch(/^deep\.a\[0\]\.a\[0\]/);
});

it('Ids of output items are recorded under the names that their echo is checked by', () => {
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

it('A query names ids by its names or by its values', () => {
  const named = (query: string) => namedInQuery(new URLSearchParams(query), ['after']);
  expect(named('include[]=file_search_call.results&limit=5&order=asc&after=msg_1&starting_after=7')).toBeNull();
  expect(named('limit=5&before=msg_1')).toBe('before');
  expect(named('thing_id=7')).toBe('thing_id');
  expect(named('thing_ids[]=7')).toBe('thing_ids[]');
});

it('References to items are listed once each, and a compared response is named', () => {
  const reference = (id: unknown) => ({ type: 'item_reference', id });
  const body = { input: [reference('msg_1'), { role: 'user', content: 'hi' }, reference('msg_1'), reference(7)] };
  expect(referencesIn(body)).toEqual(['msg_1']);
  expect(referencesIn({ input: 'hi' })).toEqual([]);
  expect(referencesIn({ input: ['hi', null, reference('msg_1')] } as never)).toEqual(['msg_1']);
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

/** Returns a body with one value at a path; `name[]` is a list of one. */
function bodyWith(path: string, value: unknown): Record<string, unknown> {
  return path.split('.').reduceRight<unknown>((inner, step) => {
    const name = step.replace('[]', '');
    return { [name]: step.endsWith('[]') ? [inner] : inner };
  }, value) as Record<string, unknown>;
}

describe('every known field of the API', () => {
  const within = (prefix: string, names: string) => names.split(' ').map((name) => `${prefix}${name}`);
  const PART = 'input[].content[].';
  const TOOL = 'tools[].';
  const ENVIRONMENT = 'tools[].environment.';

  it.each([
    ...within('', 'model user instructions prompt_cache_key text.verbosity reasoning.effort moderation.model'),
    ...within('', 'text.format.name prompt_cache_options.ttl prompt.version prompt.variables.name tool_choice.name'),
    ...within('', 'instructions[].content tool_choice'),
    ...within(PART, 'text image_url.detail input_audio.data annotations[].title prompt_cache_breakpoint.mode'),
    ...within(TOOL, 'name format.definition function.name tools[].name container.memory_limit skills[].name'),
    ...within(TOOL, 'allowed_tools.tool_names allowed_tools require_approval require_approval.always.tool_names'),
    ...within(TOOL, 'require_approval.never.tool_names require_approval.always require_approval.never'),
    ...within(TOOL, 'user_location.city ranking_options.ranker svg.model svg.reasoning.effort'),
    ...within(ENVIRONMENT, 'memory_limit skills[].source.data network_policy.allowed_domains'),
    ...within('input[].', 'content output[].text outputs[].logs summary[].text results[].text error.message error'),
    ...within(
      'input[].',
      'action action.command actions[].text action.sources[].title operation.diff caller.caller_id',
    ),
    ...within('input[].', 'tools[].name pending_safety_checks[].code acknowledged_safety_checks[].code'),
    ...within('input[].', 'environment.memory_limit reasoning.effort text.verbosity'),
  ])('The field %s holds text, and names nothing', (path) => {
    expect(namesIn(bodyWith(path, 'resp_1'))).toEqual({ owned: new Map(), foreign: null });
  });

  it.each([
    ...within('', 'metadata client_metadata text.format.schema'),
    `${PART}logprobs`,
    ...within(TOOL, 'parameters input_schema output_schema annotations headers filters'),
    `${ENVIRONMENT}network_policy.domain_secrets`,
    'tools[].container.network_policy.domain_secrets',
    ...within('input[].', 'arguments results[].attributes error.content error.moderation_details action.env metadata'),
    'input[].internal_chat_message_metadata_passthrough',
  ])('The field %s holds content of a client or a tool, and names nothing', (path) => {
    for (const value of [{ file_id: 'x', thing: ['resp_1'] }, ['resp_1'], 'resp_1'])
      expect(namesIn(bodyWith(path, value))).toEqual({ owned: new Map(), foreign: null });
  });

  it.each([
    ...within(PART, 'file_id annotations[].file_id annotations[].container_id'),
    ...within(TOOL, 'container container.container_id container.file_ids input_image_mask.file_id'),
    ...within(TOOL, 'vector_store_ids skills[].skill_id container.skills[].skill_id'),
    ...within(ENVIRONMENT, 'container_id file_ids skills[].skill_id'),
    ...within('input[].', 'output[].file_id outputs[].file_id summary[].file_id results[].file_id container_id'),
    ...within('input[].', 'pending_safety_checks[].id acknowledged_safety_checks[].id approval_request_id'),
    ...within('input[].', 'environment.container_id tools[].container.file_ids'),
    ...within('prompt.variables.', 'name.file_id'),
    'instructions[].content[].file_id',
    'tool_choice.container',
    ...within('', 'conversation conversation.id'),
  ])('The field %s names something that a turn or another call may have made', (path) => {
    const { owned, foreign } = namesIn(bodyWith(path, 'x'));
    expect([[...owned], foreign]).toEqual([[['x', path.replaceAll('[]', '[0]')]], null]);
  });

  it.each([...within(TOOL, 'connector_id tunnel_id'), ...within('', 'prompt prompt.id')])(
    'The field %s names something that no call makes',
    (path) => {
      const place = path.replaceAll('[]', '[0]');
      expect(namesIn(bodyWith(path, 'x')).foreign).toBe(place);
      // An object in its place may name as much.
      if (path !== 'prompt') expect(namesIn(bodyWith(path, { a: 'x' })).foreign).toBe(`${place}.a`);
    },
  );

  it.each([
    ...within(PART, 'image_url image_url.url file_url url'),
    ...within(TOOL, 'server_url input_image_mask.image_url'),
  ])('The field %s holds a URL that any caller could fetch', (path) => {
    for (const value of ['https://example.com/file_1', 'data:image/png;base64,AA', 'HTTP://example.com', 'picture.png'])
      expect(namesIn(bodyWith(path, value))).toEqual({ owned: new Map(), foreign: null });
    const place = path.replaceAll('[]', '[0]');
    for (const value of ['sediment://x', 'file_1', { file_id: 'x' }])
      expect(namesIn(bodyWith(path, value)).foreign?.slice(0, place.length)).toBe(place);
  });

  it('An object in place of a type is foreign', () => {
    for (const path of ['input[].type', 'tools[].type', 'input[].content[].type'])
      expect(namesIn(bodyWith(path, { thing_id: 'x' })).foreign).not.toBeNull();
  });

  it('An empty value names nothing', () => {
    for (const path of ['conversation', 'input[].container_id', 'future.thing_id', 'input[].id'])
      expect(namesIn(bodyWith(path, ''))).toEqual({ owned: new Map(), foreign: null });
  });
});

describe('self-contained items', () => {
  const whole: readonly [string, object][] = [
    ['message', { content: '' }],
    ['message', { content: [] }],
    ['agent_message', { content: 'x' }],
    ['reasoning', { encrypted_content: 'x' }],
    ['compaction', { encrypted_content: 'x' }],
    ['additional_tools', { tools: [] }],
    ['function_call', { call_id: 'c', name: 'n' }],
    ['function_call_output', { output: '' }],
    ['custom_tool_call', { call_id: 'c', name: 'n' }],
    ['custom_tool_call_output', { output: [] }],
    ['local_shell_call', { call_id: 'c', action: {} }],
    ['local_shell_call_output', { output: 'x' }],
    ['shell_call', { call_id: 'c', action: {} }],
    ['shell_call_output', { output: [] }],
    ['apply_patch_call', { call_id: 'c', operation: {} }],
    ['apply_patch_call_output', { call_id: 'c' }],
    ['computer_call', { call_id: 'c', action: {} }],
    ['computer_call', { call_id: 'c', actions: ['click'] }],
    ['computer_call_output', { call_id: 'c', output: {} }],
    ['tool_search_call', { arguments: {} }],
    ['tool_search_output', { tools: [] }],
    ['web_search_call', { action: { type: 'search', query: 'q' } }],
    ['web_search_call', { arguments: 'q' }],
    ['file_search_call', { results: [{ text: 'x' }] }],
    ['code_interpreter_call', { code: '1' }],
    ['mcp_list_tools', { tools: [] }],
    ['mcp_call', { name: 'n', output: 'x' }],
    ['mcp_call', { name: 'n', error: 'x' }],
    ['mcp_approval_request', { name: 'n', arguments: '{}' }],
    ['program', { code: '1' }],
    ['program_output', { result: '' }],
  ];

  it.each(whole)('The id of a %s item with %j names nothing', (type, fields) => {
    expect(namesIn(items({ type, id: 'i_1', ...fields }))).toEqual({ owned: new Map(), foreign: null });
    for (const name of Object.keys(fields)) {
      for (const left of [undefined, null]) {
        const { owned } = namesIn(items({ type, id: 'i_1', ...fields, [name]: left }));
        expect([...owned.keys()]).toEqual(['i_1']);
      }
    }
  });

  it.each<[string, object]>([
    ['reasoning', { encrypted_content: '' }],
    ['function_call', { call_id: '', name: 'n' }],
    ['function_call', { call_id: 'c', name: '' }],
    ['file_search_call', { results: [] }],
    ['message', { content: {} }],
    ['message', { content: 7 }],
    ['web_search_call', { action: { type: 'search' } }],
    ['web_search_call', { action: 'search' }],
    ['mcp_call', { name: 'n' }],
    ['mcp_call', { output: 'x' }],
    ['image_generation_call', { result: 'AA' }],
    ['future_call', { call_id: 'c', name: 'n', output: 'x' }],
    ['item_reference', {}],
  ])('The id of a %s item is checked when it has only %j', (type, fields) => {
    expect([...namesIn(items({ type, id: 'i_1', ...fields })).owned.keys()]).toEqual(['i_1']);
  });

  it('The id of a trigger, an update or an approval response names nothing, except the approval request that a response names', () => {
    for (const type of ['compaction_trigger', 'configuration_update'])
      expect(namesIn(items({ type, id: 'i_1' }))).toEqual({ owned: new Map(), foreign: null });
    const answer = { type: 'mcp_approval_response', id: 'i_1', approval_request_id: 'mcpr_1' };
    expect([...namesIn(items(answer)).owned.keys()]).toEqual(['mcpr_1']);
  });
});

it('The path of a foreign id shows the client’s member names shortened and without line breaks', () => {
  const pathOf = (body: Record<string, unknown>) => namesIn(body).foreign!;
  expect(pathOf({ 'a\nb': { [`${'n'.repeat(70)}`]: { thing_id: 'x' } } })).toBe(`a?b.${'n'.repeat(64)}.thing_id`);
  expect(pathOf({ 'a-$b_1': ['resp_1'] })).toBe('a-$b_1[0]');
  let deep: Record<string, unknown> = { thing_id: 'x' };
  for (let level = 0; level < 300; level += 1) deep = { level: deep };
  expect(pathOf(deep)).toHaveLength(256);
});

it('The limit of ids counts different ids', () => {
  const ask = (count: number) => items(...Array.from({ length: count }, (_, nth) => ({ container_id: `c${nth}` })));
  expect(namesIn(ask(MOST_NAMES)).foreign).toBeNull();
  const again = items(...ask(MOST_NAMES).input, { container_id: 'c0' });
  expect(namesIn(again).foreign).toBeNull();
  expect(namesIn(ask(MOST_NAMES + 1)).foreign).toBe(`input[${MOST_NAMES}].container_id`);
});

it('Only output items with ids are recorded', () => {
  const question = (id: unknown) => ({ type: 'mcp_approval_request', id, name: 'n', arguments: '{}' });
  expect(namesMade([question('a'), question('a'), question(''), question(7)] as never)).toEqual(['a']);
});

it('Empty values of a query name nothing, and a word may name an id', () => {
  const named = (query: string, besides?: string[]) => namedInQuery(new URLSearchParams(query), besides);
  expect(named('thing_id=')).toBeNull();
  expect(named('thing_id=&other_id=1')).toBe('other_id');
  expect(named('include=resp_1&include[]=resp_1&order=resp_1')).toBeNull();
  expect(named('limit=resp_1')).toBe('limit');
  expect(named('after=msg_1')).toBe('after');
});

it('A comparison names a response only by a text', () => {
  for (const id of ['', 7, null, ['resp_1']])
    expect(comparisonOf({ prompt_cache_options: { comparison_response_id: id } })).toBeNull();
  for (const options of [undefined, null, 'x', ['x']])
    expect(comparisonOf({ prompt_cache_options: options })).toBeNull();
});

it.each<[string, string, string | null]>([
  [
    'an anchor, the first time',
    '{"previous_response_id":"resp_1","previous_response_id":null}',
    'previous_response_id',
  ],
  ['after a foreign name, which is reported', '{"prompt":"pmpt_1","a":1,"a":2}', 'prompt'],
  ['with an escape in its name', '{"prompt":{"id":"a"},"pr\\u006fmpt":null}', 'prompt'],
  [
    'in a part',
    '{"input":[{"content":["x",{"file_id":"a","n":{"b":1},"file_id":null}]}]}',
    'input[0].content[1].file_id',
  ],
  ['with white space around it', '{"input":[{"type" : "item_reference","type"\n:"message"}]}', 'input[0].type'],
  [
    'the same name in two objects is not repeated',
    '{"a":{"id":1},"b":[{"id":1},{"id":1}],"id":{"a":"id","c":"a"}}',
    null,
  ],
  ['a value or a text is not a name', '{"a":"a","b":["a","a"],"c":"\\"a\\":1,\\"a\\":2"}', null],
])('A repeated member name counts as foreign: %s', (_, text, path) => {
  expect(namesWritten(JSON.parse(text), text).foreign).toBe(path);
});
