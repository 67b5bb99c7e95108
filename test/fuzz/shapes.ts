import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Tree } from './tree.ts';
import { CONTENT } from './world.ts';

const RECORDINGS = join(import.meta.dirname, '..', '..', '..', 'shared', 'recordings');

/** Fields whose values are protocol words: they are kept when the shape of a recording is used. */
const words = new Set([
  'type',
  'role',
  'status',
  'object',
  'phase',
  'format',
  'effort',
  'mode',
  'detail',
  'syntax',
  'execution',
]);
const ids = new Set(['id', 'item_id', 'call_id', 'response_id', 'approval_request_id', 'container_id']);
const LONGEST_STREAM = 40;

/**
 * Returns the shape of a recorded value: names, types and protocol words are kept, all other text is replaced, so that
 * no finding contains text of a recording.
 */
function shape(value: unknown, name = '', depth = 0): Tree {
  if (depth > 12) return null;
  if (Array.isArray(value)) return value.slice(0, 6).map((each) => shape(each, name, depth + 1));
  if (typeof value === 'object' && value !== null) {
    return Object.fromEntries(
      Object.entries(value)
        .slice(0, 40)
        .map(([key, each]) => [key, shape(each, key, depth + 1)]),
    );
  }
  if (typeof value !== 'string') return value as Tree;
  if (words.has(name)) return value.slice(0, 64);
  if (ids.has(name)) return `${/^[a-z]+_/.exec(value)?.[0] ?? 'id_'}@@`;
  return name === 'text' || name === 'delta' ? CONTENT : `some ${name.slice(0, 20)}`;
}

/** Shortens a long stream: drops deltas, keeps its beginning and its end. */
function thinned(events: readonly Tree[]): Tree[] {
  if (events.length <= LONGEST_STREAM) return [...events];
  const kept = events.filter((event) => !/delta/.test(JSON.stringify((event as { type?: Tree })?.type ?? '')));
  return kept.length <= LONGEST_STREAM
    ? kept
    : [...kept.slice(0, LONGEST_STREAM / 2), ...kept.slice(-LONGEST_STREAM / 2)];
}

function recorded(): { streams: Tree[][]; requests: Tree[] } {
  const file = join(RECORDINGS, 'streams.jsonl');
  if (!existsSync(file)) return { streams: [], requests: [] };
  const lines = readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as { request: unknown; events: unknown[] });
  return {
    streams: lines.map(({ events }) => thinned(events.map((event) => shape(event)))),
    requests: lines.flatMap(({ request }) => (request ? [shape(request)] : [])),
  };
}

const response = (status: string, output: Tree[]): Tree => ({
  id: 'resp_@@',
  object: 'response',
  created_at: 1,
  status,
  model: 'm',
  output,
  error: null,
  incomplete_details: null,
  usage: { input_tokens: 1, output_tokens: 1, total_tokens: 2 },
  metadata: {},
});

const items: Tree[] = [
  {
    id: 'msg_@@',
    type: 'message',
    role: 'assistant',
    status: 'completed',
    content: [{ type: 'output_text', text: CONTENT, annotations: [], logprobs: [] }],
  },
  {
    id: 'rs_@@',
    type: 'reasoning',
    summary: [{ type: 'summary_text', text: CONTENT }],
    encrypted_content: 'gAAA@@',
    content: [],
  },
  { id: 'fc_@@', type: 'function_call', call_id: 'call_@@', name: 'f', arguments: '{}', status: 'completed' },
  { id: 'ctc_@@', type: 'custom_tool_call', call_id: 'call_@@', name: 'f', input: 'x', status: 'completed' },
  { id: 'cmp_@@', type: 'compaction', encrypted_content: 'gAAA@@' },
  { id: 'mcp_@@', type: 'mcp_call', server_label: 's', name: 'n', arguments: '{}', output: 'x', error: null },
];

