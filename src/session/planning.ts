import { elementTexts, parseExact, type Written } from '../json.ts';
import type { ProviderObjects, ReferencedItem, SessionReads, TurnItems, TurnRow } from '../store/port.ts';
import { continuedBy, isNameOnly, itemHash, type Line, relate } from '../transcript/items.ts';
import {
  asksEncryptedReasoning,
  buildReplay,
  continueAnchor,
  continueLine,
  createFrame,
  inputAsSent,
  planWire,
  withoutServerIds,
} from '../transcript/planner.ts';
import { MOST_NAMES } from '../transcript/provider-ids.ts';
import type { Item, WireForm } from '../transcript/types.ts';
import type { TurnQueue } from './core.ts';
import type { Turn } from './turn.ts';

/**
 * Returns whether a turn whose socket was lost may be sent once more. Required: only `response.created` and telemetry
 * have arrived, no output was shown, no hosted tool can have acted, and the turn uses no conversation or background
 * response at the provider.
 *
 * @param untaken true if the upstream reported that it did not accept the frame: the turn then cannot have had any
 *   effect
 */
export function mayResend(turn: Turn, untaken = false): boolean {
  const { body, hostedTools } = turn.request;
  if (turn.sawOutput || turn.stream.shown || turn.stream.finished) return false;
  if (untaken) return true;
  return body.conversation == null && body.background !== true && !hostedTools;
}

/**
 * Returns whether the whole context can be sent again: the client sent it in full, its lineage is known to be exact, or
 * only the provider knows the anchor.
 */
export function canSendFull(turn: Turn): boolean {
  if (turn.continuation?.kind !== 'anchored' || turn.parent === null) return true;
  return turn.history !== null || turn.parent.replay === 'exact';
}

/** Model families that reason by default. Other models reject a request for encrypted reasoning. */
const reasoningModel = /^(o\d|gpt-[5-9]|codex)(?!.*chat)/;

function reasons({ reasoning, model }: Turn['request']['body']): boolean {
  return (reasoning !== undefined && reasoning !== null) || reasoningModel.test(String(model));
}

/**
 * Returns a frame in which a turn is sent. If the provider does not store the response, its encrypted reasoning is
 * requested as well: without it the context could not be resent on another socket. It is hidden from a client that did
 * not request it.
 */
function composeFrame(turn: Turn, wire: Exclude<WireForm, { form: 'impossible' }>, turnState: string | null): string {
  const { request } = turn;
  const { body } = request;
  turn.hideEncrypted = body.store === false && reasons(body) && !asksEncryptedReasoning(body);
  return createFrame({ request, wire, addEncryptedReasoning: turn.hideEncrypted, turnState });
}

/**
 * Returns the form in which this turn is sent on a socket that can continue from `socketAnchor`, and its frame; the frame is
 * null if the turn cannot be sent. A frame can be composed before the turn may be sent, while its start is being stored: the
 * same one is returned as long as nothing has changed.
 *
 * @param socketAnchor response id from which the socket can continue; null for a fresh socket
 * @param turnState provider's own turn state for the same client turn; null if there is none
 */
export function frameOf(
  turn: Turn,
  socketAnchor: string | null,
  turnState: string | null,
): { wire: WireForm; frame: string; bytes: number } | { wire: WireForm; frame: null } {
  const plan = planOf(turn, socketAnchor);
  const { wire } = plan;
  if (wire.form === 'impossible') return { wire, frame: null };
  if (plan.composed === null || plan.composed.turnState !== turnState) {
    const frame = composeFrame(turn, wire, turnState);
    plan.composed = { turnState, frame, bytes: Buffer.byteLength(frame) };
  }
  const { frame, bytes } = plan.composed;
  return { wire, frame, bytes };
}

/** Forgets the plan and the frame of a turn, which has been sent. */
export const forgetFrame = (turn: Turn): void => void planned.delete(turn);

const isItem = (value: unknown): value is Item => typeof value === 'object' && value !== null && !Array.isArray(value);

/** Parses stored items. Returns null if another release, or damage, left something else in the column. */
function writtenItems(stored: string): Written<Item>[] | null {
  let values: unknown;
  try {
    values = JSON.parse(stored);
  } catch {
    return null;
  }
  if (!Array.isArray(values) || !values.every(isItem)) return null;
  return elementTexts(stored).map((json, index) => ({ json, value: values[index]! }));
}

/**
 * Returns the texts of a lineage's items, root first, ready to be sent in front of new ones. Returns null if any of
 * them is missing or cannot be resent exactly: the history is never approximated.
 */
export function itemsOf(turns: readonly TurnItems[]): readonly string[] | null {
  // The lineage does not begin at a root, so ancestors are missing: a partial history must not be sent as the whole.
  if (turns[0]?.turn.parentTurnId !== null) return null;
  const parts = [];
  for (const { turn, input, output } of turns) {
    const items = output === null ? null : writtenItems(output);
    if (input === null || items === null) return null;
    parts.push({ input: elementTexts(input), output: items, replay: turn.replay });
  }
  const replay = buildReplay(parts);
  return replay.kind === 'exact' ? replay.items : null;
}

