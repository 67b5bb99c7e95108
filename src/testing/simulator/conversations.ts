import type { Item } from '../../transcript/types.ts';
import { countItems, fold } from './digest.ts';
import { invalidRequest, notFound, Refusal } from './events.ts';
import { itemsBackwards, type Provider, pairCalls, type ResponseRecord } from './provider.ts';

/** Maximum number of items that one call may add, and that a page may have. */
const MAX_ADDED = 20;
const MAX_PAGE = 100;

/** A call of the Conversations API. */
export interface ConversationCall {
  method: string;
  credential: string;
  /** Segments after `/conversations`. */
  path: readonly string[];
  query: URLSearchParams;
  body: Readonly<Record<string, unknown>>;
}

/** Creates the Conversations API. Its items are the context of turns that name the conversation, and the other way round. */
export function createConversations(provider: Provider): (call: ConversationCall) => object {
  const made = new Map<string, { id: string; object: string; created_at: number; metadata: unknown }>();

  /** Returns the head of a conversation after these items. */
  function after(previous: ResponseRecord | null, items: readonly Item[], credential: string): ResponseRecord {
    const folded = fold(previous?.line ?? '', items);
    return {
      id: '',
      credential,
      connection: null,
      parent: previous,
      items,
      line: folded.line,
      count: (previous?.count ?? 0) + countItems(items),
      openCalls: pairCalls(previous?.openCalls ?? new Map(), items, () => true),
      tokens: (previous?.tokens ?? 0) + folded.tokens,
      input: items,
      response: {},
      aliases: [],
      polled: 0,
    };
  }

  const listOf = (data: readonly Item[], more = false) => ({
    object: 'list',
    data,
    first_id: data.at(0)?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
    has_more: more,
  });

  function add(credential: string, id: string, given: unknown): Item[] {
    if (!Array.isArray(given) || given.length > MAX_ADDED)
      throw new Refusal(invalidRequest(`Invalid 'items': expected an array of at most ${MAX_ADDED} items.`, 'items'));
    const items = (given as Item[]).map((item) => {
      const { type = 'message', content } = item;
      const parts = typeof content === 'string' ? [{ type: 'input_text', text: content }] : content;
      // Only items that refer to the provider's own, such as reasoning, have an id.
      return { status: 'completed', id: provider.id('item'), ...item, type, ...(parts ? { content: parts } : {}) };
    });
    provider.advance(credential, id, after(provider.conversation(credential, id) ?? null, items, credential));
    return items;
  }

  return ({ method, credential, path, query, body }) => {
    const [id, items, itemId, ...rest] = path;
    if (id === undefined && method === 'POST') {
      const created = { id: provider.id('conv'), object: 'conversation', created_at: 1_760_000_000 };
      made.set(created.id, { ...created, metadata: body.metadata ?? {} });
      add(credential, created.id, body.items ?? []);
      return made.get(created.id)!;
    }
    const conversation = id === undefined ? undefined : made.get(id);
    const head = conversation && provider.conversation(credential, conversation.id);
    if (!conversation || !head) throw new Refusal(notFound(`Conversation with id '${id}' not found.`));
    const all = [...itemsBackwards(head)].reverse();
    if (items === undefined) {
      if (method === 'POST') conversation.metadata = body.metadata ?? {};
      if (method !== 'DELETE') return conversation;
      made.delete(conversation.id);
      return { id, object: 'conversation.deleted', deleted: true };
    }
    if (items !== 'items' || rest.length > 0) throw new Refusal(notFound(`Invalid URL (${method} /conversations)`));
    if (itemId === undefined && method === 'POST') return listOf(add(credential, conversation.id, body.items));
    const found = all.find((item) => item.id === itemId);
    if (itemId !== undefined && !found) throw new Refusal(notFound(`Item with id '${itemId}' not found.`));
    if (method === 'DELETE') {
      const left = all.filter((item) => item !== found);
      provider.advance(credential, conversation.id, after(null, left, credential));
      return conversation;
    }
    const sealed = query.getAll('include').includes('reasoning.encrypted_content');
    const shown = ({ encrypted_content, ...item }: Item): Item =>
      sealed && encrypted_content !== undefined ? { ...item, encrypted_content } : item;
    if (found) return shown(found);
    const ordered = query.get('order') === 'asc' ? all : all.toReversed();
    const limit = Math.min(Number(query.get('limit') ?? MAX_ADDED), MAX_PAGE);
    const from = query.has('after') ? ordered.findIndex((item) => item.id === query.get('after')) + 1 : 0;
    return listOf(ordered.slice(from, from + limit).map(shown), ordered.length > from + limit);
  };
}
