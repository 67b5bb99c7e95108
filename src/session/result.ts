import { arrayText, type Written } from '../json.ts';
import type { TurnResult, TurnRow } from '../store/port.ts';
import {
  EMPTY,
  encodeForms,
  extendChain,
  formsOf,
  itemHash,
  type Line,
  placeAfter,
  type TurnForms,
} from '../transcript/line.ts';
import { keptOutput, replayClassOf } from '../transcript/replay.ts';
import { shownItems } from '../transcript/shown.ts';
import type { Item } from '../transcript/types.ts';
import { bareResult } from './commits.ts';
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

const arrayOf = (items: readonly Written<Item>[]) => arrayText(items.map(({ json }) => json));
const valuesOf = (items: readonly { value: Item }[]) => items.map(({ value }) => value);

/** How later requests find a turn, and how they are recognised as its continuation. */
interface Recognition extends Pick<TurnResult, 'transcriptFp' | 'clientFp' | 'listedFp' | 'referenceFp' | 'itemIds'> {
  forms: TurnForms;
  itemCount: number | null;
}

/**
 * What the turn's transcript is recognised by. Both forms of the output count as shown to the client: identity is taken
 * from what it saw, so encrypted content that it did not ask for is no part of it.
 *
 * @param past client chain up to the turn; null when it is not known
 */
function recognise(turn: Turn, past: string | null): Recognition {
  const asked = valuesOf(turn.continuation?.items ?? []);
  const shown = (items: readonly Item[]) => shownItems(items, turn.hideEncrypted);
  const kept = keptOutput(valuesOf(turn.streamed));
  const keptList = turn.listed && keptOutput(valuesOf(turn.listed));
  const root = kept.compacted || (keptList?.compacted ?? false);
  const streamed = shown(kept.items);
  const listed = keptList && keptList.items.length > 0 ? shown(keptList.items) : null;
  const forms = formsOf({ input: asked, streamed, listed, root });

  const output = streamed.length > 0 ? streamed : (listed ?? []);
  const from = root ? EMPTY : past;
  const clientFp = from === null ? null : extendChain(from, root ? output : [...asked, ...output]);
  const place = (last: Item | undefined) =>
    clientFp === null || last === undefined ? null : placeAfter(clientFp, itemHash(last));
  const transcriptFp = place(output.at(-1) ?? (root ? undefined : asked.at(-1)));
  const listedFp = place(listed?.at(-1));
  const lastId = (listed ?? output).at(-1)?.id;
  // The provider resolves references only to what it keeps.
  const stored = turn.evidence.store;
  const itemIds = stored
    ? [...streamed, ...(listed ?? [])].flatMap(({ id }) => (typeof id === 'string' && id !== '' ? [id] : []))
    : [];
  return {
    forms,
    transcriptFp,
    clientFp,
    listedFp: listedFp === transcriptFp ? null : listedFp,
    referenceFp: stored && typeof lastId === 'string' ? place({ type: 'item_reference', id: lastId }) : null,
    itemIds: [...new Set(itemIds)],
    itemCount: clientFp === null ? null : (root ? 0 : asked.length) + output.length,
  };
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
  const error = turn.ending?.error ?? (turn.ending?.fault ? { code: turn.ending.fault } : null);
  if (state !== 'completed' && state !== 'incomplete')
    return { result: bareResult(state, turn.usage, error), head: null };

  const { evidence, parent, continuation } = turn;
  const input = continuation?.items ?? [];
  // A foreign anchor's lineage is not ours to know: what precedes these items has no fingerprint.
  const unknownPast = evidence.anchor !== null && parent === null;
  // A background response that still runs at the provider: what it will say is not known here.
  const unknownOutput = evidence.passThrough === 'background' && turn.ending?.fault != null;
  const known = !unknownPast && !unknownOutput;
  const found = known ? recognise(turn, parent === null ? EMPTY : parent.clientFp) : null;
  const items = { input: arrayOf(input), output: arrayOf(turn.output) };
  const bytes = Buffer.byteLength(items.input) + Buffer.byteLength(items.output);
  // A line that has grown beyond measure is not stored any further: then it cannot be said again either.
  const tooMuch = lane.storedBytes + bytes > mostBytes;
  if (!tooMuch) lane.storedBytes += bytes;
  const replay =
    !known || tooMuch
      ? 'anchor_only'
      : replayClassOf({
          input: valuesOf(input),
          output: valuesOf(turn.output),
          body: turn.request.body,
          parent: parent?.replay ?? null,
        });
  const result: TurnResult = {
    state,
    responseId: turn.responseId,
    items: tooMuch ? null : items,
    transcriptFp: found?.transcriptFp ?? null,
    clientFp: found?.clientFp ?? null,
    listedFp: found?.listedFp ?? null,
    referenceFp: found?.referenceFp ?? null,
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
    transcriptFp: result.transcriptFp,
    clientFp: result.clientFp,
    itemCount: result.itemCount,
    replay,
    storedUpstream: evidence.store,
    credentialFp: evidence.credentialFp,
    clientTurnId: evidence.clientTurnId,
  };
  const { transcriptFp, listedFp, referenceFp } = result;
  const places = [transcriptFp, listedFp, referenceFp].filter((place) => place !== null);
  return { result, head: { row, line: found && lineAfter(turn, found.forms, lane.line), places } };
}

/** The line that the turn ends, as far as the line of its parent is known here. */
function lineAfter({ id, parent, parentLine }: Turn, forms: TurnForms, held: Line | null): Line | null {
  if (parent === null || forms.root) return { turnId: id, forms, parent: null };
  const before = parentLine?.turnId === parent.id ? parentLine : held?.turnId === parent.id ? held : null;
  return before && { turnId: id, forms, parent: before };
}
