import { usableItemIds } from '../item-ids.ts';
import { packItem, packItems } from '../items-codec.ts';
import type {
  Answer,
  ClaimVerdict,
  CloseVerdict,
  CreateVerdict,
  Fence,
  ReleaseVerdict,
  SettleCall,
  SettleVerdict,
  StartVerdict,
} from '../port.ts';
import { type SharedPlaces, splitItems } from '../shared-items.ts';
import type { Call } from './call.ts';
import { json, optionalText, savedParameters, text, turnParameters } from './parameters.ts';
import { fenceCalls } from './sql/fence-calls.ts';

/** Creates the fence over PostgreSQL: each call is one function, one statement, one commit. */
export function createFence(call: Call): Fence {
  return {
    create: (c) =>
      call<Answer<CreateVerdict>>(fenceCalls.create, () => [
        c.sessionId,
        c.me,
        c.nonce,
        text(c.scope),
        text(c.upstreamId),
        optionalText(c.model),
        c.headTurnId,
        c.keys.map(({ kind }) => kind),
        c.keys.map(({ hash }) => hash),
        ...turnParameters(c.turn),
        ...savedParameters(c.saved),
      ]),

    start: (c) =>
      call<Answer<StartVerdict>>(fenceCalls.start, () => [
        c.sessionId,
        c.me,
        c.nonce,
        c.epoch,
        c.expectedHead,
        ...turnParameters(c.turn),
        ...savedParameters(c.saved),
      ]),

    settle: (c) =>
      call<Answer<SettleVerdict>>(fenceCalls.settle, async () => {
        const split = await splitTurn(c);
        const items = split ?? c.result.items;
        return [
          settleCall(c, split?.places ?? null),
          items && (await packItems(items.input)),
          items && (await packItems(items.output)),
          split && [...split.shared.keys()],
          split && (await Promise.all([...split.shared.values()].map(packItem))),
        ];
      }),

    claim: (c) =>
      call<Answer<ClaimVerdict>>(fenceCalls.claim, () => [c.sessionId, c.me, c.nonce, c.epochRead, c.revisionRead]),

    release: (c) =>
      call<Answer<ReleaseVerdict>>(fenceCalls.release, () => [
        c.sessionId,
        c.me,
        c.nonce,
        c.epoch,
        ...savedParameters(c.saved),
      ]),

    close: (c) =>
      call<Answer<CloseVerdict>>(fenceCalls.close, () => [
        c.sessionId,
        c.me,
        c.nonce,
        c.epoch,
        json(c.saved.snapshot),
        c.saved.machineVersion,
      ]),
  };
}

/** Extracts the large items of a turn, which are stored separately. Null when there are none. */
async function splitTurn({ result: { items } }: SettleCall) {
  const input = items && (await splitItems(items.input));
  const output = items && (await splitItems(items.output));
  if (!items || (!input && !output)) return null;
  return {
    input: input?.items ?? items.input,
    output: output?.items ?? items.output,
    places: { input: input?.places ?? {}, output: output?.places ?? {} } satisfies SharedPlaces,
    shared: new Map([...(input?.shared ?? []), ...(output?.shared ?? [])]),
  };
}

/**
 * Builds the function's JSON argument. JSON written by a provider is passed as text, so that the database need not decode
 * its escapes.
 */
function settleCall({ result, saved, ...c }: SettleCall, places: SharedPlaces | null): string {
  const itemIds = usableItemIds(result.itemIds.map(text));
  return JSON.stringify({
    session: c.sessionId,
    me: c.me,
    nonce: c.nonce,
    epoch: c.epoch,
    turn: c.turnId,
    ended: result.state,
    response_id: optionalText(result.responseId),
    transcript_fp: result.transcriptFp,
    client_fp: result.clientFp,
    second_fp: result.secondFp,
    third_fp: result.thirdFp,
    forms: result.forms,
    item_count: result.itemCount,
    replay: result.replay,
    usage: json(result.usage),
    error: json(result.error),
    facts: json(result.facts),
    shared: json(places),
    item_ids: itemIds.length === 0 ? null : itemIds,
    anchor_lost: result.anchorLost ?? false,
    state: saved.state,
    snapshot: json(saved.snapshot),
    machine_version: saved.machineVersion,
  });
}
