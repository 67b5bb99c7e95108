import { arrayText } from '../json.ts';
import type { TurnResult, TurnRow } from '../store/port.ts';
import { EMPTY, extend } from '../transcript/fingerprint.ts';
import { keptOutput, replayClassOf } from '../transcript/replay.ts';
import { shownItems } from '../transcript/shown.ts';
import { bareResult } from './commits.ts';
import type { LaneIdentity } from './lane.ts';
import type { Turn } from './turn.ts';

/**
 * What a turn leaves behind: the result to settle, and the row it becomes if it is a head.
 * Only `completed` and `incomplete` turns have content; nothing can ever continue the others.
 */
export function turnResult(
  turn: Turn,
  lane: LaneIdentity & { storedBytes: number },
  mostBytes: number,
): { result: TurnResult; row: TurnRow | null } {
  const state = turn.ending?.state ?? 'lost';
  const error = turn.ending?.error ?? (turn.ending?.fault ? { code: turn.ending.fault } : null);
  if (state !== 'completed' && state !== 'incomplete')
    return { result: bareResult(state, turn.usage, error), row: null };

  const { evidence, parent, continuation } = turn;
  const added = continuation?.items ?? [];
  const input = added.map(({ value }) => value);
  const { compacted, items: kept } = keptOutput(turn.output.map(({ value }) => value));
  const shown = shownItems(kept, turn.hideEncrypted);
  // A foreign anchor's lineage is not ours to know: what precedes these items has no fingerprint.
  const unknownPast = evidence.anchor !== null && parent === null;
  // A background response that still runs at the provider: what it will say is not known here.
  const unknownOutput = evidence.passThrough === 'background' && turn.ending?.fault != null;
  const known = !unknownPast && !unknownOutput;
  const pastKnown = parent === null || (parent.transcriptFp !== null && parent.itemCount !== null);
  const asked = () => (compacted ? EMPTY : (turn.chain?.at(-1) ?? extend(parent?.transcriptFp ?? EMPTY, input)));
  const transcriptFp = known && (pastKnown || compacted) ? extend(asked(), shown) : null;
  const before = compacted ? 0 : (parent?.itemCount ?? 0) + input.length;
  const itemCount = transcriptFp === null ? null : before + shown.length;
  const texts = (written: typeof added) => arrayText(written.map(({ json }) => json));
  const items = { input: texts(added), output: texts(turn.output) };
  const bytes = Buffer.byteLength(items.input) + Buffer.byteLength(items.output);
  // A line that has grown beyond measure is not stored any further: then it cannot be said again either.
  const tooMuch = lane.storedBytes + bytes > mostBytes;
  if (!tooMuch) lane.storedBytes += bytes;
  const replay =
    !known || tooMuch
      ? 'anchor_only'
      : replayClassOf({
          input,
          output: turn.output.map(({ value }) => value),
          body: turn.request.body,
          parent: parent?.replay ?? null,
        });
  const result: TurnResult = {
    state,
    responseId: turn.responseId,
    items: tooMuch ? null : items,
    transcriptFp,
    itemCount,
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
    itemCount,
    replay,
    storedUpstream: evidence.store,
    credentialFp: evidence.credentialFp,
    clientTurnId: evidence.clientTurnId,
  };
  return { result, row };
}
