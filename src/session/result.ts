import type { Written } from '../json.ts';
import type { TurnResult, TurnRow } from '../store/port.ts';
import { EMPTY, encodeForms, extendChain, formsOf, type Line, placeAfter, type TurnForms } from '../transcript/line.ts';
import { namesMade } from '../transcript/provider-ids.ts';
import { readItem } from '../transcript/read.ts';
import { keptOutput, replayClassOf } from '../transcript/replay.ts';
import { shownItems } from '../transcript/shown.ts';
import type { Item, ReadItem } from '../transcript/types.ts';
import { bareResult } from './commits.ts';
import { keptError } from './kept.ts';
import type { LaneIdentity } from './lane.ts';
import type { Turn } from './turn.ts';

/** The last turn of a session's line, as known to the session. */
export interface Head {
  row: TurnRow;
  /** Null if the forms of some ancestor are not known here. */
  line: Line | null;
  /** Fingerprints by which requests find the turn. */
  places: readonly string[];
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
  itemCount: number | null;
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

/**
 * Computes the data by which a turn's transcript is recognised. Both forms of the output count as shown to the client.
 * Identity is based on what the client saw, so encrypted content that it did not request is left out.
 */
function recognise(turn: Turn): Recognition {
  const { parent, items: read, evidence } = turn;
  const asked = turn.continuation?.items ?? [];
  const shown = (items: readonly Item[]) => shownItems(items, turn.hideEncrypted);
  const streamed = shown(valuesOf(turn.streamed));
  const listed = turn.listed === null || turn.listed.length === 0 ? null : shown(valuesOf(turn.listed));
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
    itemCount:
      (compacted ? 0 : evidence.anchor === null ? read.hashes.length : (parent?.itemCount ?? 0) + asked.length) +
      kept.length,
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
 *
 * @param mostBytes maximum number of bytes of items stored for one line
 */
export function turnResult(
  turn: Turn,
  lane: LaneIdentity & { storedBytes: number; readonly line: Line | null },
  mostBytes: number,
): { result: TurnResult; head: Head | null } {
  const state = turn.ending?.state ?? 'lost';
  const error = errorOf(turn);
  if (state !== 'completed' && state !== 'incomplete')
    return { result: { ...bareResult(state, turn.usage, error), itemIds: shownBeforeItFailed(turn) }, head: null };

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
  const tooMuch = lane.storedBytes + bytes > mostBytes;
  if (!tooMuch) lane.storedBytes += bytes;
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
    itemCount: found?.itemCount ?? null,
    replay,
    usage: turn.usage,
    error,
  };
  const row: TurnRow = {
    id: turn.id,
    sessionId: lane.id,
    scope: lane.scope,
    parentTurnId: parent?.id ?? null,
    epoch: lane.epoch,
    authorWorkerId: lane.workerId,
    shape: evidence.shape,
    state,
    responseId: turn.responseId,
    requestFp: evidence.requestFp,
    contextFp: evidence.contextFp,
    transcriptFp,
    clientFp: result.clientFp,
    itemCount: result.itemCount,
    replay,
    storedUpstream: evidence.store,
    credentialFp: evidence.credentialFp,
    clientTurnId: evidence.clientTurnId,
  };
  return { result, head: { row, line: found && lineAfter(turn, found.forms, lane.line), places: found?.places ?? [] } };
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
