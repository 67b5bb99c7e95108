import type { Shape } from '../store/port.ts';
import { typeOf } from './items.ts';
import type { Item, RequestBody } from './types.ts';

/** Types that only a model or a tool round produces: an input that contains one carries history. */
const producedTypes = /(_call|_call_output|_output|reasoning|compaction|_approval_request|_approval_response)$/;

/** Returns the shape of a request with these items: anchored, with its whole history, or the start of one. */
export function shapeOf(body: RequestBody, items: readonly Item[]): Shape {
  if (typeof body.previous_response_id === 'string' && body.previous_response_id !== '') return 'delta';
  const past = items.some((item) => item.role === 'assistant' || producedTypes.test(typeOf(item)));
  return past ? 'full' : 'fresh';
}

/** Tools whose use has no effect outside the conversation. Any other may have acted before the socket was lost. */
const harmless = new Set([
  'function',
  'custom',
  'namespace',
  'tool_search',
  'web_search',
  'web_search_preview',
  'file_search',
]);

/** Returns whether a request lets the provider use a tool that may act outside the conversation. */
export function hasHostedTools({ tools }: RequestBody): boolean {
  return (
    Array.isArray(tools) &&
    !tools.every(
      (tool) => typeof tool === 'object' && tool !== null && harmless.has((tool as { type?: string }).type ?? ''),
    )
  );
}