const stream = (output: Tree[], end = 'completed'): Tree[] => [
  { type: 'response.created', sequence_number: 0, response: response('in_progress', []) },
  { type: 'response.in_progress', sequence_number: 1, response: response('in_progress', []) },
  ...output.flatMap((item, n): Tree[] => [
    { type: 'response.output_item.added', sequence_number: 2 + 3 * n, output_index: n, item },
    {
      type: 'response.output_text.delta',
      sequence_number: 3 + 3 * n,
      output_index: n,
      content_index: 0,
      item_id: 'msg_@@',
      delta: 'a',
    },
    { type: 'response.output_item.done', sequence_number: 4 + 3 * n, output_index: n, item },
  ]),
  { type: `response.${end}`, sequence_number: 99, response: response(end, output) },
];

const ownStreams: Tree[][] = [
  ...items.map((item) => stream([item])),
  stream(items),
  stream([], 'failed'),
  stream([items[0]!], 'incomplete'),
  [
    {
      type: 'error',
      status: 400,
      error: { type: 'invalid_request_error', code: 'invalid_value', message: 'm', param: null },
    },
  ],
  [{ type: 'codex.rate_limits', rate_limits: { primary: { used_percent: 1 } } }, ...stream([items[0]!])],
  [{ type: 'response.metadata', headers: { 'x-codex-turn-state': 'ts', 'openai-model': 'm' } }, ...stream([items[0]!])],
];

const user = (text: string): Tree => ({ type: 'message', role: 'user', content: [{ type: 'input_text', text }] });
const ownRequests: Tree[] = [
  { model: 'm', input: CONTENT },
  { model: 'm', input: [user(CONTENT)], stream: true, store: false, include: ['reasoning.encrypted_content'] },
  {
    model: 'm',
    instructions: CONTENT,
    input: [user('a'), ...items, { type: 'function_call_output', call_id: 'call_@@', output: 'x' }, user('b')],
    tools: [
      { type: 'function', name: 'f', parameters: { type: 'object', properties: {} }, strict: true },
      { type: 'web_search' },
      { type: 'mcp', server_label: 's', server_url: 'https://example.com', require_approval: 'never' },
      { type: 'file_search', vector_store_ids: ['vs_1'] },
      { type: 'code_interpreter', container: { type: 'auto', file_ids: ['file-1'] } },
    ],
    tool_choice: 'auto',
    parallel_tool_calls: true,
    reasoning: { effort: 'low', summary: 'auto' },
    text: { format: { type: 'text' }, verbosity: 'low' },
    prompt_cache_key: 'k',
    service_tier: 'auto',
    stream: true,
    store: true,
  },
  { model: 'm', input: [{ type: 'item_reference', id: 'msg_@@' }, user('a')], previous_response_id: 'resp_@@' },
  { model: 'm', input: 'a', conversation: { id: 'conv_@@' } },
  {
    model: 'm',
    input: 'a',
    prompt: { id: 'pmpt_@@', version: '1', variables: { a: 'b', f: { type: 'input_file', file_id: 'file-1' } } },
  },
  { model: 'm', input: 'a', background: true, store: true },
  { model: 'm', input: 'a', generate: false, stream: true },
  {
    model: 'm',
    input: [
      {
        role: 'user',
        content: [
          { type: 'input_image', image_url: 'data:image/png;base64,AAAA', detail: 'auto', file_id: null },
          { type: 'input_file', filename: 'a', file_data: 'data:application/pdf;base64,AAAA' },
        ],
      },
    ],
    client_metadata: { turn_id: 't1', 'x-codex-turn-metadata': '{"turn_id":"t1"}' },
    metadata: { a: 'b' },
    stream_options: { include_obfuscation: false },
    context_management: [{ type: 'compaction', compact_threshold: 1000 }],
    prompt_cache_options: { mode: 'x', comparison_response_id: 'resp_@@' },
    truncation: 'auto',
    max_output_tokens: 16,
    temperature: 1,
    top_p: 1,
    safety_identifier: 's',
    user: 'u',
    max_tool_calls: 1,
    top_logprobs: 0,
  },
];

const from = recorded();
/** Streams to start from: the shapes of recordings, if available, and some written for this project. */
export const streams: readonly Tree[][] = [...ownStreams, ...ownStreams, ...from.streams];
export const requests: readonly Tree[] = [...ownRequests, ...ownRequests, ...from.requests];
