import { createHash } from 'node:crypto';
import { BridgeError } from '../errors.ts';
import { isFields, parseExact, withMembers } from '../json.ts';

/** Limits of one page, as the provider documents them. */
const DEFAULT_LIMIT = 20;
const MOST = 100;

const invalid = (param: string, detail: string) => new BridgeError('bridge_invalid_request', { param, detail });

/**
 * Returns one page of the items from which a response was made, as the provider lists them: each with an id and a type, texts as
 * lists of parts, sealed reasoning only when `include` asks for it. An item keeps its text otherwise.
 *
 * @param texts JSON texts of the items, in order
 * @param responseId ids of items without one are made from it, so that cursors stay valid
 * @throws {BridgeError} `bridge_invalid_request` for a cursor that names no item, or a malformed parameter
 */
export function pageOfItems(texts: readonly string[], responseId: string, query: URLSearchParams): string {
  const limit = Number(query.get('limit') ?? DEFAULT_LIMIT);
  if (!Number.isSafeInteger(limit) || limit < 1 || limit > MOST)
    throw invalid('limit', `limit must be a whole number from 1 to ${MOST}.`);
  const order = query.get('order') ?? 'desc';
  if (order !== 'asc' && order !== 'desc') throw invalid('order', 'order must be asc or desc.');
  const include = [...query.getAll('include'), ...query.getAll('include[]')];
  const sealed = include.includes('reasoning.encrypted_content');
  const listed = texts.map((text, index) => listedItem(text, `${responseId}:${index}`, sealed));
  if (order === 'desc') listed.reverse();
  const at = (name: 'after' | 'before') => {
    const cursor = query.get(name);
    if (cursor === null) return null;
    const found = listed.findIndex(({ id }) => id === cursor);
    if (found < 0) throw invalid(name, 'No item of this response has that id.');
    return found;
  };
  const from = (at('after') ?? -1) + 1;
  const until = at('before') ?? listed.length;
  const page = listed.slice(from, Math.min(until, from + limit));
  const more = from + limit < until;
  const [first, last] = [page[0], page.at(-1)].map((item) => JSON.stringify(item?.id ?? null));
  const data = page.map(({ json }) => json).join(',');
  return `{"object":"list","data":[${data}],"first_id":${first},"last_id":${last},"has_more":${more}}`;
}

function listedItem(json: string, place: string, sealed: boolean): { id: string; json: string } {
  const item: unknown = parseExact(json);
  if (!isFields(item)) throw new BridgeError('bridge_internal', { detail: 'A stored item is no object.' });
  const changes = new Map<string, string | null>();
  const isMessage = item.type === undefined || item.type === 'message';
  const made = createHash('sha256').update(place).digest('hex').slice(0, 48);
  const id = typeof item.id === 'string' && item.id !== '' ? item.id : `${isMessage ? 'msg' : 'item'}_${made}`;
  if (item.id !== id) changes.set('id', JSON.stringify(id));
  if (item.type === undefined) changes.set('type', '"message"');
  if (isMessage && item.status === undefined) changes.set('status', '"completed"');
  if (isMessage && typeof item.content === 'string') {
    const part =
      item.role === 'assistant'
        ? { type: 'output_text', text: item.content, annotations: [], logprobs: [] }
        : { type: 'input_text', text: item.content };
    changes.set('content', JSON.stringify([part]));
  }
  if (!sealed && item.type === 'reasoning' && item.encrypted_content !== undefined)
    changes.set('encrypted_content', null);
  return { id, json: changes.size === 0 ? json : withMembers(json, changes) };
}
