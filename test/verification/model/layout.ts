import { type Bounds, FAULTS, type Fault } from './bounds.ts';

/**
 * Layout of a world's state as a row of small integers, compact enough to store and compare millions of states. Ids are
 * stored as index plus one, and 0 means "none", everywhere. Nonces are renumbered in order of appearance (see
 * `canonical`), because only their equality matters.
 */
export interface Layout {
  /** Bytes of one state, a multiple of four. */
  readonly stride: number;
  readonly bounds: Bounds;
  /** Maximum number of simultaneous actors. */
  readonly actors: number;
  readonly turn: (r: number) => number;
  readonly worker: (w: number) => number;
  readonly request: (r: number) => number;
  readonly actor: (i: number) => number;
  readonly copy: (j: number) => number;
  readonly stray: number;
  readonly budget: (fault: Fault) => number;
  /** Offset of the actor whose next effect throws, plus one. Null when the bounds allow no throw. */
  readonly broken: number | null;
  /** Offset of the rows before the latest write. Null when the bounds allow no failover. */
  readonly previous: number | null;
  /** Offsets of all nonces. */
  readonly nonces: readonly number[];
}

/** Offset of the last response that the conversation's client has received. */
export const TOLD = 0;
/**
 * Offsets of the session's row. Epoch 0 means that there is no row. `sid` is the nonce of the create that made the row,
 * used as its id.
 */
export const ROW = { epoch: 1, owner: 2, nonce: 3, sid: 4, active: 5, head: 6 } as const;
const TURNS = 7;

/** Offsets within a turn's row: state with the branch flag, author and epoch. */
export const TURN = { state: 0, author: 1, epoch: 2 } as const;
export const TURN_STATE = { none: 0, active: 1, completed: 2, failed: 3, cancelled: 4, lost: 5 } as const;
export const BRANCHED = 8;
/** Flag of a turn whose end is recorded without its content, so that no request can refer to it. */
export const BARE = 16;

/**
 * Bits of a worker. `dead`: its death is stored. `knows`: it has learned of its death. `lapsed`: its lease has expired
 * by its own clock. `unrecorded`: the database has lost its row.
 */
export const WORKER = { crashed: 1, paused: 2, lapsed: 4, dead: 8, knows: 16, draining: 32, unrecorded: 64 } as const;

export const REQUEST = { stage: 0, holder: 1, named: 2, flags: 3, facts: 4, target: 5, nonce: 6, epoch: 7 } as const;
export const STAGE = {
  unborn: 0,
  resolving: 1,
  /** The worker ends its own orphan before it claims. */
  clearing: 2,
  claiming: 3,
  awaiting: 4,
  hopping: 5,
  placed: 6,
  ended: 7,
} as const;
/**
 * Bits of `flags`. Bits 0 and 1 count the creates; bits 2 and 3 count the resolutions, including the current one and
 * those that failed because of a conflict.
 */
export const FLAG = {
  creates: 3,
  resolution: 4,
  resolutions: 12,
  gone: 16,
  anchored: 32,
  maybe: 64,
  dirty: 128,
} as const;
/** Values of `target` in a request that has ended: the result that its client received. */
export const ENDING = { completed: 1, failed: 2, elsewhere: 3, reattached: 4, gone: 5 } as const;

export const ACTOR = {
  worker: 0,
  local: 1,
  epoch: 2,
  nonce: 3,
  head: 4,
  current: 5,
  waiting: 6,
  /** 0: no socket. 1: open without a cached response. 2 + r: open, with the response of turn r cached. */
  socket: 7,
  /** Low half: the unanswered commit. High half: the orphan it concerns. */
  pending: 8,
  mail: 9,
  bits: 11,
  /** Turn that the upstream itself keeps for this socket; 0 for none. */
  held: 12,
} as const;
export const MAIL_BYTES = 2;
/** The low three bits hold the end of the current turn, as a turn state. */
export const BIT = { ending: 7, shown: 8, stray: 16, delta: 32, created: 64, told: 128 } as const;
export const COMMIT = { none: 0, create: 1, start: 2, orphan: 3, settle: 4, bareSettle: 5, release: 6 } as const;

export const COPY = { kind: 0, worker: 1, nonce: 2, epoch: 3, turn: 4, argument: 5 } as const;

export const SIZES = { turn: 3, request: 8, actor: 13, copy: 6 } as const;

/** Computes the layout of a state within the given bounds. */
export function layoutOf(bounds: Bounds): Layout {
  const actors = bounds.workers + 1;
  let end = TURNS;
  const take = (bytes: number) => {
    const at = end;
    end += bytes;
    return at;
  };
  const turns = take(SIZES.turn * bounds.turns);
  const workers = take(bounds.workers);
  const requests = take(SIZES.request * bounds.turns);
  const actorsAt = take(SIZES.actor * actors);
  const copies = take(SIZES.copy * bounds.copies);
  const stray = take(2);
  const budgets = take(FAULTS.length);
  const broken = (bounds.faults.throw ?? 0) > 0 ? take(1) : null;
  const previous = (bounds.faults.failover ?? 0) > 0 ? take(TURNS - ROW.epoch + SIZES.turn * bounds.turns) : null;
  const request = (r: number) => requests + SIZES.request * r;
  const actor = (i: number) => actorsAt + SIZES.actor * i;
  const copy = (j: number) => copies + SIZES.copy * j;
  const each = (count: number, at: (i: number) => number) => Array.from({ length: count }, (_, i) => at(i));
  return {
    stride: Math.ceil(end / 4) * 4,
    bounds,
    actors,
    turn: (r) => turns + SIZES.turn * r,
    worker: (w) => workers + w,
    request,
    actor,
    copy,
    stray,
    budget: (fault) => budgets + FAULTS.indexOf(fault),
    broken,
    previous,
    nonces: [
      ROW.nonce,
      ROW.sid,
      ...each(actors, (i) => actor(i) + ACTOR.nonce),
      ...each(bounds.turns, (r) => request(r) + REQUEST.nonce),
      ...each(bounds.copies, (j) => copy(j) + COPY.nonce),
      ...(previous === null ? [] : [previous + ROW.nonce - ROW.epoch, previous + ROW.sid - ROW.epoch]),
    ],
  };
}

/** Start and length of the rows, the part of a state that a failover can reset. */
export const ROWS = { start: ROW.epoch, length: ({ bounds }: Layout) => TURNS - ROW.epoch + SIZES.turn * bounds.turns };

const renamed = new Uint8Array(256);

/** Renumbers nonces in order of appearance, so that states that differ only in nonce numbers become equal. */
export function canonical(layout: Layout, s: Uint8Array): void {
  let next = 1;
  let seen = 0;
  for (const at of layout.nonces) {
    const nonce = s[at]!;
    if (nonce === 0) continue;
    let name = renamed[nonce]!;
    if (name === 0) {
      name = renamed[nonce] = next++;
      seen = Math.max(seen, nonce);
    }
    s[at] = name;
  }
  renamed.fill(0, 0, seen + 1);
}

/** Returns a nonce that is not used anywhere in the state. */
export function freshNonce(layout: Layout, s: Uint8Array): number {
  let highest = 0;
  for (const at of layout.nonces) highest = Math.max(highest, s[at]!);
  return highest + 1;
}
