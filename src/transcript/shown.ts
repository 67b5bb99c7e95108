import { typeOf } from './items.ts';
import type { Item } from './types.ts';

export interface ShownForm {
  /** The client's own anchor, or null: a response object must never show one that only the bridge used. */
  previousResponseId: string | null;
  /** The bridge asked for encrypted reasoning; the client did not and does not get it. */
  hideEncrypted: boolean;
}

function withoutEncrypted(item: Item): Item {
  if (typeOf(item) !== 'reasoning' || !('encrypted_content' in item)) return item;
  const { encrypted_content: _hidden, ...rest } = item;
  return rest;
}

/** The items of a turn as its client saw them: identity is taken from this form, replays from the stored one. */
export function shownItems(items: readonly Item[], hideEncrypted: boolean): readonly Item[] {
  return hideEncrypted ? items.map(withoutEncrypted) : items;
}

/**
 * One upstream event as its client may see it. Text is passed on unchanged unless something in it is ours: an anchor the
 * client did not send, or encrypted content it did not ask for.
 */
export function rewriteForClient(text: string, data: Record<string, unknown>, form: ShownForm): string {
  const { response, item } = data as { response?: Record<string, unknown>; item?: Item };
  if (response && typeof response === 'object') {
    const anchor = response.previous_response_id ?? null;
    const foreign = 'previous_response_id' in response && anchor !== form.previousResponseId;
    const output = response.output;
    if (!foreign && !(form.hideEncrypted && Array.isArray(output))) return text;
    const shown: Record<string, unknown> = { ...response };
    if (foreign) shown.previous_response_id = form.previousResponseId;
    if (form.hideEncrypted && Array.isArray(output)) shown.output = shownItems(output as Item[], true);
    return JSON.stringify({ ...data, response: shown });
  }
  if (form.hideEncrypted && item && typeof item === 'object' && 'encrypted_content' in item) {
    return JSON.stringify({ ...data, item: withoutEncrypted(item) });
  }
  return text;
}
