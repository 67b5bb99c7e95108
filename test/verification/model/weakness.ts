import { type Bounds, defaults, type Fault } from './bounds.ts';

/**
 * Deliberate weakening of the fence or of its use: one omitted check. Some of these checks are redundant safeguards:
 * that start compares owner, head and activity too matters only when a failover of the database has lost an answered
 * write.
 */
export interface Weakening {
  what: string;
  /** Small bounds within which the weakness causes a violation. */
  bounds: Bounds;
}

const within = (turns: number, faults: Partial<Record<Fault, number>>, over: Partial<Bounds> = {}): Bounds => ({
  ...defaults,
  turns,
  faults,
  ...over,
});

export const weaknesses = {
  startIgnoresEpoch: {
    what: 'start and settle look only at the name of the owner, not at epoch and nonce',
    bounds: within(3, { lateCopy: 1 }, { concurrent: 2, naming: 'keyed' }),
  },
  startIgnoresOwner: {
    what: 'start and settle look only at the epoch, not at owner and nonce',
    bounds: within(3, { failover: 1 }, { concurrent: 2, naming: 'keyed' }),
  },
  startIgnoresHead: {
    what: 'start does not compare the head',
    bounds: within(2, { failover: 1 }),
  },
  startIgnoresBusy: {
    what: 'start does not ask whether another turn is active',
    bounds: within(2, { failover: 1 }),
  },
  startIgnoresDeath: {
    what: 'start does not ask whether its own worker was declared dead while it was paused',
    bounds: within(2, { pause: 1 }),
  },
  startRevivesTurn: {
    what: 'start makes a turn that has ended active again',
    bounds: within(2, { lateCopy: 1 }),
  },
  createNotIdempotent: {
    what: 'a repeated create takes its own keys for those of another request',
    bounds: within(1, { lostAnswer: 1 }),
  },
  claimRobsTheLiving: {
    what: 'claim takes a busy session whose owner is silent, but not stored as dead',
    bounds: within(2, { lapse: 1 }, { concurrent: 2 }),
  },
  claimKeepsEpoch: { what: 'claim does not raise the epoch', bounds: within(2, {}) },
  claimForgetsTheLost: {
    what: 'claim does not mark the turn that it takes away as lost',
    bounds: within(2, { crash: 1 }),
  },
  claimByTheDead: {
    what: 'claim does not ask whether its own worker was declared dead',
    bounds: within(2, { pause: 1, lostAnswer: 1 }),
  },
  oldHead: {
    what: 'claim compares no revision, the new owner goes on from the head it read before, and start compares no head',
    bounds: within(2, { crash: 1, lateCopy: 1 }),
  },
  noSelfClaim: {
    what: 'a worker does not end its own orphan before it claims',
    bounds: within(2, { rejection: 2 }),
  },
  settleUnfenced: {
    what: 'settle moves the head without looking at the fence',
    bounds: within(2, { pause: 1 }, { concurrent: 2 }),
  },
  settleOverwrites: {
    what: 'settle replaces an end that was recorded before',
    bounds: within(1, { lostAnswer: 1 }),
  },
  releaseUnfenced: {
    what: 'release gives up a session without checking its owner',
    bounds: within(2, { lostAnswer: 1 }),
  },
  releaseBusy: {
    what: 'release gives up a session with an active turn',
    bounds: within(2, { rejection: 2 }),
  },
  frameBeforeCommit: { what: 'the frame leaves while the start is still asked', bounds: within(1, {}) },
  silenceIsFenced: { what: 'a lost answer is read as "fenced"', bounds: within(1, { lostAnswer: 1 }) },
  sendWithoutLease: {
    what: 'the self-fence is not looked at before a frame leaves',
    bounds: within(1, { lapse: 1 }),
  },
  anchorOutlivesFailure: {
    what: 'the anchor of a socket is kept when the upstream has refused a turn on it',
    bounds: within(3, {}),
  },
  resendsShown: {
    what: 'a turn whose output was shown is sent again when its socket is lost',
    bounds: within(1, { socketLoss: 1 }),
  },
  slowIsDead: {
    what: 'a hop to a worker that only stands still is given up, and the worker counts as unreachable',
    bounds: within(2, { pause: 1 }),
  },
  lostRowRobs: {
    what: 'an owner whose row was lost is taken for one that may be robbed of what is idle',
    bounds: within(2, { rowLoss: 1 }),
  },
  strayIsHeard: {
    what: 'a hop that was given up may still answer its client',
    bounds: within(2, { pause: 1 }, { concurrent: 2 }),
  },
  forgetsAdmitted: {
    what: 'a request that was admitted but not begun is forgotten when its actor ends',
    bounds: within(2, { drain: 1 }, { concurrent: 2 }),
  },
  forgetsThrown: {
    what: 'an effect that throws is forgotten: neither its client nor its machine hears of it',
    bounds: within(2, { throw: 1 }),
  },
} as const satisfies Record<string, Weakening>;
export type Weakness = keyof typeof weaknesses;
