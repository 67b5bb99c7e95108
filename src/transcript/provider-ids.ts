import { isFields, repeatedName } from '../json.ts';
import { typeOf } from './items.ts';
import type { Item, Names, RequestBody } from './types.ts';

type Fields = Readonly<Record<string, unknown>>;

const isText = (value: unknown): value is string => typeof value === 'string' && value !== '';

/**
 * Most different ids checked; the first one beyond counts as foreign. An SDK session that names each item it received has
 * some thousands, and more than this do not fit the context of a model.
 */
export const MOST_NAMES = 16_384;

/**
 * Allowed content of a field.
 *
 * - `text`: content, in one string or a list of them.
 * - `opaque`: content of any shape, written by a client or a tool.
 * - `owned`: id of an object that a turn or another call of the scope may have made.
 * - `foreign`: id of an object that no call makes.
 * - `connector`: one of the provider's own connectors, or else foreign.
 * - `address`: a URL.
 * - `elsewhere`: checked by other code.
 * - `unknown`: nothing is known, so every id-like name and value in it is foreign.
 * - a shape: an object, or a list of objects.
 */
export type Rule = TextRule | Shape;
type TextRule = 'text' | 'opaque' | 'owned' | 'foreign' | 'connector' | 'address' | 'elsewhere' | 'unknown';

export interface Shape {
  readonly members: ReadonlyMap<string, Rule>;
  /** Rule for a string in place of the object. */
  readonly string: TextRule;
  /** Rule for members that are not listed. */
  readonly others: Rule;
  /** True if objects of this shape are items: the check of their `id` depends on their other members. */
  readonly items?: boolean;
}

/**
 * Declares an object by its members.
 *
 * @param names members that are content, separated by blanks
 * @param rules rules of further members
 */
export function shape(
  names: string,
  rules: Readonly<Record<string, Rule>> = {},
  { string = 'unknown', others = 'unknown', ...more }: Partial<Omit<Shape, 'members'>> = {},
): Shape {
  const members = new Map<string, Rule>();
  for (const [name] of names.matchAll(/\w+/g)) members.set(name, 'text');
  for (const [name, rule] of Object.entries(rules)) members.set(name, rule);
  return { members, string, others, ...more };
}

const content = { string: 'text' } as const;

const annotation = shape('text title url filename quote', { file_id: 'owned', container_id: 'owned' });

/** Part of a message, of a tool's output, or of a reasoning item. */
export const part = shape(
  'text refusal detail filename file_data transcript stdout stderr logs data format title status encrypted_content',
  {
    file_id: 'owned',
    image_url: shape('detail', { url: 'address' }, { string: 'address' }),
    file_url: 'address',
    url: 'address',
    input_audio: shape('data format'),
    annotations: annotation,
    logprobs: 'opaque',
    prompt_cache_breakpoint: shape('mode ttl'),
  },
  content,
);

const textConfig = shape('verbosity', {
  format: shape('name description', { schema: 'opaque' }),
});
const reasoning = shape('effort summary generate_summary context mode');

const skill = shape('name description path version', {
  skill_id: 'owned',
  source: shape('data media_type'),
});
const container = {
  container_id: 'owned',
  file_ids: 'owned',
  skills: skill,
  network_policy: shape('allowed_domains', { domain_secrets: 'opaque' }),
} as const;
const environment = shape('memory_limit', container);

/** Connectors that the provider offers to everyone. The client's own token decides what they can reach. */
const connectors = new Set(
  [
    'dropbox',
    'gmail',
    'googlecalendar',
    'googledrive',
    'microsoftteams',
    'outlookcalendar',
    'outlookemail',
    'sharepoint',
  ].map((service) => `connector_${service}`),
);

const toolNames = shape('tool_names', {}, content);

