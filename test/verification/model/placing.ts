import { resolve } from '../../../src/resolve/table.ts';
import type { AttemptFact, Decision, Evidence, Facts, LocalSession } from '../../../src/resolve/types.ts';
import type { LookupResult, SessionRow, TurnRow } from '../../../src/store/port.ts';
import { ACTOR, BARE, BIT, FLAG, type Layout, REQUEST, ROW, TURN, TURN_STATE, WORKER } from './layout.ts';
import type { LocalMachine } from './local.ts';

const SCOPE = 'scope';
const SESSION = 'session';
const CREDENTIAL = 'credential';

/** Placement decision for a request, with workers as indices. */
export interface Placing {
  do: Decision['do'];
  /** For `create`: true when the session is created under the conversation's key. */
  keyed: boolean;
  /** For `claim`: true when the worker's own orphan is ended first. */
  ownOrphan: boolean;
  /** For `forward` and `await_owner`: the worker concerned. */
  worker: number;
}

/** The production resolver applied to a world's state. Decisions are cached by all their inputs. */
export interface Resolver {
  /**
   * Places a request at a worker.
   *
   * @param actor the actor that this worker's registry has for the session, or -1
   */
  place(s: Uint8Array, request: number, worker: number, actor: number): Placing;
  /** Number of distinct decisions so far. */
  readonly met: number;
}

/**
 * Creates the resolver.
 *
 * @param guesses whether death is inferred from silence instead of read from the store: the weakness
 * `claimRobsTheLiving`
 * @param robs whether a worker without a row is treated as recorded but unreachable: the weakness `lostRowRobs`
 */
