import type { Dropped, ItemForm } from '../../support/answered.ts';
import { createRandom, type Random } from '../../support/random.ts';
import type { StoreTrouble } from './store.ts';

/** Behaviour of a client throughout a run. */
export interface Habits {
  /** `session`: one key shared by all clients with this habit, as sub-agents do. */
  key: 'none' | 'thread' | 'session';
  /** `resend`: the whole history with each request. `anchor`: the last response id and the new input. */
  style: 'resend' | 'anchor';
  store: boolean;
  streaming: boolean;
  /** Parts of the model's items that it drops when resending them. */
  drops: readonly Dropped[];
  /** Events from which it takes the model's items; `mixed` changes from turn to turn. */
  form: ItemForm | 'mixed';
  instructions: string | null;
  /** Way in which it marks a retried request. */
  marks: 'nothing' | 'idempotency_key' | 'turn_id';
  /** True when its balancer always chooses the same worker while that one is available. */
  sticky: boolean;
  /** True when it returns the last turn-state token it received. */
  token: boolean;
}

/** One action of a client. */
export type Action =
  | { do: 'say' }
  /** Goes back some turns and continues with another message. */
  | { do: 'edit'; back: number }
  /** Anchors to an older response. */
  | { do: 'fork'; back: number }
  /** Replaces the history by a summary of its own. */
  | { do: 'compact' }
  /** Disconnects after a while, then sends a new message. */
  | { do: 'interrupt'; after: number }
  /** Disconnects after a while, then repeats the request exactly. */
  | { do: 'retry'; after: number }
  /** Sends two requests at once from the same point. */
  | { do: 'parallel' }
  /** Repeats the request exactly while the first one still runs. */
  | { do: 'twice'; after: number };

export interface ClientPlan {
  habits: Habits;
  /** Each with the think time before it, in milliseconds. */
  actions: readonly (Action & { think: number })[];
}

/** Fault at a given time and place. */
export type ScheduledFault = { at: number } & (
  | { kind: 'crash'; worker: number; lasts: number }
  | { kind: 'pause'; worker: number; lasts: number; frozen: boolean }
  /** The process gets CPU time only in short slices: its timers fire late, and incoming messages wait. */
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

/** Everything that determines a run. */
export interface Plan {
  seed: number;
  workers: number;
  /** `own`: the upstream receives the client's credential. `shared`: it receives one of the bridge's. */
  credential: 'own' | 'shared';
  clients: readonly ClientPlan[];
  faults: readonly ScheduledFault[];
  rates: { store: StoreTrouble; turn: number; upgrade: number; hop: number; hostile: number; throws: number };
  /** Time after which no fault occurs, in milliseconds. */
  calmAt: number;
  env: Readonly<Record<string, string>>;
  /** Names of excluded faults, see `Luck`. */
  without: readonly string[];
}

const exponential = (random: Random, mean: number, most: number) => Math.min(most, -mean * Math.log(1 - random()));

/**
 * Draws a client's habits.
 *
 * @param form separate random source, so that adding this draw did not change the other draws of a seed
 */
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

/**
 * Draws faults of slowness and lost rows, from a separate random source, so that the other draws of a seed do not
 * change.
 */
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

/** Returns the plan of a seed. Some plans are mild, others are not, and most concentrate on a few kinds of faults. */
export function planOf(seed: number): Plan {
  const random = createRandom(seed, 'plan');
  const workers = random.pick([1, 2, 2, 2, 3, 3]);
  const calmAt = random.between(4_000, 40_000);
  const often = (rate: number, from = random) => (from.chance(0.5) ? 0 : from() * rate);
  // Separate random source, so that the other draws of a seed do not change.
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

/** Returns the plan with conversations that share upstream sockets, as many on one as given. */
export const withLanes = (plan: Plan, lanes: number): Plan => ({
  ...plan,
  env: { ...plan.env, HOLDFAST_UPSTREAM_LANES: String(lanes) },
});