const toolMembers = new Map<string, Rule>();
/** Tool of a request. */
export const tool: Shape = { members: toolMembers, string: 'text', others: 'unknown' };
for (const [name, rule] of shape(
  'name description strict server_label server_description authorization allowed_callers execution model size quality ' +
    'background moderation action output_format input_fidelity complexity search_context_size search_content_types mode',
  {
    parameters: 'opaque',
    input_schema: 'opaque',
    output_schema: 'opaque',
    annotations: 'opaque',
    headers: 'opaque',
    filters: 'opaque',
    format: shape('syntax definition'),
    function: tool,
    tools: tool,
    vector_store_ids: 'owned',
    connector_id: 'connector',
    tunnel_id: 'foreign',
    server_url: 'address',
    container: shape('memory_limit', container, { string: 'owned' }),
    environment,
    skills: skill,
    input_image_mask: shape('', { file_id: 'owned', image_url: 'address' }),
    allowed_tools: toolNames,
    require_approval: shape('', { always: toolNames, never: toolNames }, content),
    user_location: shape('city country region timezone'),
    ranking_options: shape('ranker'),
    svg: shape('model', { reasoning }),
  },
).members)
  toolMembers.set(name, rule);

const checks = shape('code message', { id: 'owned' });
const action = shape(
  'query queries url pattern text keys button path command commands user working_directory',
  { env: 'opaque', sources: shape('url title') },
  content,
);

/** Shape of every input item, whatever its type: a field means the same in all of them. */
const item = shape(
  'role status phase arguments name namespace call_id encrypted_content fingerprint code input result queries ' +
    'revised_prompt size quality background output_format execution server_label reason created_by author recipient',
  {
    // A text is checked together with the item's other members.
    id: 'foreign',
    content: part,
    output: part,
    outputs: part,
    summary: part,
    arguments: 'opaque',
    results: shape('text filename', { file_id: 'owned', attributes: 'opaque' }),
    error: shape('message code param', { content: 'opaque', moderation_details: 'opaque' }, content),
    action,
    actions: action,
    operation: shape('path diff'),
    environment,
    // Call id of the program that made a call.
    caller: shape('caller_id'),
    tools: tool,
    pending_safety_checks: checks,
    acknowledged_safety_checks: checks,
    container_id: 'owned',
    approval_request_id: 'owned',
    reasoning,
    text: textConfig,
    metadata: 'opaque',
    // Stamp of Codex on every item it sends.
    internal_chat_message_metadata_passthrough: 'opaque',
  },
  { items: true },
);

/** Input of a turn: items, or one text in their place. */
export const input: Shape = { ...item, string: 'text' };

/** Path of the conversation that a turn belongs to, by the form in which it is named. */
export const CONVERSATION_PATHS: readonly string[] = ['conversation', 'conversation.id'];

const body = shape(
  'model user safety_identifier prompt_cache_key prompt_cache_retention service_tier truncation include',
  {
    // An anchor unknown in the scope has its own error, as if it did not exist.
    previous_response_id: 'elsewhere',
    input,
    instructions: input,
    metadata: 'opaque',
    client_metadata: 'opaque',
    tools: tool,
    tool_choice: tool,
    text: textConfig,
    reasoning,
    moderation: shape('model'),
    prompt_cache_options: shape('mode ttl', { comparison_response_id: 'elsewhere' }),
    prompt: shape(
      'version',
      { id: 'foreign', variables: { members: new Map(), string: 'text', others: part } },
      { string: 'foreign' },
    ),
    conversation: shape('', { id: 'owned' }, { string: 'owned' }),
  },
);

const filled = (value: unknown) => (Array.isArray(value) ? value.length > 0 : isFields(value) || isText(value));
const has =
  (...names: string[]) =>
  (fields: Item) =>
    names.every((name) => filled(fields[name]));
const hasMoreThanType = (value: unknown) => isFields(value) && Object.keys(value).some((name) => name !== 'type');
const present = (name: string) => (fields: Item) => typeof fields[name] === 'string' || Array.isArray(fields[name]);

/**
 * Items that are complete in themselves, with the members they need for that: the provider reads them as content and
 * resolves none of their ids. A client may have them from elsewhere, so their ids need not be known. Images and open
 * reasoning are not listed: the provider looks those up by their ids, whatever else they hold.
 */
