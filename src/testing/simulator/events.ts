import type { Item } from '../../transcript/types.ts';
import { derive } from './seeded.ts';

/** Stream event without its sequence number. */
export type SimEvent = Record<string, unknown> & { type: string };

/** Splits a text into `count` even pieces, or fewer when the text is shorter. Never splits a surrogate pair. */
function pieces(text: string, count: number): string[] {
  const characters = [...text];
  const pieceCount = Math.min(characters.length, Math.max(1, count));
  const start = (piece: number) => Math.floor((piece * characters.length) / pieceCount);
  return Array.from({ length: pieceCount }, (_, n) => characters.slice(start(n), start(n + 1)).join(''));
}

function messageEvents(item: Item, output_index: number, deltas: number): SimEvent[] {
  const events: SimEvent[] = [];
  (item.content as Record<string, unknown>[]).forEach((part, content_index) => {
    const at = { item_id: item.id, output_index, content_index };
    const kind = part.type === 'refusal' ? 'refusal' : 'output_text';
    const field = part.type === 'refusal' ? 'refusal' : 'text';
    const text = String(part[field] ?? '');
    const extra = kind === 'output_text' ? { logprobs: [] } : {};
    events.push({ type: 'response.content_part.added', ...at, part: { ...part, [field]: '' } });
    for (const delta of pieces(text, deltas)) events.push({ type: `response.${kind}.delta`, delta, ...at, ...extra });
    events.push({ type: `response.${kind}.done`, ...at, ...extra, [field]: text });
    events.push({ type: 'response.content_part.done', ...at, part });
  });
  return events;
}

function reasoningEvents(item: Item, output_index: number, deltas: number): SimEvent[] {
  const events: SimEvent[] = [];
  const summary = Array.isArray(item.summary) ? (item.summary as Record<string, unknown>[]) : [];
  summary.forEach((part, summary_index) => {
    const at = { item_id: item.id, output_index, summary_index };
    const text = String(part.text ?? '');
    events.push({ type: 'response.reasoning_summary_part.added', ...at, part: { ...part, text: '' } });
    for (const delta of pieces(text, deltas))
      events.push({ type: 'response.reasoning_summary_text.delta', ...at, delta });
    events.push({ type: 'response.reasoning_summary_text.done', ...at, text });
    events.push({ type: 'response.reasoning_summary_part.done', ...at, part });
  });
  return events;
}

function callEvents(item: Item, output_index: number, deltas: number): SimEvent[] {
  const custom = item.type === 'custom_tool_call';
  const field = custom ? 'input' : 'arguments';
  const name = custom ? 'response.custom_tool_call_input' : 'response.function_call_arguments';
  const at = { item_id: item.id, output_index };
  const text = String(item[field] ?? '');
  const done: SimEvent = { type: `${name}.done`, ...at, [field]: text };
  if (!custom) done.name = item.name;
  return [...pieces(text, deltas).map((delta) => ({ type: `${name}.delta`, ...at, delta })), done];
}

/** An item as its `added` event and its `done` event show it. The terminal event may show it differently again. */
export interface StreamedItem {
  added: Item;
  done: Item;
}

/** Returns the item as `response.output_item.added` shows it: started, with empty content. */
export function begun(item: Item): Item {
  switch (item.type) {
    case 'message':
      return { ...item, status: 'in_progress', content: [] };
    case 'function_call':
      return { ...item, status: 'in_progress', arguments: '' };
    case 'custom_tool_call':
      return { ...item, status: 'in_progress', input: '' };
    case 'reasoning':
      return { ...item, summary: [] };
    default:
      return item;
  }
}

/** Returns the events of one output item, from added to done. */
function itemEvents({ added, done: item }: StreamedItem, output_index: number, deltas: number): SimEvent[] {
  const inner =
    item.type === 'message'
      ? messageEvents(item, output_index, deltas)
      : item.type === 'reasoning'
        ? reasoningEvents(item, output_index, deltas)
        : item.type === 'function_call' || item.type === 'custom_tool_call'
          ? callEvents(item, output_index, deltas)
          : [];
  return [
    { type: 'response.output_item.added', item: added, output_index },
    ...inner,
    { type: 'response.output_item.done', item, output_index },
  ];
}

