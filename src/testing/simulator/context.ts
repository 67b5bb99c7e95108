import type { Item } from '../../transcript/types.ts';
import { BYTES_PER_TOKEN, countItems, fold, inputItems, sealLine } from './digest.ts';
import {
  invalidEncryptedContent,
  invalidRequest,
  notFound,
  previousResponseNotFound,
  Refusal,
} from './error-shapes.ts';
import { type ConnectionCache, itemsBackwards, type Provider, type ResponseRecord } from './provider.ts';
import { SEALED_MEMBERS } from './sealed.ts';

/** A request resolved against the provider's data: exactly the input of its model. */
export interface TurnContext {
  previous: ResponseRecord | null;
  /** Items that this request adds. */
  input: readonly Item[];
  /** Ids of reasoning items replayed under another context than they were made under. They are not in `input`. */
  removed: readonly unknown[];
  line: string;
  count: number;
  openCalls: ReadonlyMap<string, string>;
  /**
   * Estimated tokens. `itemTokens`: of all items. `tokens`: also of the request's instructions and tools.
   * `cachedTokens`: of the prefix that the model has read before.
   */
  itemTokens: number;
  tokens: number;
  cachedTokens: number;
  /** Sixteen hex digits over the effective context. */
  digest: string;
  /** Conversation that the request belongs to. */
  conversation: string | null;
}

const CALL_OF_OUTPUT: Record<string, string> = {
  function_call_output: 'function_call',
  custom_tool_call_output: 'custom_tool_call',
};
const CALLS = new Set(Object.values(CALL_OF_OUTPUT));

/** Estimates tokens from the length of a value's JSON. */
export const estimateTokens = (value: unknown): number =>
  Math.ceil((JSON.stringify(value) ?? '').length / BYTES_PER_TOKEN);

/**
 * Returns the open calls after `items`, given those of `before`.
 *
 * @throws {Refusal} for an output whose call is not in the context
 */
function pairCalls(
  before: ReadonlyMap<string, string>,
  items: readonly Item[],
  known: (callId: string, type: string) => boolean,
): Map<string, string> {
  const open = new Map(before);
  const seen = new Set<string>();
  for (const item of items) {
    const type = String(item.type);
    const callId = String(item.call_id);
    if (CALLS.has(type)) {
      open.set(callId, type);
      seen.add(callId);
    }
    const expected = CALL_OF_OUTPUT[type];
    if (!expected) continue;
    if (open.get(callId) !== expected && !seen.has(callId) && !known(callId, expected)) {
      const what = expected === 'function_call' ? 'tool call found for function call output' : 'custom tool call found';
      throw new Refusal(invalidRequest(`No ${what} with call_id ${callId}.`, 'input'));
    }
    open.delete(callId);
  }
  return open;
}

function findPrevious(
  provider: Provider,
  credential: string,
  cache: ConnectionCache | null,
  body: Readonly<Record<string, unknown>>,
): ResponseRecord | null {
  const { previous_response_id: anchor, conversation } = body;
  if (conversation != null) {
    if (anchor != null)
      throw new Refusal(invalidRequest('Mutually exclusive parameters: previous_response_id, conversation.'));
    return provider.conversation(credential, conversationId(conversation)!) ?? null;
  }
  if (anchor == null) return null;
  if (typeof anchor !== 'string')
    throw new Refusal(invalidRequest('previous_response_id must be a string.', 'previous_response_id'));
  const cached = cache?.get(anchor);
  const record = cached?.credential === credential ? cached : provider.stored(credential, anchor);
  if (!record) throw new Refusal(previousResponseNotFound(anchor));
  return record;
}

function conversationId(conversation: unknown): string | null {
  if (conversation == null) return null;
  return String(typeof conversation === 'object' ? (conversation as { id?: unknown }).id : conversation);
}

/**
 * Computes the effective context of a request: the items of the chain it continues, then its own input. Instructions
 * and tools are those of the request only; they are not inherited.
 *
 * @throws {Refusal} as the provider would refuse: unknown anchor, foreign encrypted content, unanswered tool calls
 */
export function resolveContext(options: {
  provider: Provider;
  credential: string;
  cache: ConnectionCache | null;
  body: Readonly<Record<string, unknown>>;
  checkToolPairs: boolean;
}): TurnContext {
  const { provider, credential, body } = options;
  if (typeof body.model !== 'string')
    throw new Refusal(invalidRequest("Missing required parameter: 'model'.", 'model'));
  if (body.input != null && typeof body.input !== 'string' && !Array.isArray(body.input))
    throw new Refusal(invalidRequest("Invalid type for 'input': expected a string or an array.", 'input'));
  const previous = findPrevious(provider, credential, options.cache, body);

  const given = inputItems(body.input).map((item) => {
    if (item.type !== 'item_reference') return item;
    const found = provider.item(credential, String(item.id));
    if (!found) throw new Refusal(notFound(`Item with id '${String(item.id)}' not found.`));
    return found;
  });
  for (const item of given)
    for (const member of SEALED_MEMBERS)
      if (typeof item[member] === 'string' && !provider.sealer.opens(credential, item[member]))
        throw new Refusal(invalidEncryptedContent);
  const before = previous?.tokens ?? 0;
  let cachedTokens = before;
  const {
    line,
    kept: input,
    removed,
    tokens: added,
  } = fold(previous?.line ?? '', given, (at, tokens) => {
    if (provider.hasRead(credential, at)) cachedTokens = before + tokens;
  });

  let openCalls: ReadonlyMap<string, string> = new Map();
  if (options.checkToolPairs) {
    const known = (callId: string, type: string) =>
      [...itemsBackwards(previous)].some((item) => item.type === type && item.call_id === callId);
    openCalls = pairCalls(previous?.openCalls ?? new Map(), input, known);
    const [unanswered] = openCalls.keys();
    if (unanswered !== undefined && body.generate !== false)
      throw new Refusal(invalidRequest(`No tool output found for function call ${unanswered}.`, 'input'));
  }

  return {
    previous,
    input,
    removed: removed.map(({ id }) => id ?? null),
    line,
    count: (previous?.count ?? 0) + countItems(input),
    openCalls,
    itemTokens: before + added,
    tokens: before + added + estimateTokens([body.instructions, body.tools]),
    cachedTokens,
    digest: sealLine(line, body).slice(0, 16),
    conversation: conversationId(body.conversation),
  };
}

/** Returns the record of a finished response. Items replaced by a compaction item are no longer part of the context. */
export function recordOf(options: {
  context: TurnContext;
  credential: string;
  connection: number | null;
  response: Record<string, unknown>;
  /** Additional ids under which output items were sent, and the items they refer to. */
  aliases: ResponseRecord['aliases'];
}): ResponseRecord {
  const { context, response } = options;
  const output = response.output as readonly Item[];
  const compaction = output.findLastIndex((item) => item.type === 'compaction');
  const cut = compaction >= 0;
  const kept = cut ? output.slice(compaction) : output;
  const folded = fold(cut ? '' : context.line, kept);
  return {
    id: String(response.id),
    credential: options.credential,
    connection: options.connection,
    parent: cut ? null : context.previous,
    items: cut ? kept : [...context.input, ...output],
    line: folded.line,
    count: cut ? countItems(kept) : context.count + countItems(output),
    openCalls: pairCalls(cut ? new Map() : context.openCalls, kept, () => true),
    tokens: (cut ? 0 : context.itemTokens) + folded.tokens,
    input: context.input,
    response,
    aliases: options.aliases,
    polled: 0,
  };
}