const substance = new Map<string, (fields: Item) => boolean>([
  ['message', present('content')],
  ['agent_message', present('content')],
  ['reasoning', has('encrypted_content')],
  ['compaction', has('encrypted_content')],
  ['compaction_trigger', () => true],
  ['configuration_update', () => true],
  ['additional_tools', present('tools')],
  ['function_call', has('call_id', 'name')],
  ['function_call_output', present('output')],
  ['custom_tool_call', has('call_id', 'name')],
  ['custom_tool_call_output', present('output')],
  ['local_shell_call', has('call_id', 'action')],
  ['local_shell_call_output', present('output')],
  ['shell_call', has('call_id', 'action')],
  ['shell_call_output', present('output')],
  ['apply_patch_call', has('call_id', 'operation')],
  ['apply_patch_call_output', has('call_id')],
  ['computer_call', (fields) => has('call_id', 'action')(fields) || has('call_id', 'actions')(fields)],
  ['computer_call_output', has('call_id', 'output')],
  ['tool_search_call', (fields) => fields.arguments !== undefined && fields.arguments !== null],
  ['tool_search_output', present('tools')],
  ['web_search_call', ({ action: done, arguments: given }) => hasMoreThanType(done) || filled(given)],
  ['file_search_call', has('results')],
  ['code_interpreter_call', has('code')],
  ['mcp_list_tools', present('tools')],
  ['mcp_call', (fields) => has('name', 'output')(fields) || has('name', 'error')(fields)],
  ['mcp_approval_request', has('name', 'arguments')],
  // The answer names its request in a field of its own.
  ['mcp_approval_response', has('approval_request_id')],
  ['program', has('code')],
  ['program_output', present('result')],
]);

const isSelfContained = (fields: Item): boolean => substance.get(typeOf(fields))?.(fields) === true;

/** Known prefixes of provider ids. In an unknown field one of these is enough. */
const FAMILY =
  /^(?:resp|msg|rs|fc|fco|ctc|ctco|item|c?file|cntr|container|vsf?|conv|pmpt|igc?|mcp[arl]?|ws|fs|ci|shc?|lsh|cu|tsc|tso|apc|cmp|skill|connector|tunnel|batch|ft|ftjob|asst|thread)[-_]\S+$/;
/** Matches one or two short words followed by a generated part: a long run with digits in it, or a UUID. */
const GENERATED =
  /^[a-z][a-z0-9]{0,15}(?:_[a-z][a-z0-9]{0,15})?[-_:](?:(?=[A-Za-z]{0,64}\d)[A-Za-z0-9]{16,}|[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12})/;

/** Returns whether a text has the form of a provider's id. */
export const looksLikeProviderId = (text: string): boolean => FAMILY.test(text) || GENERATED.test(text);

/** Ids of the caller, and of its tracing. No provider stores an object under them. */
const ofTheClient = /^(?:client_)?(?:client|user|session|request|trace|span|correlation|device|installation)_id$/;
/** Returns whether a field's name indicates provider ids. */
const isIdName = (name: string): boolean => /(?:^|_)ids?$|[a-z]I[dD]s?$/.test(name) && !ofTheClient.test(name);

/** Addresses that the provider fetches without the credential, and inline data URLs. */
const FETCHED = /^(?:https?|data):/i;
const SCHEME = /^[a-z][a-z\d+.-]*:/i;

/**
 * Returns whether a text needs no owner where this rule applies.
 *
 * @param named whether the name of the text indicates ids
 */
function allows(rule: TextRule, text: string, named: boolean): boolean {
  switch (rule) {
    case 'text':
      return true;
    case 'connector':
      return connectors.has(text);
    case 'address':
      return FETCHED.test(text) || !(SCHEME.test(text) || looksLikeProviderId(text));
    case 'unknown':
      return !named && !looksLikeProviderId(text);
    default:
      return false;
  }
}

interface Frame {
  readonly value: object;
  readonly keys: readonly string[] | null;
  readonly rule: Rule;
  /** The nearest name above indicates ids. */
  readonly named: boolean;
  at: number;
}

const LONGEST_NAME = 64;
const LONGEST_PATH = 256;

/** Names are chosen by the client: characters that could break a log line are replaced. */
function pathOf(places: readonly (string | number)[]): string {
  let path = '';
  for (const place of places) {
    if (path.length > LONGEST_PATH) break;
    if (typeof place === 'number') path += `[${place}]`;
    else path += `${path === '' ? '' : '.'}${place.slice(0, LONGEST_NAME).replace(/[^\w$-]/g, '?')}`;
  }
  return path.slice(0, LONGEST_PATH);
}

const placeIn = ({ keys, at }: Frame) => (keys === null ? at - 1 : keys[at - 1]!);

