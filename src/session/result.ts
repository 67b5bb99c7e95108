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

/** The last turn of a session's line, as the session knows it. */
export interface Head {
  row: TurnRow;
  /** Null when the forms of some ancestor are not known here. */
  line: Line | null;
  /** Fingerprints under which requests find the turn. */
  places: readonly string[];
}

const textsOf = (items: readonly Written<Item>[]) => items.map(({ json }) => json);
/** Characters and bytes of the array of these texts, its brackets and commas included. */
const lengthOf = (texts: readonly string[]) => texts.reduce((sum, text) => sum + text.length + 1, 1);
const bytesOf = (texts: readonly string[]) => texts.reduce((sum, text) => sum + Buffer.byteLength(text) + 1, 1);
/** Characters whose bytes are counted. */
const COUNTED_UP_TO = 1_048_576;
const begins = (forms: TurnForms) => forms.begins.length > 0;
/** What an item adds to a chain. */
const linkOf = (value: Item): Pick<ReadItem, 'hash' | 'fromClient'> => readItem({ value, json: '' });
const valuesOf = (items: readonly { value: Item }[]) => items.map(({ value }) => value);

/** How later requests find a turn, and how they are recognised as its continuation. */
interface Recognition {
  forms: TurnForms;
  clientFp: string | null;
  itemCount: number | null;
  places: readonly string[];
  itemIds: readonly string[];
}

/** Bytes of a turn's input. Those of a long one follow from its share of the body: counting them takes as long as copying. */
function inputBytes({ request }: Turn, input: readonly string[]): number {
  const length = lengthOf(input);
  return length <= COUNTED_UP_TO ? bytesOf(input) : Math.ceil((request.bytes * length) / request.text.length);
}

/** More places are not stored for a turn. */
const MOST_PLACES = 3;

/**
 * What the turn's transcript is recognised by. Both forms of the output count as shown to the client: identity is taken
 * from what it saw, so encrypted content that it did not ask for is no part of it.
 */
function recognise(turn: Turn): Recognition {
  const { parent, items: read, evidence } = turn;
  const asked = turn.continuation?.items ?? [];
  const shown = (items: readonly Item[]) => shownItems(items, turn.hideEncrypted);
  const streamed = shown(valuesOf(turn.streamed));
  const listed = turn.listed === null || turn.listed.length === 0 ? null : shown(valuesOf(turn.listed));
  const output = streamed.length > 0 ? streamed : (listed ?? []);
  const links = output.map(linkOf);
  // What a client resends whole is chained as it sent it; an anchored one adds to what is known.
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
    // A later anchored turn goes on from the context as the provider now has it.
    clientFp: begun ?? whole,
    itemCount:
      (compacted ? 0 : evidence.anchor === null ? read.hashes.length : (parent?.itemCount ?? 0) + asked.length) +
      kept.length,
    places: [...new Set(places)].slice(0, MOST_PLACES),
    // References outside this line are the provider's to resolve, which it does for what it keeps.
    itemIds: [...new Set([...made, ...(evidence.store ? (ids as string[]) : [])])],
  };
}

/** What is stored of why the turn ended as it did. */
export function errorOf({ ending }: Turn): unknown {
  if (ending?.error) return keptError(ending.error);
  return ending?.fault ? { code: ending.fault } : null;
}

/** What a client may name all the same of a turn that it was shown only in part: Codex sends such items again. */
function shownBeforeItFailed({ evidence, streamed, hideEncrypted }: Turn): readonly string[] {
  return evidence.credentialIsClients ? [] : namesMade(shownItems(valuesOf(streamed), hideEncrypted));
}

/**
 * What a turn leaves behind: the result to settle, and the row it becomes if it is a head.
 * Only `completed` and `incomplete` turns have content; nothing can ever continue the others.
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
  // What precedes these items is not ours to know behind a foreign anchor or in a conversation at the provider.
  const unknownPast = (evidence.anchor !== null && parent === null) || turn.request.body.conversation != null;
  // A background response that still runs at the provider: what it will say is not known here.
  const unknownOutput = evidence.passThrough === 'background' && turn.ending?.fault != null;
  const known = !unknownPast && !unknownOutput;
  const found = known ? recognise(turn) : null;
  const [transcriptFp = null, secondFp = null, thirdFp = null] = found?.places ?? [];
  const items = { input: textsOf(input), output: textsOf(turn.output) };
  const bytes = inputBytes(turn, items.input) + bytesOf(items.output);
  // A line that has grown beyond measure is not stored any further: then it cannot be said again either.
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

/** The line that the turn ends, as far as the line of its parent is known here. */
function lineAfter({ id, parent, parentLine }: Turn, forms: TurnForms, held: Line | null): Line | null {
  const before = [parentLine, held].find((line) => line?.turnId === parent?.id) ?? null;
  if (parent !== null && before === null)
    return begins(forms) ? { turnId: id, forms, parent: null, detached: true } : null;
  return { turnId: id, forms, parent: before };
}
