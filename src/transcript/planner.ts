import { TURN_STATE_HEADER } from '../headers.ts';
import { arrayText, changedMembers, elementTexts, spansByName, textOf, type Written, withMembers } from '../json.ts';
import type { ReplayClass } from '../store/port.ts';
import { typeOf } from './items.ts';
import type {
  Continuation,
  Fingerprint,
  Item,
  KnownEnd,
  ReadItem,
  ReadRequest,
  RequestBody,
  WireForm,
  WireInput,
} from './types.ts';

/**
 * Returns why the request cannot be sent as a delta; null when it can. Tools listed by a server are part of the context,
 * and a delta cannot change the tools beside them; equal context fields rule that out.
 */
function deltaRefusal(contextFp: Fingerprint, left: readonly ReadItem[], end: KnownEnd): string | null {
  if (left.length === 0) return 'nothing new is left';
  if (end.responseId === null) return 'the line has no response id';
  if (contextFp !== end.contextFp) return 'a context field changed';
  return null;
}

/** Returns the continuation of an anchored request: its input is added to the anchor. */
export function continueAnchor(items: readonly ReadItem[]): Continuation {
  return { kind: 'anchored', items };
}

/**
 * Returns where an unanchored request continues and what it adds. If a known line is exactly the start of its input, only
 * the remaining items are new. Otherwise it is a root of its own. In both cases it may be sent as the client sent it.
 *
 * @param contextFp the request's own context fingerprint
 * @param match deepest turn that the request continues, and how many of its items belong to that turn's line
 */
export function continueLine(
  contextFp: Fingerprint,
  items: readonly ReadItem[],
  match: { end: KnownEnd; count: number } | null,
): Continuation {
  if (!match) return { kind: 'root', items };
  const left = items.slice(match.count);
  const reason = deltaRefusal(contextFp, left, match.end);
  return { kind: 'extends', items: left, deltaAllowed: reason === null, reason };
}

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

interface ReplayTurn {
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
    const texts = output.slice(output.length - kept.length).map(withoutServerIds);
    if (compacted) items = texts;
    else items.push(...input, ...texts);
  }
  return { kind: 'exact', items };
}

/** Inputs of the decision about a turn's wire form. */
export interface PlanInput {
  request: Pick<ReadRequest, 'text' | 'members' | 'items'>;
  continuation: Continuation;
  /** Response id of the continued turn, if its content is known. */
  parentResponseId: string | null;
  /** Response id that this very socket can continue; null on a fresh one. */
  socketAnchor: string | null;
  /** The provider stores the parent's response, so that its id works on any socket. */
  anchorStored: boolean;
  /** Texts of all items of the parent's lineage; null when it is unknown, not exact or not loaded. */
  history: readonly string[] | null;
  /** Texts of items that the provider did not store, by item id. They replace items that only name them. */
  contents: ReadonlyMap<string, string>;
}

/**
 * Plans the form in which a turn is sent: anchor and new items, or everything without an anchor. Never both, and never an
 * anchor that the upstream cannot resolve. A full input of the client is sent as received.
 */
export function planWire(input: PlanInput): WireForm {
  const { request, continuation, parentResponseId, socketAnchor, anchorStored, history, contents } = input;
  const held = parentResponseId !== null && socketAnchor === parentResponseId;
  const whole = (items: readonly ReadItem[]) => items.map((item) => resolved(item, contents));
  const asSent = () => (contents.size === 0 ? inputAsSent(request) : inputOf(whole(request.items.list)));
  const added = () => whole(continuation.items);
  switch (continuation.kind) {
    case 'root':
      return { form: 'full', ...asSent() };
    case 'extends':
      if (held && continuation.deltaAllowed) {
        return { form: 'delta', previousResponseId: parentResponseId, ...inputOf(added()) };
      }
      return { form: 'full', ...asSent() };
    case 'anchored':
      if (parentResponseId !== null && (held || anchorStored)) {
        return { form: 'delta', previousResponseId: parentResponseId, ...asSent() };
      }
      if (history) return { form: 'full', ...inputOf([...history, ...added()]) };
      return { form: 'impossible', reason: 'the earlier response is gone and its context cannot be rebuilt exactly' };
  }
}

/**
 * Returns an item as it can be sent: an item that only names content which the provider cannot look up is replaced by that
 * content, and so is reasoning whose ciphertext the client was not shown.
 */
function resolved({ named, json }: ReadItem, contents: ReadonlyMap<string, string>): string {
  return named === null ? json : (contents.get(named) ?? json);
}

/** Returns a request's own input as it was sent. */
export function inputAsSent({ text, members, items }: PlanInput['request']): WireInput {
  return { input: textOf(text, spansByName(members).get('input')), items: items.list.length };
}

const inputOf = (texts: readonly string[]) => ({ input: arrayText(texts), items: texts.length });

/** Inputs of a `response.create` frame. */
interface FrameInput {
  request: Pick<ReadRequest, 'text' | 'members' | 'body'>;
  wire: Exclude<WireForm, { form: 'impossible' }>;
  /**
   * Requests encrypted reasoning although the client did not: without it a turn that is not stored could not be sent again.
   */
  addEncryptedReasoning: boolean;
  /** Provider's own turn state for the same client turn; null when there is none. */
  turnState: string | null;
}

const ENCRYPTED_REASONING = 'reasoning.encrypted_content';

/** Returns whether the client's own `include` requests encrypted reasoning. */
export function asksEncryptedReasoning(body: RequestBody): boolean {
  return Array.isArray(body.include) && body.include.includes(ENCRYPTED_REASONING);
}

/**
 * Returns the text of a `response.create` frame: the client's body as written, with anchor and input in the planned form.
 * No field is added that the client did not send, except encrypted reasoning and the turn state. A socket always streams,
 * so a `stream` that the client sent becomes true.
 */
export function createFrame({ request, wire, addEncryptedReasoning, turnState }: FrameInput): string {
  const { body, text, members } = request;
  const written = spansByName(members);
  const changes = new Map<string, string | null>([
    ['type', null],
    ['input', wire.input],
  ]);
  if (body.background !== true) changes.set('background', null);
  if (wire.form === 'delta') changes.set('previous_response_id', JSON.stringify(wire.previousResponseId));
  else if (body.previous_response_id != null) changes.set('previous_response_id', null);
  // Only a background request may be answered at once with a single object.
  if ('stream' in body && body.background !== true) changes.set('stream', 'true');
  if (addEncryptedReasoning) {
    const asked = elementTexts(textOf(text, written.get('include')) ?? '');
    changes.set('include', arrayText([...asked, JSON.stringify(ENCRYPTED_REASONING)]));
  }
  const metadata = body.client_metadata as Record<string, unknown> | null | undefined;
  if (turnState !== null || (metadata && Object.hasOwn(metadata, TURN_STATE_HEADER))) {
    // A client's value under this name is a token of this bridge, or useless: the provider's own is never sent to clients.
    const own = turnState === null ? null : JSON.stringify(turnState);
    const given = textOf(text, written.get('client_metadata'));
    changes.set('client_metadata', withMembers(given ?? '{}', new Map([[TURN_STATE_HEADER, own]])));
  }
  const fields = changedMembers(text, changes, members);
  const begun = fields.before.slice(fields.before.indexOf('{') + 1);
  return `{"type":"response.create"${fields.members === '' ? '' : ','}${begun}${fields.members}${fields.after.trimEnd()}`;
}