/**
 * Collects everything that a request's body names at the provider, except the anchor, the compared response and the
 * client's own call ids. It uses an allow-list: known content is allowed, known ids are judged by who can have made them,
 * and any other id-like name or value counts as foreign. Pure; linear in the size of the body; not recursive.
 *
 * @param rule allowed content of the body; default: that of a turn
 */
export function namesIn(request: RequestBody, rule: Rule = body): Names {
  const owned = new Map<string, string>();
  let foreign: string | null = null;
  const stack: Frame[] = [{ value: request, keys: Object.keys(request), rule, named: false, at: 0 }];

  const here = () => pathOf(stack.map(placeIn));
  const own = (id: string) => {
    if (owned.has(id)) return;
    if (owned.size === MOST_NAMES) foreign = here();
    else owned.set(id, here());
  };
  const judge = (text: string, rule: TextRule, named: boolean) => {
    if (text === '') return;
    if (rule === 'owned') own(text);
    else if (!allows(rule, text, named)) foreign = here();
  };

  while (stack.length > 0 && foreign === null) {
    const frame = stack.at(-1)!;
    const { value, keys, rule: within } = frame;
    const count = keys === null ? (value as readonly unknown[]).length : keys.length;
    if (frame.at === count) {
      stack.pop();
      continue;
    }
    const key = keys === null ? null : keys[frame.at]!;
    const child: unknown = key === null ? (value as readonly unknown[])[frame.at] : (value as Fields)[key];
    frame.at += 1;
    const shaped = typeof within === 'object' ? within : null;
    let next = within;
    let { named } = frame;
    if (key !== null) {
      if (shaped) next = shaped.members.get(key) ?? shaped.others;
      if (next === 'unknown') {
        // A map may have ids as names. Members of a schema are plain words, and `type` is never an id.
        if (GENERATED.test(key)) foreign = here();
        if (key === 'type') next = 'text';
        named = isIdName(key);
      }
      if (shaped?.items && key === 'id' && isText(child)) {
        if (!isSelfContained(value as Item)) own(child);
        continue;
      }
    }
    if (next === 'opaque' || (next === 'elsewhere' && typeof child === 'string')) continue;
    // The other check reads only strings; any other value would pass unchecked.
    if (next === 'elsewhere') next = 'foreign';
    if (typeof child === 'string') {
      // A list has no strings in place of its objects.
      if (typeof next === 'object') next = key === null ? 'unknown' : next.string;
      judge(child, next, named);
    } else if (Array.isArray(child)) stack.push({ value: child, keys: null, rule: next, named, at: 0 });
    else if (isFields(child)) {
      // Ids and texts have no members, so an object in their place is unknown.
      const inside = next === 'text' || next === 'address' ? 'unknown' : next;
      stack.push({ value: child, keys: Object.keys(child), rule: inside, named: false, at: 0 });
    }
  }
  return { owned, foreign };
}

/**
 * Applies `namesIn` to a body as it was written. A repeated name in one object counts as foreign: the upstream may read
 * another of its values than the one checked here.
 *
 * @param text JSON text from which the body was parsed
 */
export function namesWritten(request: RequestBody, text: string, rule: Rule = body): Names {
  const names = namesIn(request, rule);
  const repeated = names.foreign === null ? repeatedName(text) : null;
  return repeated === null ? names : { ...names, foreign: pathOf(repeated) };
}

/**
 * Returns the ids by which a later request of the same scope may name these output items or objects they mention: what
 * `namesIn` would check if they were sent back.
 */
export function namesMade(items: readonly Item[]): string[] {
  const questions = items.filter((each) => isFields(each) && each.type === 'mcp_approval_request');
  const asked = questions.map(({ id }) => id).filter(isText);
  return [...new Set([...namesIn({ input: items }).owned.keys(), ...asked])];
}

/** Query parameters whose values are words of the API, or belong to the response named by the path. */
const wordParameters = new Set(['include', 'include[]', 'order']);

/**
 * Returns the first parameter of a query that names, or may name, an object at the provider; null when there is none.
 *
 * @param besides parameters that other code checks
 */
export function namedInQuery(query: URLSearchParams, besides: readonly string[] = []): string | null {
  for (const [name, value] of query) {
    if (value === '' || wordParameters.has(name) || besides.includes(name)) continue;
    if (isIdName(name.replace(/\[.*$/, '')) || looksLikeProviderId(value)) return name;
  }
  return null;
}
