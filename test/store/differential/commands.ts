import type { SavedState, SessionStore, TurnResult } from '../../../src/store/port.ts';
import type { MemoryDatabase } from '../../../src/testing/memory-store/index.ts';
import type { Random } from '../../support/random.ts';
import { EXPIRED_MS, LEASE_MS, saved, turnStart } from '../calls.ts';

/** A call of the store's port, ready to be made on any store. */
export interface Command {
  name: keyof SessionStore;
  args: readonly unknown[];
}

/** The few ids that the commands of one run use, so that they conflict often. */
export interface Universe {
  workers: readonly string[];
  sessions: readonly string[];
  turns: readonly string[];
  nonces: readonly string[];
  keys: readonly string[];
  responses: readonly string[];
  scopes: readonly string[];
}

/** @param run makes the ids unique among all runs on the same database */
export function universeOf(run: string): Universe {
  const some = (kind: string, count: number) => Array.from({ length: count }, (_, nth) => `${run}-${kind}${nth}`);
  return {
    workers: some('w', 3),
    sessions: some('s', 3),
    turns: some('t', 9),
    nonces: some('n', 3),
    keys: some('k', 3),
    responses: some('r', 5),
    scopes: some('scope', 2),
  };
}

/** Fingerprints of places, and item ids at the provider: few, so that they collide. */
export const PLACES = ['fp1', 'fp2', 'fp3'] as const;
export const ITEM_IDS = ['msg_1', 'msg_2', 'rs_1'] as const;

const usages = [null, { input_tokens: 1 }, 'text', 0, [null], { odd: '\u0000 \ud800' }];
const states: readonly SavedState['state'][] = ['live', 'reconnecting', 'stale'];

function resultOf(random: Random, universe: Universe): TurnResult {
  const state = random.pick(['completed', 'completed', 'incomplete', 'failed', 'cancelled', 'lost'] as const);
  const content = (state === 'completed' || state === 'incomplete') && random.chance(0.8);
  const large = random.chance(0.1) ? 'x'.repeat(70_000) : 'y';
  return {
    state,
    responseId: random.chance(0.7) ? random.pick(universe.responses) : null,
    items: content ? { input: [JSON.stringify({ text: large })], output: ['{"text":"\\u0000"}'] } : null,
    transcriptFp: content ? random.pick(PLACES) : null,
    clientFp: content ? random.pick(PLACES) : null,
    secondFp: content && random.chance(0.5) ? random.pick(PLACES) : null,
    thirdFp: content && random.chance(0.5) ? random.pick(PLACES) : null,
    forms: content ? random.pick(['1f', '2f']) : null,
    // Also for ends without other data: what is written must be stored with the end that it came with.
    itemIds: ITEM_IDS.filter(() => random.chance(0.3)),
    replay: content ? random.pick(['exact', 'anchor_only'] as const) : 'never',
    usage: random.pick(usages),
    error: random.pick(usages),
    anchorLost: random.chance(0.1),
  };
}

const scopeOf = ({ sessions, scopes }: Universe, sessionId: string) =>
  scopes[sessions.indexOf(sessionId) % scopes.length]!;

