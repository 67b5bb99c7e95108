import type { SessionEvent } from '../../machines/session.ts';
import { isFields, MOST_LEVELS, nestsDeeperThan, parseExact, type Written } from '../json.ts';
import type { Answer, KeptResponse, SavedState, SessionRef, TurnResult, TurnRow, Writer } from '../store/port.ts';
import {
  EMPTY,
  encodeForms,
  extendChain,
  formsOf,
  type Line,
  placeAfter,
  shownItems,
  type TurnForms,
} from '../transcript/items.ts';
import { keptOutput, replayClassOf } from '../transcript/planner.ts';
import { namesMade } from '../transcript/provider-ids.ts';
import { readItem } from '../transcript/read.ts';
import type { Item, ReadItem } from '../transcript/types.ts';
import type { UpstreamError } from '../upstream/port.ts';
import type { Head, SessionCore } from './core.ts';
import type { Turn } from './turn.ts';

/**
 * Functions that reduce a provider's answer to the part that is kept: remembered, compared, stored or logged. A
 * provider may send anything, and its client gets it unchanged. The kept part has a known shape and size, so that later
 * steps cannot fail on it.
 */

/** Longest response id that is kept, in UTF-16 units; providers pack state into their ids. */
const LONGEST_ID = 8_192;
/** Longest code, type or parameter name of an error that is kept, in UTF-16 units. */
const LONGEST_WORD = 100;
/** Maximum number of counters kept of a usage object; real ones have a few dozen. */
const MOST_COUNTERS = 64;
const USAGE_LEVELS = 3;

/**
 * Returns an output item in the form in which it is kept. Returns null if it is not an object, or nests too deeply:
 * comparison is recursive, and a client could not send such an item back.
 */
export function keptItem(json: string): Written<Item> | null {
  if (nestsDeeperThan(json, MOST_LEVELS)) return null;
  const value = parseExact(json);
  return isFields(value) ? { value: value as Item, json } : null;
}

/** Returns whether the item is `null` and can be left out without loss. */
export const saysNothing = (json: string): boolean => json.trim() === 'null';

/**
 * Returns a response id in the form in which it is kept; null if it is missing, empty or too long to be looked up
 * later.
 */
export function keptId(id: string | null): string | null {
  return id === null || id === '' || id.length > LONGEST_ID ? null : id;
}

/** Returns a short identifier unchanged; null for anything that may hold content. */
const word = (value: unknown): string | null =>
  typeof value === 'string' && value.length <= LONGEST_WORD && /^[\w.:/[\]-]+$/.test(value) ? value : null;

/**
 * Returns the counters of a usage object: numbers and flags, in objects. Texts are left out, because usage is logged and
 * one could hold content. Null if `usage` is not an object.
 */
export function keptUsage(usage: unknown): Record<string, unknown> | null {
  let left = MOST_COUNTERS;
  const copy = (value: unknown, levels: number): unknown => {
    if (typeof value === 'number' || typeof value === 'boolean' || value === null) return value;
    if (!isFields(value) || levels === 0) return undefined;
    const kept = new Map<string, unknown>();
    for (const [name, each] of Object.entries(value)) {
      if (left === 0) break;
      const counter = word(name) === null ? undefined : copy(each, levels - 1);
      if (counter === undefined) continue;
      left -= 1;
      kept.set(name, counter);
    }
    return Object.fromEntries(kept);
  };
  return isFields(usage) ? (copy(usage, USAGE_LEVELS) as Record<string, unknown>) : null;
}

/**
 * Returns the part of an upstream error that is stored: identifiers only. Its message may echo user content and is only
 * sent to the client.
 */
export function keptError({ status, type, code, param }: UpstreamError): Record<string, unknown> {
  return { status, type: word(type), code: word(code), param: word(param) };
}

/**
 * The commits of a session: each one turns one fenced store call into one machine event. `unknown` means that there is
 * no verdict: the runtime repeats the same call with the same ids until it is answered.
 */
export type CommitReply = { event: SessionEvent } | { unknown: string };

const turnStart = (turn: Turn) => ({
  id: turn.id,
  parentTurnId: turn.parent?.id ?? null,
  shape: turn.evidence.shape,
  requestFp: turn.evidence.requestFp,
  contextFp: turn.evidence.contextFp,
  storedUpstream: turn.evidence.store,
  credentialFp: turn.evidence.credentialFp,
  clientTurnId: turn.evidence.clientTurnId,
});

