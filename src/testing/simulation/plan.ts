import type { Dropped, ItemForm } from '../answered.ts';
import { createRandom, type Random } from './seeded.ts';
import type { StoreTrouble } from './store.ts';

/** How a client behaves for as long as it talks. */
export interface Habits {
  /** `session`: one key for all clients that have this habit, as sub-agents do. */
  key: 'none' | 'thread' | 'session';
  /** `resend`: everything, every time; `anchor`: the last response and what is new. */
  style: 'resend' | 'anchor';
  store: boolean;
  streaming: boolean;
  /** What it drops from the model's items when it sends them again. */
  drops: readonly Dropped[];
  /** Which events its items of the model come from; `mixed` changes from turn to turn. */
  form: ItemForm | 'mixed';
  instructions: string | null;
  /** How it marks a repeated request as the same. */
  marks: 'nothing' | 'idempotency_key' | 'turn_id';
  /** Its balancer always chooses the same worker while that one is there. */
  sticky: boolean;
  /** It sends the turn-state token back that it was given last. */
  token: boolean;
}

/** One thing a client does. */
export type Action =
  | { do: 'say' }
  /** Goes back some turns and says something else there. */
  | { do: 'edit'; back: number }
  /** Anchors to an older response. */
  | { do: 'fork'; back: number }
  /** Replaces everything by a summary of its own. */
  | { do: 'compact' }
  /** Hangs up after a while, then says something new. */
  | { do: 'interrupt'; after: number }
  /** Hangs up after a while, then repeats itself to the letter. */
  | { do: 'retry'; after: number }
  /** Two requests at once from the same place. */
  | { do: 'parallel' }
  /** Repeats itself to the letter while the first request still runs. */
  | { do: 'twice'; after: number };

export interface ClientPlan {
  habits: Habits;
  /** Each with the milliseconds the client thinks before it. */
  actions: readonly (Action & { think: number })[];
}

/** A fault with a time and a place. */
export type ScheduledFault = { at: number } & (
  | { kind: 'crash'; worker: number; lasts: number }
  | { kind: 'pause'; worker: number; lasts: number; frozen: boolean }
  /** It runs for a moment now and then: its timers fire late, and what it is sent waits. */
  | { kind: 'starved'; worker: number; lasts: number }
  /** A failover of the database loses the worker's row. */
  | { kind: 'row lost'; worker: number }
  | { kind: 'store cut off'; worker: number; lasts: number }
  | { kind: 'store down'; lasts: number }
  | { kind: 'peers cut off'; worker: number; lasts: number }
  | { kind: 'upstream down'; lasts: number }
  | { kind: 'sockets dropped' }
  | { kind: 'caches expired' }
  | { kind: 'drain'; worker: number }
  | { kind: 'operator'; action: 'release' | 'close' | 'drop-anchor'; worker: number }
);

/** Everything a run is made of; the rest follows from it. */
export interface Plan {
  seed: number;
  workers: number;
  /** `own`: the upstream sees the client's credential; `shared`: one of the bridge's. */
  credential: 'own' | 'shared';
  clients: readonly ClientPlan[];
  faults: readonly ScheduledFault[];
  rates: { store: StoreTrouble; turn: number; upgrade: number; hop: number; hostile: number; throws: number };
  /** Milliseconds after which nothing bad happens any more. */
  calmAt: number;
  env: Readonly<Record<string, string>>;
  /** Names of misfortunes that are spared, see `Luck`. */
  without: readonly string[];
}

const exponential = (random: Random, mean: number, most: number) => Math.min(most, -mean * Math.log(1 - random()));

/** @param form a source of its own, so that the other draws of a seed stay what they were */
function habitsOf(random: Random, form: Random): Habits {
  return {
    key: random.pick(['none', 'thread', 'thread', 'thread', 'session'] as const),
    style: random.pick(['resend', 'anchor'] as const),
    store: random.chance(0.3),
    streaming: random.chance(0.8),
    drops: (['id', 'status', 'reasoning'] as const).filter(() => random.chance(0.3)),
    form: form.pick(['done', 'done', 'completed', 'mixed'] as const),
    instructions: random.chance(0.5) ? 'Be brief.' : null,
    marks: random.pick(['nothing', 'nothing', 'idempotency_key', 'turn_id'] as const),
    sticky: random.chance(0.4),
    token: random.chance(0.3),
  };
}

