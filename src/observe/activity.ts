import type { TurnLine } from '../session/turn.ts';
import type { Clock } from '../system.ts';
import { tokensOf } from './metrics/index.ts';

/** Spans of time over which activity is shown, with their steps, in milliseconds. */
export const activityWindows = new Map([
  ['15m', { span: 900_000, step: 15_000 }],
  ['1h', { span: 3_600_000, step: 60_000 }],
  ['24h', { span: 86_400_000, step: 900_000 }],
] as const);
export type ActivityWindow = Parameters<typeof activityWindows.get>[0];

/** Prices of one model per million tokens, in any currency. */
export interface ModelPrice {
  input: number;
  cached: number;
}

/**
 * Histogram as pairs of bucket and count. Bucket `i` holds the values from `FIRST_MS * GROWTH ** (i - 1)` to
 * `FIRST_MS * GROWTH ** i` milliseconds, so histograms of several workers can be added.
 */
export type SparseHistogram = Record<number, number>;

const FIRST_MS = 0.25;
const GROWTH = 1.2;
const MOST_BUCKETS = 90;

/** Returns the bucket of a value in milliseconds. */
export const bucketOf = (ms: number): number =>
  ms <= FIRST_MS ? 0 : Math.min(MOST_BUCKETS, Math.ceil(Math.log(ms / FIRST_MS) / Math.log(GROWTH)));

/**
 * Returns a quantile in milliseconds, or null for an empty histogram. The error is at most half a bucket, a tenth of the value.
 *
 * @param share between 0 and 1
 */
export function quantileOf(histogram: SparseHistogram, share: number): number | null {
  const counts = Object.entries(histogram).map(([bucket, count]) => [Number(bucket), count] as const);
  const total = counts.reduce((sum, [, count]) => sum + count, 0);
  if (total === 0) return null;
  const rank = Math.max(1, Math.ceil(share * total));
  let seen = 0;
  for (const [bucket, count] of counts.sort(([a], [b]) => a - b)) {
    seen += count;
    if (seen >= rank) return Math.round(FIRST_MS * GROWTH ** (bucket - 0.5) * 100) / 100;
  }
  return null;
}

/** Sums of one step of time. All of them can be added over workers. */
export interface ActivitySlot {
  /** Start of the step, in milliseconds since the epoch. */
  t: number;
  /** Ended turns by outcome, and by how they ended. */
  outcomes: Record<string, number>;
  ends: Record<string, number>;
  /** Failed and refused requests by reason. */
  failures: Record<string, number>;
  firstEvent: SparseHistogram;
  own: SparseHistogram;
  /** Calls of the store. */
  database: SparseHistogram;
  /** Turns that were sent upstream, and those of them that went as a delta. */
  sent: number;
  deltas: number;
  /** Bytes of the turns that were sent: as their clients sent them, and as they went upstream. */
  clientBytes: number;
  sentBytes: number;
  inputTokens: number;
  cachedTokens: number;
  outputTokens: number;
  /** Price of the cached tokens less than that of uncached ones, for models whose prices are set. */
  saved: number;
  /** Gauges: the number of samples, and the largest value within the step. */
  samples: number;
  sockets: number;
  queued: number;
  inFlight: number;
}

/** Current counts of one worker. */
export interface WorkerCounts {
  sockets: number;
  queued: number;
  inFlight: number;
  connections: number;
}

/** Current counts of one worker, and the use of its process between the last two samples. */
export interface WorkerLoad extends WorkerCounts {
  /** Share of one processor, 0 to 1 or more. */
  processor: number;
  /** Share of the time in which the event loop was busy, 0 to 1. */
  loop: number;
  memoryBytes: number;
}

/** Activity of one worker, as plain JSON. */
export interface Activity {
  /** Worker ids under which this process has worked. Their rows are part of the sums. */
  ids: string[];
  /** Start of the record. Nothing earlier is part of it. */
  since: number;
  /** Steps in which something happened, oldest first. */
  slots: ActivitySlot[];
  load: WorkerLoad | null;
}