/** Commits a new session with its keys and its first turn. */
export async function commitCreate(session: SessionCore, turn: Turn): Promise<CommitReply> {
  const { keys, forkHeadId: headTurnId, env } = session;
  const model = typeof turn.request.body.model === 'string' ? turn.request.body.model : null;
  const answer = await env.store.create({
    ...callOf(session),
    keys,
    upstreamId: session.target.id,
    model,
    headTurnId,
    turn: turnStart(turn),
  });
  switch (answer.verdict) {
    case 'ok':
    case 'already':
      return started(session, answer.leaseLeftMs);
    case 'fenced':
      return fenced(session, { type: 'store.not_created' });
    case 'key_taken':
      return { event: { type: 'store.not_created' } };
    default:
      return noVerdict(session, answer, false);
  }
}

/** Commits the start of a turn of an existing session. */
export async function commitStart(session: SessionCore, turn: Turn): Promise<CommitReply> {
  const { expectedHead } = turn;
  const answer = await session.env.store.start({ ...callOf(session), expectedHead, turn: turnStart(turn) });
  switch (answer.verdict) {
    case 'ok':
    case 'already':
      return started(session, answer.leaseLeftMs);
    case 'head_moved':
      return { event: { type: 'store.head_moved' } };
    case 'busy':
      return { event: { type: 'store.busy' } };
    case 'fenced':
      return fenced(session, { type: 'store.fenced' });
    case 'ended':
      return { event: { type: 'store.fenced' } };
    default:
      return noVerdict(session, answer, true);
  }
}

/** Commits the end of a turn. */
export function commitSettle(session: SessionCore, turn: Turn, result: TurnResult): Promise<CommitReply> {
  return settle(session, turn.id, result, () => ({ type: 'store.settled', socketOpen: session.socket.open }));
}

/** Settles as `lost` an active turn of this epoch that no actor runs, so that the session can start another one. */
export function commitOrphan(session: SessionCore, turnId: string): Promise<CommitReply> {
  return settle(session, turnId, bareResult('lost', null), () => ({ type: 'store.cleared' }));
}

async function settle(
  session: SessionCore,
  turnId: string,
  result: TurnResult,
  settled: () => SessionEvent,
): Promise<CommitReply> {
  const answer = await session.env.store.settle({ ...callOf(session), turnId, result });
  switch (answer.verdict) {
    case 'ok':
    case 'already':
      return { event: settled() };
    case 'branch':
      return { event: { type: 'store.fenced' } };
    default:
      return noVerdict(session, answer, true);
  }
}

/** Returns what every fence call of a session contains. It is read when the call is made. */
function callOf(session: SessionCore): Writer & SessionRef & { epoch: number; saved: SavedState } {
  const { workerId: me, nonce, scope, id: sessionId, epoch } = session;
  return { me, nonce, scope, sessionId, epoch, saved: session.saved() };
}

/**
 * A late heartbeat is not a lost lease: while the lease is being renewed the answer counts as unknown. The repeated
 * start is answered as already made.
 *
 * @param leaseLeftMs rest of the worker's lease as reported by the store, in milliseconds
 */
function started(session: SessionCore, leaseLeftMs: number): CommitReply {
  const leaseValid = leaseLeftMs >= session.env.config.deadlines.leaseMargin && session.maySend;
  if (!leaseValid && awaitHeartbeat(session, false)) return { unknown: 'the lease is being renewed' };
  return { event: { type: 'store.started', socketOpen: session.socket.open, leaseValid } };
}

function fenced(session: SessionCore, event: SessionEvent): CommitReply {
  return awaitHeartbeat(session, true) ? { unknown: "the worker's row is being looked at" } : { event };
}

/**
 * Requests a heartbeat if only the lease is missing, or if the worker's own row may be lost.
 *
 * @param isFenced true if the store answered that this worker does not own the session, or has no row
 * @returns false if a heartbeat could not change the result
 */
function awaitHeartbeat(session: SessionCore, isFenced: boolean): boolean {
  const { worker, clock } = session.env;
  // A dead identity cannot be renewed. If the store still answers `fenced` after a confirmed heartbeat, the fence is
  // final.
  const confirmed = !isFenced || (session.fencedAt !== null && worker.confirmedAt >= session.fencedAt);
  if (!session.ownsWorkerId || (confirmed && session.maySend)) {
    session.fencedAt = null;
    return false;
  }
  if (isFenced) session.fencedAt ??= clock.now();
  worker.doubt();
  return true;
}

function noVerdict(
  session: SessionCore,
  answer: Extract<Answer<never>, { reason: string }>,
  rowExists: boolean,
): CommitReply {
  if (answer.verdict === 'unknown') return { unknown: answer.reason };
  const { id, epoch, env } = session;
  session.rejection = answer.reason.slice(0, 300);
  env.log.error({ session: id, epoch, reason: session.rejection }, 'the store rejected a commit');
  return { event: { type: 'store.rejected', rowExists } };
}