/** Parses a stored item; null when it is damaged. Anything else in its place has no id. */
function readable(json: string): Item | null {
  try {
    return parseExact(json) as Item | null;
  } catch {
    return null;
  }
}

/**
 * Loads the texts of items, by item id, in the form in which they can be sent in full. The items are searched in the
 * lines of the given turns. An id that several different items have is left out.
 *
 * @param itemIds ids to look for
 * @throws StoreUnavailable if the store does not answer
 */
export async function loadContents(
  store: SessionReads,
  scope: string,
  turnIds: Iterable<string>,
  itemIds: readonly string[],
): Promise<Map<string, string>> {
  const found = new Map(itemIds.map((id) => [id, new Map<string, string>()]));
  for (const turnId of turnIds) {
    for (const { input, output } of await store.lineage(scope, turnId)) {
      for (const json of [input, output].flatMap((text) => (text === null ? [] : elementTexts(text)))) {
        const item = readable(json);
        if (item && !isNameOnly(item)) found.get(item.id as string)?.set(itemHash(item), withoutServerIds({ json }));
      }
    }
  }
  const contents = new Map<string, string>();
  for (const [id, texts] of found) if (texts.size === 1) contents.set(id, [...texts.values()][0]!);
  return contents;
}

/** Maximum number of ids in one query. */
const PER_QUESTION = 1_000;

/**
 * Loads the turns of a scope whose output contains or mentions the objects with these ids, in as many queries as
 * needed. At most `MOST_NAMES` ids are looked up.
 *
 * @throws StoreUnavailable if the store does not answer
 */
export async function referencesTo(
  store: Pick<SessionReads, 'references'>,
  scope: string,
  ids: readonly string[],
): Promise<readonly ReferencedItem[]> {
  const rows: ReferencedItem[] = [];
  const asked = ids.slice(0, MOST_NAMES);
  for (let at = 0; at < asked.length; at += PER_QUESTION)
    rows.push(...(await store.references(scope, asked.slice(at, at + PER_QUESTION))));
  return rows;
}

/**
 * Returns those of the objects that the scope made: in its turns, or by other calls. At most `MOST_NAMES` ids are looked up.
 *
 * @param rows turns that contain or mention some of them, as `referencesTo` returns them
 * @throws StoreUnavailable if the store does not answer
 */
export async function madeBy(
  store: Pick<ProviderObjects, 'ownObjects'>,
  scope: string,
  ids: readonly string[],
  rows: readonly Pick<ReferencedItem, 'itemId'>[],
): Promise<ReadonlySet<string>> {
  const made = new Set(rows.map(({ itemId }) => itemId));
  const left = ids.slice(0, MOST_NAMES).filter((id) => !made.has(id));
  for (let at = 0; at < left.length; at += PER_QUESTION)
    for (const id of await store.ownObjects(scope, left.slice(at, at + PER_QUESTION))) made.add(id);
  return made;
}

/**
 * Returns the texts of the items from which a response was made, root first: the context before its output. Null if the provider
 * stores the response under this credential, and can list them itself, or if not all of them are stored here.
 *
 * @throws StoreUnavailable if the store does not answer
 */
export async function storedInput(
  store: Pick<SessionReads, 'lookup' | 'lineage'>,
  { scope, credentialFp, responseId }: { scope: string; credentialFp: string; responseId: string },
): Promise<readonly string[] | null> {
  const { anchor } = await store.lookup({ scope, anchor: responseId, tokenSessionId: null, hardKey: null });
  if (anchor === null || (anchor.turn.storedUpstream && anchor.turn.credentialFp === credentialFp)) return null;
  const line = await store.lineage(scope, anchor.turn.id);
  if (line[0]?.turn.parentTurnId !== null) return null;
  const texts: string[] = [];
  for (const { turn, input, output } of line) {
    if (input === null || output === null) return null;
    texts.push(...elementTexts(input), ...(turn.id === anchor.turn.id ? [] : elementTexts(output)));
  }
  return texts;
}

/**
 * Loads the history of the turn's parent. Returns null without a parent, or if the history is not exact.
 *
 * @throws StoreUnavailable if the store does not answer
 */
export async function loadHistory(store: SessionReads, turn: Turn): Promise<readonly string[] | null> {
  return turn.parent === null ? null : itemsOf(await store.lineage(turn.evidence.scope, turn.parent.id));
}

/** Returns whether the provider stores the parent's response and accepts it as an anchor from this credential. */
export function anchorStored(turn: Turn): boolean {
  return (
    !turn.anchorRefused &&
    turn.parent !== null &&
    turn.parent.storedUpstream &&
    turn.parent.credentialFp === turn.evidence.credentialFp
  );
}

