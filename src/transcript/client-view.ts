import { elementsOf, membersOf, type Span, withMembers, withSpans } from '../json.ts';
import { typeOf } from './items.ts';
import type { Item } from './types.ts';

interface ShownForm {
  /** The client's own anchor, or null. A response object must never show an anchor that only the bridge used. */
  previousResponseId: string | null;
  /** The bridge requested encrypted reasoning; the client did not and must not get it. */
  hideEncrypted: boolean;
}

const isSealed = (item: Item) => typeOf(item) === 'reasoning' && 'encrypted_content' in item;

function withoutEncrypted(item: Item): Item {
  if (!isSealed(item)) return item;
  const { encrypted_content: _hidden, ...rest } = item;
  return rest;
}

/** Returns the items of a turn as its client saw them. Identities use this form, replays the stored one. */
export function shownItems(items: readonly Item[], hideEncrypted: boolean): readonly Item[] {
  return hideEncrypted ? items.map(withoutEncrypted) : items;
}

const sealed = new Map([['encrypted_content', null]]);

/** Removes the encrypted content from an item's text. */
const unseal = (text: string, { start, end }: Span) => ({
  start,
  end,
  json: withMembers(text.slice(start, end), sealed),
});

/**
 * Returns one upstream event as its client may see it. The text is passed on unchanged except for additions of the bridge:
 * an anchor that the client did not send, or encrypted content that it did not request.
 */
export function rewriteForClient(text: string, data: Record<string, unknown>, form: ShownForm): string {
  const { response, item } = data as { response?: Record<string, unknown>; item?: Item };
  if (response && typeof response === 'object') {
    const anchor = response.previous_response_id ?? null;
    const foreign = 'previous_response_id' in response && anchor !== form.previousResponseId;
    const output = form.hideEncrypted && Array.isArray(response.output) ? (response.output as Item[]) : [];
    const isHidden = (listed: unknown) => typeof listed === 'object' && listed !== null && isSealed(listed as Item);
    if (!foreign && !output.some(isHidden)) return text;
    const members = membersOf(text, membersOf(text).get('response')?.start);
    const edits: (Span & { json: string })[] = [];
    const place = members.get('previous_response_id');
    if (foreign && place) edits.push({ ...place, json: JSON.stringify(form.previousResponseId) });
    const spans = output.length > 0 ? elementsOf(text, members.get('output')?.start) : [];
    for (const [index, span] of spans.entries()) if (isHidden(output[index])) edits.push(unseal(text, span));
    return withSpans(
      text,
      edits.sort((one, other) => one.start - other.start),
    );
  }
  if (form.hideEncrypted && item && typeof item === 'object' && isSealed(item)) {
    const span = membersOf(text).get('item');
    return span ? withSpans(text, [unseal(text, span)]) : text;
  }
  return text;
}

/**
 * Returns a response object made by the bridge itself: every member that OpenAI's SDKs declare as required, with nothing
 * generated. Vercel's SDK rejects one without `model` and `created_at`.
 *
 * @param from.model model that the request named; clients reject a response without one
 * @param from.now wall clock in milliseconds
 */
export function bareResponse(from: { id: string; model: unknown; now: number }) {
  return {
    id: from.id,
    object: 'response' as const,
    created_at: Math.floor(from.now / 1000),
    status: 'in_progress' as const,
    access_programs: null,
    error: null,
    incomplete_details: null,
    instructions: null,
    metadata: {},
    model: typeof from.model === 'string' && from.model !== '' ? from.model : 'unknown',
    output: [],
    output_text: '',
    parallel_tool_calls: true,
    temperature: null,
    tool_choice: 'auto' as const,
    tools: [],
    top_p: null,
  };
}