/** Returns an empty step. */
export const emptySlot = (t: number): ActivitySlot => ({
  ...{ t, outcomes: {}, ends: {}, failures: {}, firstEvent: {}, own: {}, database: {}, sent: 0, deltas: 0 },
  ...{ clientBytes: 0, sentBytes: 0, inputTokens: 0, cachedTokens: 0, outputTokens: 0, saved: 0 },
  ...{ samples: 0, sockets: 0, queued: 0, inFlight: 0 },
});

const GAUGES = ['sockets', 'queued', 'inFlight'] as const;

/**
 * Adds the sums of one step to another.
 *
 * @param gauges `sum` for steps of several workers, `max` for several steps of one worker
 */
export function addSlot(to: ActivitySlot, from: ActivitySlot, gauges: 'sum' | 'max'): void {
  for (const [name, value] of Object.entries(from) as [keyof ActivitySlot, number | Record<string, number>][]) {
    if (name === 't') continue;
    if (typeof value === 'object') {
      const counts = to[name] as Record<string, number>;
      for (const [key, count] of Object.entries(value)) counts[key] = (counts[key] ?? 0) + count;
    } else if (gauges === 'max' && (GAUGES as readonly string[]).includes(name)) {
      (to[name] as number) = Math.max(to[name] as number, value);
    } else (to[name] as number) += value;
  }
}

const raise = (counts: Record<string | number, number>, key: string | number) => {
  counts[key] = (counts[key] ?? 0) + 1;
};

/** Fields of an ended turn that count, from its log line or its row. */
export interface CountedTurn
  extends Pick<TurnLine, 'outcome' | 'form' | 'terminal' | 'fault' | 'upstreamStatus' | 'firstEventMs' | 'tokens'>,
    Pick<TurnLine, 'bytesFromClient' | 'bytesSent' | 'ownMs' | 'model'> {}

/** Faults caused by the client itself. They are not failures. */
const ofTheClient = new Set<string | null>(['bridge_turn_cancelled']);

/** Returns whether a turn failed, from its client's point of view. */
export const hasFailed = ({ terminal, fault }: Pick<TurnLine, 'terminal' | 'fault'>): boolean =>
  !ofTheClient.has(fault) &&
  (terminal === 'failed' || terminal === 'lost' || (fault !== null && terminal !== 'completed'));

/** Returns the reason of a failure in one word: the bridge's own, or the upstream's status. */
export const reasonOf = ({ fault, upstreamStatus }: Pick<TurnLine, 'fault' | 'upstreamStatus'>): string =>
  fault ?? (upstreamStatus === null ? 'upstream_error' : `upstream_${upstreamStatus}`);

/** Returns the price that cached tokens did not cost; 0 for a model without a price. */
function savedBy(prices: ReadonlyMap<string, ModelPrice>, model: string | null, cached: number): number {
  const price = prices.get(model ?? '') ?? prices.get('*');
  return price ? (cached * (price.input - price.cached)) / 1e6 : 0;
}

/** Adds an ended turn to a step. */
export function countTurn(slot: ActivitySlot, turn: CountedTurn, prices: ReadonlyMap<string, ModelPrice>): void {
  raise(slot.outcomes, turn.outcome);
  raise(slot.ends, turn.terminal);
  if (hasFailed(turn)) raise(slot.failures, reasonOf(turn));
  if (turn.firstEventMs !== null) raise(slot.firstEvent, bucketOf(turn.firstEventMs));
  if (turn.ownMs !== null) raise(slot.own, bucketOf(turn.ownMs));
  if (turn.form !== null) {
    slot.sent += 1;
    if (turn.form === 'delta') slot.deltas += 1;
    slot.clientBytes += turn.bytesFromClient;
    slot.sentBytes += turn.bytesSent;
  }
  const { input, cached, output } = tokensOf(turn.tokens);
  slot.inputTokens += input;
  slot.cachedTokens += cached;
  slot.outputTokens += output;
  slot.saved += savedBy(prices, turn.model, cached);
}