/** The line with which a request's items were compared last: to decide about a request and to place it takes the same answer. */
const compared = new WeakMap<Turn['items'], { line: Line; count: number | null }>();

/** Returns how many of a request's first items are exactly the line; null if the request does not continue it. */
export function countOf(line: Line | null, items: Turn['items']): number | null {
  if (line === null) return null;
  const before = compared.get(items);
  if (before?.line === line) return before.count;
  const count = continuedBy(line, items);
  compared.set(items, { line, count });
  return count;
}

/**
 * Admits a turn to a session: fixes parent, expected head and continuation, which become part of the fenced start. If
 * the line that ends at the head is not known, no request can be shown to continue it.
 *
 * @returns false if the turn is anchored to another turn than the head and must be resolved again
 */
export function place(turn: Turn, { headId, head, line }: Pick<TurnQueue, 'headId' | 'head' | 'line'>): boolean {
  const { items } = turn;
  turn.expectedHead = headId;
  const { anchor } = turn.evidence;
  if (anchor !== null) {
    turn.continuation = continueAnchor(items.list);
    // Unknown anchor: pass it through without a parent.
    turn.parent = turn.anchor;
    return turn.anchor === null || turn.anchor.id === turn.expectedHead;
  }
  // The head, or the deepest known ancestor. Using an ancestor that is not the head only avoids storing its items
  // again.
  let match: { row: TurnRow | null; line: Line | null; count: number } | null = null;
  for (const known of [{ row: head, line }, turn.ancestor]) {
    if (!known) continue;
    const count = countOf(known.line, items);
    if (count !== null && (match === null || count > match.count)) match = { ...known, count };
  }
  const { responseId = null, contextFp = '' } = match?.row ?? {};
  const from = match && { end: { responseId, contextFp }, count: match.count };
  turn.continuation = continueLine(turn.evidence.contextFp, items.list, from);
  turn.parent = match?.row ?? null;
  turn.parentLine = match?.line ?? null;
  return true;
}

/** Plan of a turn that was not sent yet, with everything that it depends on and that may change until then. */
interface Plan {
  from: readonly unknown[];
  wire: WireForm;
  composed: { turnState: string | null; frame: string; bytes: number } | null;
}

const planned = new WeakMap<Turn, Plan>();

function planOf(turn: Turn, socketAnchor: string | null): Plan {
  const { continuation, parent, expectedHead, anchorRefused, history, contents } = turn;
  const from = [socketAnchor, continuation, parent, expectedHead, anchorRefused, history, contents];
  const before = planned.get(turn);
  if (before?.from.every((value, nth) => value === from[nth])) return before;
  const plan: Plan = { from, wire: wireOf(turn, socketAnchor), composed: null };
  planned.set(turn, plan);
  return plan;
}

/**
 * Returns the form in which this turn is sent on a socket that can continue from `socketAnchor`.
 *
 * @param socketAnchor response id from which the socket can continue; null for a fresh socket
 */
export const planFor = (turn: Turn, socketAnchor: string | null): WireForm => planOf(turn, socketAnchor).wire;

function wireOf(turn: Turn, socketAnchor: string | null): WireForm {
  const { anchor } = turn.evidence;
  const { request } = turn;
  if (anchor !== null && turn.parent === null) {
    // Unknown anchor: only the provider may know it, and the credential is the client's own. Send it unchanged.
    return { form: 'delta', previousResponseId: anchor, ...inputAsSent(request) };
  }
  return planWire({
    request,
    continuation: turn.continuation!,
    parentResponseId: turn.parent?.responseId ?? null,
    // A socket can only continue the head. Providers may reuse ids, so an equal id does not prove that another turn is
    // held.
    socketAnchor: turn.parent?.id === turn.expectedHead ? socketAnchor : null,
    anchorStored: anchorStored(turn),
    history: turn.history,
    contents: turn.contents,
  });
}

/** Returns whether one list of hashes is a non-empty prefix of the other. */
function shareBeginning(one: readonly string[], other: readonly string[]): boolean {
  const length = Math.min(one.length, other.length);
  return length > 0 && one.slice(0, length).every((hash, index) => hash === other[index]);
}

/**
 * Returns whether a request under a shared session header belongs to the conversation of this session: it repeats
 * or extends a running, waiting or undelivered turn, carries the same client turn id, or its items continue the
 * session's line or end within it.
 */
export function isRelated(turn: Turn, { current, undelivered, waiting, line }: TurnQueue): boolean {
  for (const other of [current ?? undelivered, ...waiting]) {
    if (!other) continue;
    const { requestFp, clientTurnId } = other.evidence;
    if (requestFp === turn.evidence.requestFp) return true;
    if (clientTurnId !== null && clientTurnId === turn.evidence.clientTurnId) return true;
    if (other.evidence.anchor === null && shareBeginning(other.items.hashes, turn.items.hashes)) return true;
  }
  return relate(line, turn.items) !== null;
}