export function createResolver(layout: Layout, machine: LocalMachine, guesses: boolean, robs = false): Resolver {
  const { exact } = layout.bounds;
  const deathBits = guesses ? WORKER.dead | WORKER.crashed | WORKER.paused | WORKER.lapsed : WORKER.dead;
  const met = new Map<string, Placing>();

  /** Returns a turn's row as far as the resolver reads it. A turn without content has no response id to refer to. */
  function turnRow(s: Uint8Array, turn: number): TurnRow {
    const t = layout.turn(turn - 1);
    const recorded = s[t + TURN.state]!;
    const state = (['active', 'active', 'completed', 'failed', 'cancelled', 'lost'] as const)[recorded & 7]!;
    const known = state === 'completed' && (recorded & BARE) === 0;
    return {
      id: `t${turn}`,
      sessionId: SESSION,
      scope: SCOPE,
      parentTurnId: null,
      epoch: s[t + TURN.epoch]!,
      authorWorkerId: `w${s[t + TURN.author]! - 1}`,
      shape: 'full',
      state,
      responseId: known ? `r${turn}` : null,
      requestFp: '',
      contextFp: '',
      transcriptFp: known ? `line${turn}` : null,
      clientFp: known ? `client${turn}` : null,
      replay: !known ? 'never' : exact ? 'exact' : 'anchor_only',
      storedUpstream: false,
      credentialFp: CREDENTIAL,
      clientTurnId: null,
    };
  }

  const fingerprint = (s: Uint8Array, r: number) => {
    const q = layout.request(r);
    return `${s[q + REQUEST.named]}${s[q + REQUEST.flags]! & FLAG.anchored ? 'a' : 'k'}`;
  };

  function view(s: Uint8Array, i: number): LocalSession {
    const a = layout.actor(i);
    const local = machine.locals[s[a + ACTOR.local]!]!;
    const current = s[a + ACTOR.current]!;
    const running = current === 0 ? -1 : current - 1;
    const flags = running < 0 ? 0 : s[layout.request(running) + REQUEST.flags]!;
    const bits = s[a + ACTOR.bits]!;
    const socket = s[a + ACTOR.socket]!;
    const waiting = s[a + ACTOR.waiting] !== 0;
    return {
      sessionId: SESSION,
      scope: SCOPE,
      epoch: s[a + ACTOR.epoch]!,
      state: local.path,
      busy: current !== 0 || waiting || !(local.idle || local.path === 'stale'),
      socketAnchor: socket > 1 ? `r${socket - 1}` : null,
      clientAttached: running >= 0 && (flags & FLAG.gone) === 0 && (bits & BIT.stray) === 0,
      bufferComplete: running >= 0,
      activeRequestFp: running < 0 ? null : fingerprint(s, running),
      activeParentTurnId: running < 0 ? null : nullable(s[layout.request(running) + REQUEST.named]!),
      activeClientTurnId: null,
      activeIdempotencyKey: null,
      unsettledResponseIds: (bits & BIT.ending) === TURN_STATE.completed ? [`r${current}`] : [],
      queueLength: waiting ? 1 : 0,
      queueFull: waiting,
    };
  }
  const nullable = (turn: number) => (turn === 0 ? null : `t${turn}`);

  function decide(s: Uint8Array, r: number, w: number, i: number): Placing {
    const q = layout.request(r);
    const named = s[q + REQUEST.named]!;
    const anchored = (s[q + REQUEST.flags]! & FLAG.anchored) !== 0;
    const owner = s[ROW.owner]!;
    const session: SessionRow | null =
      s[ROW.epoch] === 0
        ? null
        : {
            id: SESSION,
            scope: SCOPE,
            state: 'live',
            snapshot: null,
            machineVersion: 1,
            revision: 1,
            ownerWorkerId: owner === 0 ? null : `w${owner - 1}`,
            ownerNonce: owner === 0 ? null : 'nonce',
            epoch: s[ROW.epoch]!,
            activeTurnId: nullable(s[ROW.active]!),
            headTurnId: nullable(s[ROW.head]!),
            upstreamId: 'upstream',
            model: null,
            anchorLost: false,
          };
    const parent = named === 0 ? null : turnRow(s, named);
    const known = parent !== null && parent.responseId !== null ? parent : null;
    const dead = owner !== 0 && (s[layout.worker(owner - 1)]! & deathBits) !== 0;
    const unrecorded = owner !== 0 && !dead && (s[layout.worker(owner - 1)]! & WORKER.unrecorded) !== 0;
    const rows: LookupResult = {
      anchor: anchored && known ? { turn: known, session } : null,
      token: null,
      keyed: session,
      candidates: !anchored && known ? [{ turn: known, session }] : [],
      named: new Set(),
      heads: new Map(),
      owners: new Map(
        owner === 0 || (unrecorded && !robs)
          ? []
          : [
              [
                `w${owner - 1}`,
                {
                  id: `w${owner - 1}`,
                  internalUrl: unrecorded ? null : 'http://peer',
                  livenessPath: null,
                  state: dead ? ('dead' as const) : ('serving' as const),
                  version: '1',
                  leaseLeftMs: 5_000,
                },
              ],
            ],
      ),
    };
    const evidence: Evidence = {
      scope: SCOPE,
      credentialFp: CREDENTIAL,
      credentialIsClients: false,
      token: { kind: 'none' },
      anchor: anchored ? `r${named}` : null,
      hardKey: { kind: 'thread', hash: 'key' },
      idempotencyKey: null,
      repeats: false,
      clientTurnId: null,
      shape: anchored ? 'delta' : 'full',
      requestFp: fingerprint(s, r),
      contextFp: '',
      store: false,
      references: [],
      comparison: null,
      owned: new Map(),
      foreign: null,
      passThrough: null,
    };
    const local = i < 0 ? null : view(s, i);
    const facts: Facts = {
      me: `w${w}`,
      rows,
      local: new Map(local ? [[SESSION, local]] : []),
      anchorExact: rows.anchor ? exact : null,
      attempts: attemptsOf(s[q + REQUEST.facts]!, layout.bounds.workers),
      instancePolicy: 'forward',
      like: rows.candidates[0] ? { ...rows.candidates[0], exact: true } : null,
      idempotent: null,
    };
    const decision = resolve(evidence, facts);
    return {
      do: decision.do,
      keyed: decision.do === 'create' && decision.keys.length > 0,
      ownOrphan: decision.do === 'claim' && decision.ownOrphan,
      worker: 'workerId' in decision ? Number(decision.workerId.slice(1)) : -1,
    };
  }

  /**
   * Returns whether no look-up is needed: the actor is idle, and its socket holds the head that the request names or
   * that belongs to the key's session.
   */
  function isCertain(s: Uint8Array, r: number, i: number): boolean {
    const q = layout.request(r);
    const a = layout.actor(i);
    if ((s[q + REQUEST.flags]! & FLAG.resolutions) !== FLAG.resolution) return false;
    if (s[a + ACTOR.current] !== 0 || s[a + ACTOR.waiting] !== 0) return false;
    const head = s[a + ACTOR.head]!;
    return (
      machine.locals[s[a + ACTOR.local]!]!.idle &&
      head !== 0 &&
      s[a + ACTOR.socket] === head + 1 &&
      s[q + REQUEST.named] === head
    );
  }

  const use: Placing = { do: 'use', keyed: false, ownOrphan: false, worker: -1 };

  return {
    get met() {
      return met.size;
    },
    place(s, r, w, i) {
      if (i >= 0 && isCertain(s, r, i)) return use;
      const name = nameOf(layout, deathBits, s, r, w, i);
      let placing = met.get(name);
      if (!placing) met.set(name, (placing = decide(s, r, w, i)));
      return placing;
    },
  };
}

