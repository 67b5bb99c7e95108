import { existsSync, readFileSync } from 'node:fs';
import type { ReadRequest } from '../../../src/transcript/types.ts';
import { user } from '../../support/messages.ts';

const recorded = (name: string) => {
  const text = readFileSync(new URL(`../../transcript/recorded/${name}.json`, import.meta.url), 'utf8');
  const exchanges = JSON.parse(text) as { request: unknown }[];
  return exchanges.map(({ request }, at): [string, string] => [`${name} ${at}`, JSON.stringify(request)]);
};

const said = (text: string, annotations: unknown[] = []) => ({
  type: 'message',
  id: `msg_${text}`,
  role: 'assistant',
  status: 'completed',
  content: [{ type: 'output_text', text, annotations, logprobs: [] }],
});
const many = (count: number) => Array.from({ length: count }, (_, at) => (at % 2 ? said(`a${at}`) : user(`q${at}`)));

/** Items of every kind with its own reading rules. */
export const kinds = [
  user('one'),
  { role: 'user', content: 'short form' },
  { role: 'developer', content: 'rules' },
  said('plain'),
  said('cited', [{ type: 'url_citation', url: 'u' }]),
  { type: 'reasoning', id: 'rs_1', summary: [], encrypted_content: 'sealed' },
  { type: 'reasoning', id: 'rs_2', summary: [{ type: 'summary_text', text: 's' }] },
  { type: 'item_reference', id: 'msg_9' },
  { id: 'msg_8' },
  { type: 'function_call', id: 'fc_1', call_id: 'c', name: 'f', arguments: '{"a":1}' },
  { type: 'function_call_output', call_id: 'c', output: [{ type: 'input_image', image_url: 'https://x' }] },
  { type: 'function_call_output', call_id: 'c', output: 'text' },
  { type: 'apply_patch_call_output', call_id: 'p', status: 'failed', output: 'x' },
  { type: 'image_generation_call', id: 'ig_1', result: null },
  { type: 'mcp_list_tools', id: 'mcpl_1', server_label: 's', tools: [{ name: 't', annotations: [] }] },
  { type: 'mcp_approval_response', approval_request_id: 'mcpr_1', approve: true },
  { type: 'compaction', id: 'cmp_1', encrypted_content: 'c' },
  { type: 'computer_call_output', call_id: 'cc', output: { type: 'computer_screenshot', file_id: 'file_1' } },
  { type: 'novel', id: 'n_1', annotations: [], deep: { annotations: [{ a: 1 }] } },
  { type: 'message', role: 'user', content: [{ type: 'input_file', file_id: 'file_2' }], status: null },
];

/** Returns bodies whose reading must never change, as they were written: stored data is found by these hashes. */
export function bodies(): [string, string][] {
  const plain = (fields: object) => JSON.stringify({ model: 'm', stream: true, ...fields });
  return [
    ...['codex-two-turns', 'codex-compaction', 'codex-cut'].flatMap(recorded),
    ['every kind of item', plain({ input: kinds, store: false, include: ['reasoning.encrypted_content'] })],
    ['many items', plain({ input: many(700) })],
    [
      'items that are long',
      plain({ input: [user('é漢😀'.repeat(40_000)), { ...said('x'.repeat(90_000)), id: 'msg_long' }, user('end')] }),
    ],
    ['a bare string', plain({ input: 'hi' })],
    ['a bare string with escapes', '{"model":"m","input":"\\u0041\\/ \\n \\ud800 é"}'],
    ['no input', plain({})],
    ['an empty input', plain({ input: [] })],
    ['a null input', plain({ input: null })],
    ['an anchor', plain({ previous_response_id: 'resp_1', input: [user('more')] })],
    ['a comparison', plain({ input: 'x', prompt_cache_options: { comparison_response_id: 'resp_2' } })],
    [
      'numbers and spaces as they were written',
      '{ "model" : "m",\n "input": [ {"role":"user","content":"a","n":9223372036854775807} , {"type":"novel","x":[1.0,-0,1e2,1E400,0.10]}\n ],' +
        ' "10":1, "9":[9223372036854775807,1.50], "temperature":1e-05 }',
    ],
    [
      'names that are repeated',
      '{"model":"x","input":[{"role":"user","content":"first"}],"model":"m","input":[{"role":"user","content":"last"}]}',
    ],
    [
      'names that are special',
      '{"model":"m","__proto__":{"x":1},"constructor":2,"toString":"x","input":[{"role":"user","content":"a","__proto__":[1]}]}',
    ],
    [
      'context fields',
      plain({
        input: [user('x')],
        instructions: 'Be brief.',
        tools: [{ type: 'function', name: 'f', parameters: { type: 'object', properties: { b: {}, a: {} } } }],
        include: ['b', 'a', 'b'],
        reasoning: { effort: 'high' },
        text: { format: { type: 'text' } },
        metadata: { k: 'v' },
        client_metadata: { turn_id: 't', 'x-codex-turn-state': 's', other: 'o' },
        conversation: null,
        prompt_cache_key: 'k',
      }),
    ],
  ];
}

const FOLDER = process.env.RECORDINGS ?? new URL('../../../../shared/recordings/', import.meta.url).pathname;

/** Returns the requests of the recorded traffic, if available; see `test/recordings`. */
export function recordedBodies(): [string, string][] {
  const path = `${FOLDER}/pairs.jsonl`;
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, 'utf8').split('\n');
  return lines
    .filter((line) => line !== '')
    .flatMap((line, at) => {
      const pair = JSON.parse(line) as Record<string, unknown>;
      return ['request', 'followup-request'].map((of): [string, string] => [
        `pair ${at} ${of}`,
        JSON.stringify(pair[of]),
      ]);
    });
}

/** Returns a read request without its lazily computed parts. */
export const plainOf = ({ items: { list, hashes, chain, places }, ...read }: ReadRequest) => ({
  ...read,
  text: String(read.text),
  hashes,
  chain,
  places,
  items: list.map(({ value, json, hash: own, accepted, fromClient, exact, named }) => ({
    value,
    json,
    own,
    accepted,
    fromClient,
    exact,
    named,
  })),
});
