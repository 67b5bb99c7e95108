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
  return [...listOf(item.content), ...listOf(item.output)].some(inPart) || inPart(item.output);
}

function inTool(tool: unknown): boolean {
  if (!isFields(tool)) return false;
  if (listOf(tool.vector_store_ids).some(isId) || isId(tool.container) || isId(tool.connector_id)) return true;
  const { container, skills } = tool;
  if (isFields(container) && (listOf(container.file_ids).some(isId) || isId(container.container_id))) return true;
  return listOf(skills).some((skill) => isFields(skill) && isId(skill.skill_id));
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