/**
 * Returns the columns of a turn that are read from the response of its terminal event, in the form in which they are kept.
 *
 * @param response null for a turn without one
 */
export function keptResponse(response: { usage?: unknown } | null | undefined): KeptResponse {
  return { usage: keptUsage(response?.usage) };
}

/** Returns a turn result without content. */
export function bareResult(state: TurnResult['state'], kept: KeptResponse | null, error: unknown = null): TurnResult {
  return {
    state,
    responseId: null,
    items: null,
    transcriptFp: null,
    clientFp: null,
    secondFp: null,
    thirdFp: null,
    forms: null,
    itemIds: [],
    replay: 'never',
    ...(kept ?? keptResponse(null)),
    error,
  };
}

const textsOf = (items: readonly Written<Item>[]) => items.map(({ json }) => json);
/** Length in characters of the JSON array of these texts, including brackets and commas. `bytesOf`: the same in bytes. */
const lengthOf = (texts: readonly string[]) => texts.reduce((sum, text) => sum + text.length + 1, 1);
const bytesOf = (texts: readonly string[]) => texts.reduce((sum, text) => sum + Buffer.byteLength(text) + 1, 1);
/** Inputs up to this number of characters have their bytes counted; larger ones are estimated. */
const COUNTED_UP_TO = 1_048_576;
const begins = (forms: TurnForms) => forms.begins.length > 0;
/** Returns the part of an item that a chain needs. */
const linkOf = (value: Item): Pick<ReadItem, 'hash' | 'fromClient'> => readItem({ value, json: '' });
const valuesOf = (items: readonly { value: Item }[]) => items.map(({ value }) => value);

/** Data by which later requests find a turn and are recognised as its continuation. */
interface Recognition {
  forms: TurnForms;
  clientFp: string | null;
  places: readonly string[];
  itemIds: readonly string[];
}

/**
 * Returns the number of bytes of a turn's input. For a long input it is estimated from the input's share of the body,
 * because counting would take as long as copying.
 */
function inputBytes({ request }: Turn, input: readonly string[]): number {
  const length = lengthOf(input);
  return length <= COUNTED_UP_TO ? bytesOf(input) : Math.ceil((request.bytes * length) / request.text.length);
}

/** Maximum number of places stored for a turn. */
const MOST_PLACES = 3;

/** Returns whether the terminal event listed any items, and not just those that were streamed. */
function listsOthers(turn: Turn): turn is Turn & { listed: readonly Written<Item>[] } {
  const { streamed, listed } = turn;
  if (listed === null || listed.length === 0) return false;
  return listed.length !== streamed.length || listed.some((item, nth) => item !== streamed[nth]);
}

/**
 * Computes the data by which a turn's transcript is recognised. Both forms of the output count as shown to the client.
 * Identity is based on what the client saw, so encrypted content that it did not request is left out.
 */
function recognise(turn: Turn): Recognition {
  const { parent, items: read, evidence } = turn;
  const asked = turn.continuation?.items ?? [];
  const shown = (items: readonly Item[]) => shownItems(items, turn.hideEncrypted);
  const streamed = shown(valuesOf(turn.streamed));
  const listed = listsOthers(turn) ? shown(valuesOf(turn.listed)) : null;
  const output = streamed.length > 0 ? streamed : (listed ?? []);
  const links = output.map(linkOf);
  // A full request is chained as the client sent it; an anchored one extends the known chain of its parent.
  const before = evidence.anchor === null ? null : (parent?.clientFp ?? null);
  const asSent = evidence.anchor === null ? read.chain.at(-1)! : before && extendChain(before, asked);
  const whole = asSent && extendChain(asSent, links);

  const { compacted, items: kept } = keptOutput(output);
  const begun = compacted ? extendChain(EMPTY, links.slice(output.length - kept.length)) : null;
  const lasts = [output.at(-1) ?? asked.at(-1)?.value, listed?.at(-1)].filter((item) => item !== undefined);
  const lastId = lasts.at(-1)?.id;
  const reference = typeof lastId === 'string' ? { type: 'item_reference', id: lastId } : null;
  const placesOf = (chain: string | null, items: readonly Item[]) =>
    chain === null ? [] : items.map((last) => placeAfter(chain, last));
  const places = [
    ...placesOf(whole, lasts),
    ...placesOf(begun, lasts),
    ...placesOf(whole, reference ? [reference] : []),
  ];
  const all = [...streamed, ...(listed ?? [])];
  const ids = all.map(({ id }) => id).filter((id) => typeof id === 'string' && id !== '');
  const made = evidence.credentialIsClients ? [] : namesMade(all);
  return {
    forms: formsOf({ input: asked, streamed, listed }),
    // A later anchored turn continues from the context that the provider now has.
    clientFp: begun ?? whole,
    places: [...new Set(places)].slice(0, MOST_PLACES),
    // The provider resolves references from other lines, as long as it stores the response.
    itemIds: [...new Set([...made, ...(evidence.store ? (ids as string[]) : [])])],
  };
}

