import { input, part, type Rule, type Shape, shape, tool } from './provider-ids.ts';

/**
 * Allowed content of the bodies of calls that start no turn, for a credential shared by several tenants. As in the body of a
 * turn, a member that is not listed passes only when neither its name nor a value in it looks like an id.
 */

/** Declares a whole body. Its metadata is content, in every call. */
const body = (names: string, rules: Readonly<Record<string, Rule>> = {}) =>
  shape(names, { metadata: 'opaque', ...rules });

const owned = shape('', { id: 'owned' }, { string: 'owned' });
const text = { string: 'text' } as const;
const format = shape('name description', {
  schema: 'opaque',
  json_schema: shape('name description', { schema: 'opaque' }),
});
const expires = shape('anchor');

const chatPart = shape(
  'text refusal',
  {
    image_url: shape('detail', { url: 'address' }, { string: 'address' }),
    input_audio: shape('data format'),
    file: shape('filename file_data', { file_id: 'owned' }),
    prompt_cache_breakpoint: shape('mode ttl'),
  },
  text,
);
/** Ids of calls are paired within the messages. */
const chatCall = shape('id', {
  function: shape('name', { arguments: 'opaque' }),
  custom: shape('name', { input: 'opaque' }),
});
const message = shape('role name refusal tool_call_id reasoning reasoning_content', {
  content: chatPart,
  tool_calls: chatCall,
  function_call: shape('name', { arguments: 'opaque' }),
  audio: shape('', { id: 'owned' }),
  annotations: 'opaque',
});
const chatTool: Shape = shape('name description', {
  function: shape('name description', { parameters: 'opaque' }),
  custom: shape('name description', { format: shape('type', { grammar: shape('syntax definition') }) }),
  parameters: 'opaque',
});
const common = 'model user safety_identifier prompt_cache_key prompt_cache_retention service_tier';

const stores = shape('', {
  file_ids: 'owned',
  metadata: 'opaque',
  chunking_strategy: shape(''),
});
const resources = shape('', {
  code_interpreter: shape('', { file_ids: 'owned' }),
  file_search: shape('', { vector_store_ids: 'owned', vector_stores: stores }),
});
const threadMessage = shape('role', {
  content: shape(
    'text',
    {
      image_file: shape('detail', { file_id: 'owned' }),
      image_url: shape('detail', { url: 'address' }, { string: 'address' }),
    },
    text,
  ),
  attachments: shape('', { file_id: 'owned', tools: tool }),
  metadata: 'opaque',
});
const thread = body('', { messages: threadMessage, tool_resources: resources });
const assistant = {
  tools: tool,
  tool_resources: resources,
  metadata: 'opaque',
  response_format: format,
} as const;
const run = body('model instructions additional_instructions', {
  ...assistant,
  assistant_id: 'owned',
  thread,
  additional_messages: threadMessage,
  tool_choice: chatTool,
});

/** Images, in JSON by reference or in a form as files. */
const image = shape('', { file_id: 'owned', image_url: 'address' });
const picture = body(
  'model user prompt size quality style background response_format output_format moderation input_fidelity',
  {
    images: image,
    image,
    mask: image,
  },
);

/** Bodies by name. Members of a form are judged like those of a JSON body. */
export const passBodies = {
  /** Nothing but values that do not look like ids. */
  plain: body('name description title'),
  conversation: body('', { items: input, metadata: 'opaque' }),
  chat: body(`${common} reasoning_effort verbosity modalities stop`, {
    messages: message,
    tools: chatTool,
    functions: chatTool,
    tool_choice: chatTool,
    function_call: chatTool,
    response_format: format,
    prediction: shape('', { content: chatPart }),
    logit_bias: 'opaque',
    audio: shape('format', { voice: owned }),
    web_search_options: shape('search_context_size', {
      user_location: shape('', { approximate: shape('city country region timezone') }),
    }),
  }),
  completion: body(`${common} prompt suffix stop`, { logit_bias: 'opaque' }),
  embedding: body(`${common} input encoding_format`),
  moderation: body('model', { input: part }),
  image: picture,
  speech: body('model input instructions response_format stream_format', { voice: { ...owned, string: 'text' } }),
  transcription: body(
    'model prompt language response_format include timestamp_granularities chunking_strategy known_speaker_names keywords languages',
    { known_speaker_references: 'address' },
  ),
  voice: body('name language', { consent: 'owned' }),
  file: body('purpose', { expires_after: expires }),
  upload: body('filename purpose mime_type', { expires_after: expires }),
  uploadEnd: body('md5', { part_ids: 'owned' }),
  store: body('name description', {
    file_ids: 'owned',
    expires_after: expires,
    chunking_strategy: shape(''),
  }),
  storeFile: body('', {
    file_id: 'owned',
    file_ids: 'owned',
    files: shape('', { file_id: 'owned', attributes: 'opaque', chunking_strategy: shape('') }),
    attributes: 'opaque',
    chunking_strategy: shape(''),
  }),
  search: body('query', { filters: 'opaque', ranking_options: shape('ranker') }),
  container: body('name memory_limit', {
    file_ids: 'owned',
    expires_after: expires,
    network_policy: shape('allowed_domains', { domain_secrets: 'opaque' }),
    skills: shape('name description', { skill_id: 'owned', source: shape('data media_type') }),
  }),
  containerFile: body('', { file_id: 'owned' }),
  video: body('model prompt size seconds name', {
    input_reference: image,
    video: shape('', { id: 'owned' }),
    characters: owned,
  }),
  skill: body('name description default_version'),
  assistant: body('model name description instructions', assistant),
  thread,
  threadMessage,
  run,
  toolOutputs: body('', { tool_outputs: shape('tool_call_id', { output: 'opaque' }) }),
} satisfies Record<string, Rule>;

/** Name of a body in {@link passBodies}. */
export type PassBody = keyof typeof passBodies;
