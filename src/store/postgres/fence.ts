import { packItems } from '../items-codec.ts';
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
import { faceParameters, json, optionalText, text, turnParameters } from './parameters.ts';
import { fenceCalls } from './sql/fence-calls.ts';

/** The fence over PostgreSQL: each call is one function, one statement, one commit. */
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
        ...faceParameters(c.face),
      ]),

    start: (c) =>
      call<Answer<StartVerdict>>(fenceCalls.start, () => [
        c.sessionId,
        c.me,
        c.nonce,
        c.epoch,
        c.expectedHead,
        ...turnParameters(c.turn),
        ...faceParameters(c.face),
      ]),

    settle(c) {
      const split = splitTurn(c);
      return call<Answer<SettleVerdict>>(fenceCalls.settle, async () => [
        ...(await settleParameters(c, split ?? c.result.items)),
        split && JSON.stringify(split.places),
        split && [...split.shared.keys()],
        split && (await Promise.all([...split.shared.values()].map(packItems))),
        json(c.result.facts),
      ]);
    },

    claim: (c) =>
      call<Answer<ClaimVerdict>>(fenceCalls.claim, () => [c.sessionId, c.me, c.nonce, c.epochRead, c.revisionRead]),

    release: (c) =>
      call<Answer<ReleaseVerdict>>(fenceCalls.release, () => [
        c.sessionId,
        c.me,
        c.nonce,
        c.epoch,
        ...faceParameters(c.face),
      ]),

    close: (c) =>
      call<Answer<CloseVerdict>>(fenceCalls.close, () => [
        c.sessionId,
        c.me,
        c.nonce,
        c.epoch,
        json(c.face.snapshot),
        c.face.machineVersion,
      ]),
  };
}

/** A turn's items without the large ones, which are stored beside them. Null when it has none. */
function splitTurn({ result: { items } }: SettleCall) {
  const input = items && splitItems(items.input);
  const output = items && splitItems(items.output);
  if (!items || (!input && !output)) return null;
  return {
    input: input?.json ?? items.input,
    output: output?.json ?? items.output,
    places: { input: input?.places ?? {}, output: output?.places ?? {} } satisfies SharedPlaces,
    shared: new Map([...(input?.shared ?? []), ...(output?.shared ?? [])]),
  };
}

async function settleParameters(c: SettleCall, items: SettleCall['result']['items']): Promise<unknown[]> {
  const { result } = c;
  const packed = items && [await packItems(items.input), await packItems(items.output)];
  return [
    c.sessionId,
    c.me,
    c.nonce,
    c.epoch,
    c.turnId,
    result.state,
    optionalText(result.responseId),
    packed?.[0] ?? null,
    packed?.[1] ?? null,
    result.transcriptFp,
    result.itemCount,
    result.replay,
    json(result.usage),
    json(result.error),
    result.anchorLost ?? false,
    ...faceParameters(c.face),
  ];
}