/** Returns a call that is mostly one a worker would make, and often an invalid one. `rows` is the current state. */
export function commandOf(random: Random, universe: Universe, rows: MemoryDatabase): Command {
  const sessionId = random.pick(universe.sessions);
  const session = [...rows.sessions.values()].find(({ id }) => id === sessionId);
  const honest = random.chance(0.8);
  const me = honest && session?.ownerWorkerId ? session.ownerWorkerId : random.pick(universe.workers);
  const nonce = honest && session?.ownerNonce ? session.ownerNonce : random.pick(universe.nonces);
  const epoch = honest && session ? session.epoch : random.integer(1, 3);
  // Each session is of one scope, as random ids are; a call that names another scope must find nothing.
  const scope = random.chance(0.05) ? random.pick(universe.scopes) : scopeOf(universe, sessionId);
  const writer = { me, nonce, scope, sessionId, epoch, saved: saved(random.pick(states)) };
  const turnId = honest && session?.activeTurnId ? session.activeTurnId : random.pick(universe.turns);
  const used = new Set([...rows.turns.values()].map(({ id }) => id));
  const unused = universe.turns.filter((id) => !used.has(id));
  const begun = (id: string) =>
    turnStart({
      id,
      parentTurnId: random.chance(0.3) ? random.pick(universe.turns.filter((other) => other !== id)) : null,
      storedUpstream: random.chance(0.3),
    });
  const newTurn = begun(honest && unused.length > 0 ? random.pick(unused) : random.pick(universe.turns));
  const fence: Record<string, () => Command> = {
    create: () => {
      const known = new Set([...rows.sessions.values()].map((each) => each.id));
      const fresh = universe.sessions.filter((each) => !known.has(each));
      const id = honest && fresh.length > 0 ? random.pick(fresh) : sessionId;
      const keys = universe.keys.filter(() => random.chance(0.3)).map((hash) => ({ kind: 'thread' as const, hash }));
      const call = {
        ...writer,
        me: random.pick(universe.workers),
        sessionId: id,
        scope: scopeOf(universe, id),
        keys,
      };
      const headTurnId = random.chance(0.2) ? random.pick(universe.turns) : null;
      return { name: 'create', args: [{ ...call, upstreamId: 'up', model: 'm', headTurnId, turn: newTurn }] };
    },
    start: () => {
      const expectedHead = honest && session ? session.headTurnId : random.pick([null, ...universe.turns]);
      return { name: 'start', args: [{ ...writer, expectedHead, turn: newTurn }] };
    },
    settle: () => ({ name: 'settle', args: [{ ...writer, turnId, result: resultOf(random, universe) }] }),
    claim: () => {
      const call = { me: random.pick(universe.workers), nonce: random.pick(universe.nonces), scope, sessionId };
      const revisionRead = honest && session ? session.revision : random.integer(1, 6);
      return { name: 'claim', args: [{ ...call, epochRead: random.chance(0.15) ? epoch - 1 : epoch, revisionRead }] };
    },
    release: () => ({ name: 'release', args: [writer] }),
    close: () => ({ name: 'close', args: [writer] }),
  };
  const worker = random.pick(universe.workers);
  const leaseMs = random.chance(0.3) ? EXPIRED_MS : LEASE_MS;
  const others: readonly (() => Command)[] = [
    () => ({
      name: 'register',
      args: [{ id: worker, internalUrl: 'http://a', livenessPath: null, version: 'v', leaseMs }],
    }),
    () => ({
      name: 'heartbeat',
      args: [
        worker,
        random.pick(['serving', 'draining']),
        leaseMs,
        ...(random.chance(0.5) ? [{ internalUrl: 'http://a', livenessPath: null, version: 'v' }] : []),
      ],
    }),
    () => ({ name: 'declareExpired', args: [worker] }),
    () => ({ name: 'declareDead', args: [worker] }),
    () => ({ name: 'operatorRelease', args: [sessionId] }),
    () => ({ name: 'operatorClose', args: [sessionId] }),
    () => ({ name: 'dropAnchor', args: [sessionId] }),
    () => ({ name: 'eraseResponse', args: [random.pick(universe.scopes), random.pick(universe.responses)] }),
    () => ({ name: 'keepStory', args: [sessionId, turnId, { told: turnId }] }),
  ];
  const draw = random();
  if (draw < 0.22) return fence.start!();
  if (draw < 0.46) return fence.settle!();
  if (draw < 0.58) return fence.claim!();
  if (draw < 0.68) return fence.create!();
  if (draw < 0.74) return fence.release!();
  if (draw < 0.76) return fence.close!();
  if (draw < 0.82) return others[0]!();
  return random.pick(others)();
}