function actionOf(random: Random): Action & { think: number } {
  const think = random.chance(0.12) ? random.between(8_000, 45_000) : exponential(random, 600, 6_000);
  const back = random.integer(1, 3);
  const after = random.chance(0.2) ? random.between(0, 9_000) : exponential(random, 60, 2_000);
  const draw = random();
  if (draw < 0.5) return { do: 'say', think };
  if (draw < 0.6) return { do: 'edit', back, think };
  if (draw < 0.67) return { do: 'fork', back, think };
  if (draw < 0.71) return { do: 'compact', think };
  if (draw < 0.82) return { do: 'interrupt', after, think };
  if (draw < 0.9) return { do: 'retry', after, think };
  if (draw < 0.94) return { do: 'twice', after, think };
  return { do: 'parallel', think };
}

function faultOf(random: Random, workers: number, calmAt: number): ScheduledFault {
  const at = random.between(200, calmAt * 0.9);
  const worker = random.integer(0, workers - 1);
  const lasts = random.chance(0.5) ? exponential(random, 800, 5_000) : random.between(3_000, 22_000);
  const draw = random();
  if (draw < 0.18) return { kind: 'crash', at, worker, lasts };
  if (draw < 0.36) return { kind: 'pause', at, worker, lasts, frozen: random.chance(0.35) };
  if (draw < 0.48) return { kind: 'store cut off', at, worker, lasts };
  if (draw < 0.55) return { kind: 'store down', at, lasts };
  if (draw < 0.64) return { kind: 'peers cut off', at, worker, lasts };
  if (draw < 0.69) return { kind: 'upstream down', at, lasts };
  if (draw < 0.77) return { kind: 'sockets dropped', at };
  if (draw < 0.82) return { kind: 'caches expired', at };
  if (draw < 0.9) return { kind: 'drain', at, worker };
  return { kind: 'operator', at, worker, action: random.pick(['release', 'close', 'drop-anchor'] as const) };
}

/** What slowness and lost rows there are. A source of its own, so that the other draws of a seed stay what they were. */
function slowFaultsOf(random: Random, workers: number, calmAt: number): ScheduledFault[] {
  const faults: ScheduledFault[] = [];
  const at = () => random.between(200, calmAt * 0.9);
  const worker = () => random.integer(0, workers - 1);
  for (let count = random.pick([0, 0, 1, 2]); count > 0; count -= 1) {
    faults.push({ kind: 'starved', at: at(), worker: worker(), lasts: random.between(2_000, 20_000) });
  }
  if (random.chance(0.3)) faults.push({ kind: 'row lost', at: at(), worker: worker() });
  return faults;
}

/** The run of a seed: some are gentle, some are not, and most concentrate on a few kinds of trouble. */
export function planOf(seed: number): Plan {
  const random = createRandom(seed, 'plan');
  const workers = random.pick([1, 2, 2, 2, 3, 3]);
  const calmAt = random.between(4_000, 40_000);
  const often = (rate: number, from = random) => (from.chance(0.5) ? 0 : from() * rate);
  // A source of its own, so that the other draws of a seed stay what they were.
  const wild = createRandom(seed, 'hostile and broken');
  return {
    seed,
    workers,
    credential: random.chance(0.7) ? 'own' : 'shared',
    clients: Array.from({ length: random.integer(1, 3) }, (_, index) => ({
      habits: habitsOf(random, createRandom(seed, `form of client ${index}`)),
      actions: Array.from({ length: random.integer(2, 6) }, () => actionOf(random)),
    })),
    faults: [
      ...Array.from({ length: random.integer(0, 6) }, () => faultOf(random, workers, calmAt)),
      ...slowFaultsOf(createRandom(seed, 'slow'), workers, calmAt),
    ],
    rates: {
      store: { lost: often(0.15), unanswered: often(0.15), late: often(0.1), rejected: often(0.05), slow: often(0.3) },
      turn: often(0.7),
      upgrade: often(0.5),
      hop: often(0.4),
      hostile: often(0.3, wild),
      throws: often(0.06, wild),
    },
    calmAt,
    env: {
      ...(random.chance(0.15) ? { HOLDFAST_TURN_BUFFER_BYTES: '700' } : {}),
      ...(random.chance(0.1) ? { HOLDFAST_QUEUE_LENGTH: '1' } : {}),
      ...(random.chance(0.1) ? { HOLDFAST_MAX_SOCKETS: '2' } : {}),
    },
    without: [],
  };
}
