import { type Written, withMembers } from '../json.ts';
import type { ReplayClass } from '../store/port.ts';
import { typeOf } from './items.ts';
import type { Item, ReadItem, RequestBody } from './types.ts';

/** Items that are complete in themselves: sent again, they produce the same context. All others are not exact. */
const selfContained = new Set([
  'message',
  'function_call',
  'function_call_output',
  'custom_tool_call',
  'custom_tool_call_output',
  'local_shell_call',
  'local_shell_call_output',
  'apply_patch_call',
  'apply_patch_call_output',
  'tool_search_call',
  'tool_search_output',
  'additional_tools',
  'compaction',
]);

const selfContainedParts = new Set(['input_text', 'output_text', 'text', 'refusal', 'summary_text', 'reasoning_text']);

/**
 * Returns whether a content part is exact. An image or file is exact only when its bytes are in the item; an address or a
 * file id may expire.
 */
function isExactPart(part: unknown): boolean {
  if (typeof part !== 'object' || part === null) return typeof part === 'string';
  const { type, image_url: image, file_data: file, file_id: id, file_url: url } = part as Record<string, unknown>;
  if (selfContainedParts.has(type as string)) return true;
  if (type === 'input_image') return typeof image === 'string' && image.startsWith('data:') && id == null;
  if (type === 'input_file') return typeof file === 'string' && id == null && url == null;
  return false;
}

const partsOf = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);

/** Returns whether an item is complete in itself: sent again, it produces the same context. */
export function isExactItem(item: Item): boolean {
  const type = typeOf(item);
  if (type === 'reasoning') return typeof item.encrypted_content === 'string' && item.encrypted_content !== '';
  if (!selfContained.has(type)) return false;
  return [...partsOf(item.content), ...partsOf(item.output)].every(isExactPart);
}

/**
 * Returns the part of a turn's output with which the context continues: all of it, unless the provider compacted it. A
 * compaction item in the output replaces everything before it; one sent by a client is an ordinary item.
 */
export function keptOutput(output: readonly Item[]): { compacted: boolean; items: readonly Item[] } {
  const last = output.findLastIndex((item) => typeOf(item) === 'compaction');
  return last < 0 ? { compacted: false, items: output } : { compacted: true, items: output.slice(last) };
}

/**
 * Returns how a turn's context can be rebuilt: `exact` when its parent's is exact and every item it added is complete in
 * itself. A compaction starts a new context. A provider-side conversation can never be rebuilt.
 */
export function replayClassOf(turn: {
  input: readonly Pick<ReadItem, 'exact'>[];
  output: readonly Item[];
  body: RequestBody;
  parent: ReplayClass | null;
}): ReplayClass {
  if (turn.body.conversation != null) return 'never';
  const { compacted, items } = keptOutput(turn.output);
  const inherited = compacted ? 'exact' : (turn.parent ?? 'exact');
  if (inherited !== 'exact') return inherited;
  const asked = compacted || turn.input.every(({ exact }) => exact);
  return asked && items.every(isExactItem) ? 'exact' : 'anchor_only';
}

export interface ReplayTurn {
  /** Texts of the input items. */
  input: readonly string[];
  output: readonly Written<Item>[];
  replay: ReplayClass;
}

export type Replay = { kind: 'exact'; items: readonly string[] } | { kind: 'not_exact'; reason: string };

const serverFields = new Map([
  ['id', null],
  ['status', null],
]);

/**
 * Returns the text of an item without its id and status: the id of an item that the provider did not store refers to
 * nothing.
 */
export const withoutServerIds = ({ json }: Pick<Written<Item>, 'json'>) => withMembers(json, serverFields);

/**
 * Returns the texts of a lineage's items for a request without an anchor, or the reason why the context cannot be rebuilt
 * exactly.
 *
 * @param turns the lineage, root first
 */
export function buildReplay(turns: readonly ReplayTurn[]): Replay {
  const last = turns.at(-1);
  if (last && last.replay !== 'exact') return { kind: 'not_exact', reason: `the line is ${last.replay}` };
  let items: string[] = [];
  for (const { input, output } of turns) {
    const { compacted, items: kept } = keptOutput(output.map(({ value }) => value));
    const said = output.slice(output.length - kept.length).map(withoutServerIds);
    if (compacted) items = said;
    else items.push(...input, ...said);
  }
  return { kind: 'exact', items };
}