/** Returns the error that is stored for a turn's end; null without one. */
export function errorOf({ ending }: Turn): unknown {
  if (ending?.error) return keptError(ending.error);
  return ending?.fault ? { code: ending.fault } : null;
}

/**
 * Returns ids that a client may still reference although the turn failed: of items that it was shown. Codex resends
 * such items.
 */
function shownBeforeItFailed({ evidence, streamed, hideEncrypted }: Turn): readonly string[] {
  return evidence.credentialIsClients ? [] : namesMade(shownItems(valuesOf(streamed), hideEncrypted));
}

/**
 * Returns the result to settle for a turn, and the row that the turn becomes if it is a head. Only `completed` and
 * `incomplete` turns have content; the others can never be continued.
 */
export function turnResult(turn: Turn, session: SessionCore): { result: TurnResult; head: Head | null } {
  const state = turn.ending?.state ?? 'lost';
  const error = errorOf(turn);
  if (state !== 'completed' && state !== 'incomplete')
    return { result: { ...bareResult(state, turn.kept, error), itemIds: shownBeforeItFailed(turn) }, head: null };

  const { evidence, parent, continuation } = turn;
  const input = continuation?.items ?? [];
  // The items before these are unknown behind an anchor that is not in the store, or in a provider-side conversation.
  const unknownPast = (evidence.anchor !== null && parent === null) || turn.request.body.conversation != null;
  // The output of a background response that is still running at the provider is unknown here.
  const unknownOutput = evidence.passThrough === 'background' && turn.ending?.fault != null;
  const known = !unknownPast && !unknownOutput;
  const found = known ? recognise(turn) : null;
  const [transcriptFp = null, secondFp = null, thirdFp = null] = found?.places ?? [];
  const items = { input: textsOf(input), output: textsOf(turn.output) };
  const bytes = inputBytes(turn, items.input) + bytesOf(items.output);
  // A line above the size limit is not stored any further; after that it cannot be resent either.
  const { turns } = session;
  const tooMuch = turns.storedBytes + bytes > session.env.config.limits.transcriptBytes;
  if (!tooMuch) turns.storedBytes += bytes;
  const replay =
    !known || tooMuch || turn.inexact
      ? 'anchor_only'
      : replayClassOf({
          input,
          output: valuesOf(turn.output),
          body: turn.request.body,
          parent: parent?.replay ?? null,
        });
  const result: TurnResult = {
    state,
    responseId: turn.responseId,
    items: tooMuch ? null : items,
    transcriptFp,
    clientFp: found?.clientFp ?? null,
    secondFp,
    thirdFp,
    forms: found && encodeForms(found.forms),
    itemIds: found?.itemIds ?? [],
    replay,
    ...(turn.kept ?? keptResponse(null)),
    error,
  };
  const row: TurnRow = {
    id: turn.id,
    sessionId: session.id,
    scope: session.scope,
    parentTurnId: parent?.id ?? null,
    epoch: session.epoch,
    authorWorkerId: session.workerId,
    shape: evidence.shape,
    state,
    responseId: turn.responseId,
    requestFp: evidence.requestFp,
    contextFp: evidence.contextFp,
    transcriptFp,
    clientFp: result.clientFp,
    replay,
    storedUpstream: evidence.store,
    credentialFp: evidence.credentialFp,
    clientTurnId: evidence.clientTurnId,
  };
  return {
    result,
    head: { row, line: found && lineAfter(turn, found.forms, turns.line), places: found?.places ?? [] },
  };
}

/**
 * Returns the line that ends at the turn. Null if the line of its parent is unknown here, unless the turn's output
 * begins with a compaction.
 */
function lineAfter({ id, parent, parentLine }: Turn, forms: TurnForms, held: Line | null): Line | null {
  const before = [parentLine, held].find((line) => line?.turnId === parent?.id) ?? null;
  if (parent !== null && before === null)
    return begins(forms) ? { turnId: id, forms, parent: null, detached: true } : null;
  return { turnId: id, forms, parent: before };
}