/**
 * Returns the facts of failed attempts. The low half holds unreachable workers, the high half workers that do not own
 * the session.
 */
function attemptsOf(facts: number, workers: number): AttemptFact[] {
  const attempts: AttemptFact[] = [];
  for (let w = 0; w < workers; w += 1) {
    if (facts & (1 << w)) attempts.push({ kind: 'unreachable', workerId: `w${w}` });
    if (facts & (16 << w)) attempts.push({ kind: 'not_owner', sessionId: SESSION, workerId: `w${w}` });
  }
  return attempts;
}

/** Returns a cache key made of all inputs of a decision. */
function nameOf(layout: Layout, deathBits: number, s: Uint8Array, r: number, w: number, i: number): string {
  const q = layout.request(r);
  const named = s[q + REQUEST.named]!;
  const owner = s[ROW.owner]!;
  const t = named === 0 ? 0 : s[layout.turn(named - 1) + TURN.state]!;
  const standing = owner === 0 ? 0 : s[layout.worker(owner - 1)]!;
  const dead = standing & deathBits ? 1 : standing & WORKER.unrecorded ? 2 : 0;
  const flags = s[q + REQUEST.flags]! & FLAG.anchored;
  const base = [
    w,
    named,
    flags,
    s[q + REQUEST.facts],
    s[ROW.epoch] === 0 ? 0 : 1,
    owner,
    s[ROW.active],
    s[ROW.head],
    t,
    dead,
  ];
  if (i < 0) return String.fromCharCode(...(base as number[]));
  const a = layout.actor(i);
  const current = s[a + ACTOR.current]!;
  const running = current === 0 ? 0 : layout.request(current - 1);
  return String.fromCharCode(
    ...(base as number[]),
    s[a + ACTOR.epoch] === s[ROW.epoch] ? 1 : 0,
    s[a + ACTOR.local]!,
    s[a + ACTOR.socket]!,
    s[a + ACTOR.waiting]! === 0 ? 0 : 1,
    s[a + ACTOR.bits]! & (BIT.ending | BIT.stray),
    current,
    current === 0 ? 0 : s[running + REQUEST.named]!,
    current === 0 ? 0 : s[running + REQUEST.flags]! & (FLAG.anchored | FLAG.gone),
  );
}
