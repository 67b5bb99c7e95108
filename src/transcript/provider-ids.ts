import { isNameOnly } from './items.ts';
import type { Item, RequestBody } from './types.ts';

type Fields = Readonly<Record<string, unknown>>;

const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const isId = (value: unknown) => typeof value === 'string' && value !== '';
const listOf = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

const inPart = (part: unknown) => isFields(part) && isId(part.file_id);

function inItem(item: Item): boolean {
  if (isId(item.container_id) || isId(item.file_id)) return true;
  if (listOf(item.tools).some(inTool)) return true;
  return [...listOf(item.content), ...listOf(item.output)].some(inPart) || inPart(item.output);
}

/** Members of a hosted tool, at whatever depth, that hold ids of objects at the provider. */
const idMembers = new Set([
  'file_id',
  'file_ids',
  'container',
  'container_id',
  'vector_store_ids',
  'skill_id',
  'connector_id',
]);
/** Members that describe what a client's own tool takes: names in there are the client's. */
const schemaMembers = new Set(['parameters', 'input_schema', 'output_schema', 'format', 'filters', 'headers']);

function inTool(tool: unknown): boolean {
  if (Array.isArray(tool)) return tool.some(inTool);
  if (!isFields(tool)) return false;
  return Object.entries(tool).some(([name, value]) => {
    if (schemaMembers.has(name)) return false;
    return (idMembers.has(name) && (isId(value) || listOf(value).some(isId))) || inTool(value);
  });
}

/** Ids of the items that a request's input names instead of holding them. */
export function referencesIn(body: RequestBody): string[] {
  const items = listOf(body.input).filter((item): item is Item => isFields(item) && isNameOnly(item));
  return [...new Set(items.map(({ id }) => String(id)))];
}

/** The response that a request asks the provider to compare its cache with; null when it names none. */
export function comparisonOf(body: RequestBody): string | null {
  const options = body.prompt_cache_options;
  const id = isFields(options) ? options.comparison_response_id : null;
  return typeof id === 'string' && id !== '' ? id : null;
}

/**
 * Whether a request names something that lives at the provider, the anchor aside: files, containers, vector stores,
 * stored prompts; references to items and responses are listed apart, since their scope is known here. Under a
 * credential that several tenants share, nothing shows whose they are.
 */
export function namesProviderObjects(body: RequestBody): boolean {
  if (listOf(body.input).some((item) => isFields(item) && inItem(item))) return true;
  if (listOf(body.tools).some(inTool)) return true;
  return isFields(body.prompt) && isId(body.prompt.id);
}
