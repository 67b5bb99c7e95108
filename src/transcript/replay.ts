import { type Written, withMembers } from '../json.ts';
import type { ReplayClass } from '../store/port.ts';
import { typeOf } from './items.ts';
import type { Item, ReadItem, RequestBody } from './types.ts';

/** Items that say everything they are: sent again, they are the same context. Anything not listed is not exact. */
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

/** A picture or file is exact only when its bytes are in the item; an address or a file id may expire. */
function isExactPart(part: unknown): boolean {
  if (typeof part !== 'object' || part === null) return typeof part === 'string';
  const { type, image_url: image, file_data: file, file_id: id, file_url: url } = part as Record<string, unknown>;
  if (selfContainedParts.has(type as string)) return true;
  if (type === 'input_image') return typeof image === 'string' && image.startsWith('data:') && id == null;
  if (type === 'input_file') return typeof file === 'string' && id == null && url == null;
  return false;
}

const partsOf = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);

/** Whether an item says everything it is: sent again, it is the same context. */
export function isExactItem(item: Item): boolean {
  const type = typeOf(item);
  if (type === 'reasoning') return typeof item.encrypted_content === 'string' && item.encrypted_content !== '';
  if (!selfContained.has(type)) return false;
  return [...partsOf(item.content), ...partsOf(item.output)].every(isExactPart);
}

/**
 * What of a turn's output the context goes on with: everything, unless the provider compacted it. A compaction item in
 * the output stands for all that came before it; one that a client sends is an item like any other.
 */
export function keptOutput(output: readonly Item[]): { compacted: boolean; items: readonly Item[] } {
  const last = output.findLastIndex((item) => typeOf(item) === 'compaction');
  return last < 0 ? { compacted: false, items: output } : { compacted: true, items: output.slice(last) };
}

/**
 * Whether a turn's context can be said again: `exact` when its parent's can and every item it added says everything it
 * is. A compaction starts the context anew. A provider-side conversation can never be rebuilt.
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

/** The text of an item without its id and status: an id of an item that the provider did not keep refers to nothing. */
export const withoutServerIds = ({ json }: Pick<Written<Item>, 'json'>) => withMembers(json, serverFields);

/** The texts of a lineage's items, root first: the same context without an anchor, or no answer. */
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