/** Record of a worker's activity over the last day, in memory. A restart loses it; the rows of its turns stay. */
export interface ActivityRecorder {
  turnEnded(line: TurnLine): void;
  /** Counts a request that failed or was refused before it became a turn. */
  requestFailed(reason: string): void;
  /** Records the duration of a call of the store, in milliseconds. */
  storeCalled(ms: number): void;
  /** Adds the source of the gauges, which is sampled every 15 s. */
  watch(read: () => WorkerCounts): void;
  read(window: ActivityWindow): Activity;
  stop(): void;
}

interface ActivityOptions {
  workerId(): string;
  clock: Clock;
  prices: ReadonlyMap<string, ModelPrice>;
}

/** Step and number of the steps kept: fine ones for the last hour, coarse ones for the last day. */
const FINE = { step: 15_000, kept: 241 };
const COARSE = { step: 900_000, kept: 97 };
const SAMPLE_EVERY = 15_000;

/** Creates the steps of one resolution. The oldest is dropped when there are too many. */
function createSteps({ step, kept }: { step: number; kept: number }) {
  const slots: ActivitySlot[] = [];
  return {
    at(wall: number): ActivitySlot {
      const t = Math.floor(wall / step) * step;
      const last = slots.at(-1);
      // A clock that was set back must not add steps out of order.
      if (last && t <= last.t) return last;
      const slot = emptySlot(t);
      slots.push(slot);
      if (slots.length > kept) slots.shift();
      return slot;
    },
    /** Returns the steps from a time on, added up to longer ones. */
    since(from: number, longer: number): ActivitySlot[] {
      const added = new Map<number, ActivitySlot>();
      for (const slot of slots) {
        const t = Math.floor(slot.t / longer) * longer;
        if (t < from) continue;
        const to = added.get(t) ?? emptySlot(t);
        added.set(t, to);
        addSlot(to, slot, 'max');
      }
      return [...added.values()];
    },
  };
}

/** Creates an empty record of activity. Its samples end with `stop`. */
export function createActivity({ workerId, clock, prices }: ActivityOptions): ActivityRecorder {
  const ids = new Set<string>();
  const since = clock.wall();
  const fine = createSteps(FINE);
  const coarse = createSteps(COARSE);
  let read: (() => WorkerCounts) | null = null;
  let stopSampling = () => {};
  let sampledAt = clock.now();
  let used = process.cpuUsage();
  let loop = performance.eventLoopUtilization();
  let use = { processor: 0, loop: 0, memoryBytes: process.memoryUsage.rss() };

  /** Measures the use of the process since the sample before. */
  function measure(): void {
    const [now, cpu, turned] = [clock.now(), process.cpuUsage(), performance.eventLoopUtilization()];
    const ms = now - sampledAt;
    if (ms <= 0) return;
    const processor = (cpu.user + cpu.system - used.user - used.system) / 1_000 / ms;
    use = {
      processor,
      loop: performance.eventLoopUtilization(turned, loop).utilization,
      memoryBytes: process.memoryUsage.rss(),
    };
    [sampledAt, used, loop] = [now, cpu, turned];
  }

  const count = (change: (slot: ActivitySlot) => void) => {
    const now = clock.wall();
    change(fine.at(now));
    change(coarse.at(now));
  };
  const sample = () => {
    if (!read) return;
    ids.add(workerId());
    measure();
    const now = read();
    count((slot) => {
      slot.samples += 1;
      for (const name of GAUGES) slot[name] = Math.max(slot[name], now[name]);
    });
    stopSampling = clock.after(SAMPLE_EVERY, sample);
  };

  return {
    turnEnded: (line) => count((slot) => countTurn(slot, line, prices)),
    requestFailed: (reason) => count((slot) => raise(slot.failures, reason)),
    storeCalled(ms) {
      const bucket = bucketOf(ms);
      count((slot) => raise(slot.database, bucket));
    },
    watch(next) {
      read = next;
      sample();
    },
    read(window) {
      const { span, step } = activityWindows.get(window)!;
      const from = Math.floor(clock.wall() / step) * step - span;
      ids.add(workerId());
      return {
        ids: [...ids].filter((id) => id !== ''),
        since,
        slots: (window === '24h' ? coarse : fine).since(from, step),
        load: read && { ...read(), ...use },
      };
    },
    stop: () => stopSampling(),
  };
}