/** Returns a response object before anything was generated. Fields of the request are echoed, as the API does. */
export function responseObject(options: {
  id: string;
  createdAt: number;
  body: Readonly<Record<string, unknown>>;
}): Record<string, unknown> {
  const { id, createdAt, body } = options;
  return {
    id,
    object: 'response',
    created_at: createdAt,
    status: 'in_progress',
    background: body.background === true,
    completed_at: null,
    error: null,
    frequency_penalty: body.frequency_penalty ?? 0,
    incomplete_details: null,
    instructions: body.instructions ?? null,
    max_output_tokens: body.max_output_tokens ?? null,
    max_tool_calls: body.max_tool_calls ?? null,
    model: body.model,
    output: [],
    parallel_tool_calls: body.parallel_tool_calls ?? true,
    presence_penalty: body.presence_penalty ?? 0,
    previous_response_id: body.previous_response_id ?? null,
    prompt_cache_key: body.prompt_cache_key ?? null,
    prompt_cache_retention: body.prompt_cache_retention ?? null,
    reasoning: body.reasoning ?? { effort: null, summary: null },
    safety_identifier: body.safety_identifier ?? null,
    service_tier: body.service_tier ?? 'auto',
    store: body.store !== false,
    temperature: body.temperature ?? 1,
    text: body.text ?? { format: { type: 'text' } },
    tool_choice: body.tool_choice ?? 'auto',
    tools: body.tools ?? [],
    top_logprobs: body.top_logprobs ?? 0,
    top_p: body.top_p ?? 1,
    truncation: body.truncation ?? 'disabled',
    usage: null,
    user: body.user ?? null,
    metadata: body.metadata ?? {},
  };
}

/**
 * Returns the complete event sequence of a response, from `response.created` to its terminal event, which contains
 * `finished` unchanged.
 */
export function responseEvents(options: {
  started: Record<string, unknown>;
  items: readonly StreamedItem[];
  finished: Record<string, unknown>;
  deltas: number;
  queued: boolean;
}): SimEvent[] {
  const { started, items, finished, deltas } = options;
  const first: SimEvent[] = [{ type: 'response.created', response: started }];
  if (options.queued) first.push({ type: 'response.queued', response: { ...started, status: 'queued' } });
  return [
    ...first,
    { type: 'response.in_progress', response: started },
    ...items.flatMap((item, index) => itemEvents(item, index, deltas)),
    { type: `response.${String(finished.status)}`, response: finished },
  ];
}

/** A delta and its obfuscation together fill a multiple of this many bytes. */
const OBFUSCATED_BYTES = 16;

/**
 * Adds random padding to most deltas, so that event sizes do not reveal their content. As in recorded traffic, about 78
 * % of the deltas have it, and it fills them up to a multiple of sixteen characters.
 */
export function obfuscate(events: readonly SimEvent[], seed: number, name: string): SimEvent[] {
  return events.map((event, index) => {
    if (!event.type.endsWith('.delta')) return event;
    const noise = derive(seed, 'obfuscation', name, index);
    if (Number.parseInt(noise.slice(-4), 16) / 2 ** 16 >= 0.78) return event;
    const length = OBFUSCATED_BYTES - (String(event.delta ?? '').length % OBFUSCATED_BYTES);
    const { type, delta, ...rest } = event;
    return { type, delta, obfuscation: noise.slice(0, length), ...rest };
  });
}

/** Gives every reference to an item a different id: some gateways generate ids as they relay events. */
export function scatterIds(events: readonly SimEvent[], freshId: () => string): SimEvent[] {
  const renamed = (item: Item): Item => ({ ...item, id: freshId() });
  return events.map((event): SimEvent => {
    if ('item_id' in event) return { ...event, item_id: freshId() };
    if (event.item !== undefined) return { ...event, item: renamed(event.item as Item) };
    const response = event.response as { output?: readonly Item[] } | undefined;
    if (!response?.output?.length) return event;
    return { ...event, response: { ...response, output: response.output.map(renamed) } };
  });
}
