import { type Bounds, FAULTS, type Fault } from './bounds.ts';

/**
 * A world as a row of small integers, so that millions of them can be kept and compared. Ids are one more than their
 * index and 0 is "none", everywhere. Nonces are numbered in the order in which they are met (see `canonical`): only
 * their equality means anything.
 */
export interface Layout {
  /** Bytes of one state, a multiple of four. */
  readonly stride: number;
  readonly bounds: Bounds;
  /** Actors that may exist at once. */
  readonly actors: number;
  readonly turn: (r: number) => number;
  readonly worker: (w: number) => number;
  readonly request: (r: number) => number;
  readonly actor: (i: number) => number;
  readonly copy: (j: number) => number;
  readonly stray: number;
  readonly budget: (fault: Fault) => number;
  /** The actor whose next effect throws, plus one; only where something may throw. */
  readonly broken: number | null;
  /** The rows as they were before the latest write; only where a failover may lose it. */
  readonly previous: number | null;
  /** Offsets that hold nonces. */
  readonly nonces: readonly number[];
}

/** The last response that the conversation's client was told of. */
export const TOLD = 0;
/** The session's row. Epoch 0: there is none. `sid`: nonce of the create that made it, in place of its id. */
export const ROW = { epoch: 1, owner: 2, nonce: 3, sid: 4, active: 5, head: 6 } as const;
const TURNS = 7;

/** A turn's row: state and whether it is a branch, then author and epoch. */
export const TURN = { state: 0, author: 1, epoch: 2 } as const;
export const TURN_STATE = { none: 0, active: 1, completed: 2, failed: 3, cancelled: 4, lost: 5 } as const;
export const BRANCHED = 8;
/** The end is recorded without its content: nothing can name it any more. */
export const BARE = 16;

/**
 * Bits of a worker. `dead` is the stored fact, `knows` that it has learned of it, `lapsed` what its own clock says, `unrecorded` that
 * the database has lost its row.
 */
export const WORKER = { crashed: 1, paused: 2, lapsed: 4, dead: 8, knows: 16, draining: 32, unrecorded: 64 } as const;

export const REQUEST = { stage: 0, holder: 1, named: 2, flags: 3, facts: 4, target: 5, nonce: 6, epoch: 7 } as const;
export const STAGE = {
  unborn: 0,
  resolving: 1,
  /** Ends its own worker's orphan before it claims. */
  clearing: 2,
  claiming: 3,
  awaiting: 4,
  hopping: 5,
  placed: 6,
  ended: 7,
} as const;
/** Bits of `flags`; the two lowest count the creates, the next two the resolutions that failed for a conflict, and the one in hand. */
export const FLAG = {
  creates: 3,
  resolution: 4,
  resolutions: 12,
  gone: 16,
  anchored: 32,
  maybe: 64,
  dirty: 128,
} as const;
/** `target` of a request that has ended: what its client was told. */
export const ENDING = { completed: 1, failed: 2, elsewhere: 3, reattached: 4, gone: 5 } as const;

export const ACTOR = {
  worker: 0,
  local: 1,
  epoch: 2,
  nonce: 3,
  head: 4,
  current: 5,
  waiting: 6,
  /** 0: no socket; 1: open, holding nothing; 2 + r: open, holding the response of turn r. */
  socket: 7,
  /** Low half: the unanswered commit; high half: the orphan it is about. */
  pending: 8,
  mail: 9,
  bits: 11,
  /** What the upstream itself keeps for this socket: 0 nothing, else a turn. */
  held: 12,
} as const;
export const MAIL_BYTES = 2;
/** Low three bits: how the turn in hand ended, as a turn state. */
export const BIT = { ending: 7, shown: 8, stray: 16, delta: 32, created: 64, told: 128 } as const;
export const COMMIT = { none: 0, create: 1, start: 2, orphan: 3, settle: 4, bareSettle: 5, release: 6 } as const;

export const COPY = { kind: 0, worker: 1, nonce: 2, epoch: 3, turn: 4, argument: 5 } as const;

export const SIZES = { turn: 3, request: 8, actor: 13, copy: 6 } as const;

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

/** Where the rows begin and how long they are: what a failover can set back. */
export const ROWS = { start: ROW.epoch, length: ({ bounds }: Layout) => TURNS - ROW.epoch + SIZES.turn * bounds.turns };

const renamed = new Uint8Array(256);

/** Numbers nonces by where they are met first: worlds that differ only in their names become one. */
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

/** A nonce that nobody in this world has. */
export function freshNonce(layout: Layout, s: Uint8Array): number {
  let highest = 0;
  for (const at of layout.nonces) highest = Math.max(highest, s[at]!);
  return highest + 1;
}
