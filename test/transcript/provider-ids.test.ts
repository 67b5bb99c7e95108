import { expect, it } from 'vitest';
import { comparisonOf, namesProviderObjects, referencesIn } from '../../src/transcript/provider-ids.ts';

const message = (part: object) => ({ input: [{ type: 'message', role: 'user', content: [part] }] });

it.each([
  ['a file', message({ type: 'input_file', file_id: 'file_1' })],
  ['a picture by file', message({ type: 'input_image', file_id: 'file_1' })],
  ['a container of an earlier call', { input: [{ type: 'code_interpreter_call', container_id: 'cntr_1', code: '1' }] }],
  ['a file in a tool’s answer', { input: [{ type: 'function_call_output', output: [{ file_id: 'file_1' }] }] }],
  ['a vector store', { tools: [{ type: 'file_search', vector_store_ids: ['vs_1'] }] }],
  ['a container', { tools: [{ type: 'code_interpreter', container: 'cntr_1' }] }],
  [
    'files of a container',
    { tools: [{ type: 'code_interpreter', container: { type: 'auto', file_ids: ['file_1'] } }] },
  ],
  ['a connector', { tools: [{ type: 'mcp', connector_id: 'connector_1' }] }],
  ['the mask of a picture', { tools: [{ type: 'image_generation', input_image_mask: { file_id: 'file_1' } }] }],
  [
    'a skill of a shell',
    { tools: [{ type: 'shell', environment: { type: 'container_auto', skills: [{ skill_id: 'skill_1' }] } }] },
  ],
  [
    'a tool that the input adds',
    { input: [{ type: 'additional_tools', tools: [{ type: 'file_search', vector_store_ids: ['vs_1'] }] }] },
  ],
  ['a stored prompt', { prompt: { id: 'pmpt_1' } }],
])('%s is an object at the provider', (_, body) => {
  expect(namesProviderObjects(body)).toBe(true);
});

it.each([
  ['text', { input: 'file_id' }],
  ['messages with ids of their own', { input: [{ type: 'message', id: 'msg_1', role: 'assistant', content: [] }] }],
  ['a picture in the request', message({ type: 'input_image', image_url: 'data:image/png;base64,AA' })],
  ['a container to be made', { tools: [{ type: 'code_interpreter', container: { type: 'auto' } }] }],
  ['functions', { tools: [{ type: 'function', name: 'f' }] }],
  [
    'a function that takes the id of a file',
    { tools: [{ type: 'function', name: 'f', parameters: { properties: { file_id: {} }, required: ['file_id'] } }] },
  ],
])('%s name nothing there', (_, body) => {
  expect(namesProviderObjects(body)).toBe(false);
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
