import { typeOf } from './items.ts';
import type { Item } from './types.ts';

/**
 * Fields that make two items the same item, by type; everything else an item of that type carries compares too unless
 * it is listed as volatile. Approval ids and call ids are identity: they tie an answer to its question.
 */
const volatile: Record<string, readonly string[]> = {
  message: ['id', 'status'],
  reasoning: ['id', 'status'],
  function_call: ['id', 'status'],
  function_call_output: ['id', 'status'],
  custom_tool_call: ['id', 'status'],
  custom_tool_call_output: ['id', 'status'],
  local_shell_call: ['id', 'status'],
  local_shell_call_output: ['status'],
  shell_call: ['id', 'status'],
  shell_call_output: ['id', 'status'],
  apply_patch_call: ['id', 'status'],
  apply_patch_call_output: ['id', 'status'],
  tool_search_call: ['id', 'status'],
  tool_search_output: ['id', 'status'],
  compaction: ['id'],
  web_search_call: ['id', 'status'],
};

/**
 * A stamp that Codex puts on every item it sends, the model's own included (seen in 0.169.0 with remote compaction).
 * Its own deltas over WebSocket take stamped and unstamped items for the same.
 */
const STAMP = 'internal_chat_message_metadata_passthrough';

/** JSON with sorted keys; absent, null and empty annotations are the same as nothing. */
export function canonical(value: unknown, omit: readonly string[] = []): string {
  if (Array.isArray(value)) return `[${value.map((each) => canonical(each)).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value ?? null);
  const fields: string[] = [];
  for (const key of Object.keys(value).sort()) {
    const field = (value as Record<string, unknown>)[key];
    if (omit.includes(key) || field === null || field === undefined || isEmptyMark(key, field)) continue;
    fields.push(`${JSON.stringify(key)}:${canonical(field)}`);
  }
  return `{${fields.join(',')}}`;
}

function isEmptyMark(key: string, field: unknown): boolean {
  return (key === 'annotations' || key === 'logprobs') && Array.isArray(field) && field.length === 0;
}

/** A message's content as parts: a string is one text part of the kind its role writes. */
function contentOf(item: Item): unknown {
  const { content, role } = item;
  if (typeof content !== 'string') return content;
  return [{ type: role === 'assistant' ? 'output_text' : 'input_text', text: content }];
}

/**
 * What an item is, as a string: equal strings, same item. Ids the server made, status and empty annotations are not
 * identity, since clients drop or keep them as they like; anything unknown compares whole.
 */
export function identity(item: Item): string {
  const type = typeOf(item);
  const omit = [STAMP, ...(volatile[type] ?? [])];
  if (type === 'message') return canonical({ ...item, type, content: contentOf(item) }, omit);
  if (type === 'reasoning' && typeof item.encrypted_content === 'string') {
    return canonical({ type, encrypted_content: item.encrypted_content });
  }
  return canonical({ ...item, type }, omit);
}
