import { AggregatorRegistry, type MetricObjectWithValues, type MetricValue } from 'prom-client';

/** Every metric of one process, with its values, as plain JSON. */
export type MetricsSnapshot = readonly Omit<MetricObjectWithValues<MetricValue<string>>, 'collect'>[];

/** What a worker says to its supervisor about metrics. */
export type MetricsNews =
  /** It was asked for the metrics of all workers. */
  | { kind: 'scrape'; scrape: number }
  /** Its own, as the supervisor has asked in `round`; null: it was not asked for them, and they are its last. */
  | { kind: 'metrics'; round: number | null; metrics: MetricsSnapshot };

/** What a supervisor says to its workers about metrics. */
export type MetricsOrder =
  | { kind: 'measure'; round: number }
  /** The page of all workers. */
  | { kind: 'scraped'; scrape: number; page: string };

const merged = (snapshots: readonly MetricsSnapshot[]) => AggregatorRegistry.aggregate(snapshots as never);

/** What a process that has ended leaves behind: what it counted. What it held is gone with it. */
const counted = (metrics: MetricsSnapshot) =>
  metrics.filter(({ type }) => ['counter', 'histogram'].includes(String(type)));

/** How long a scrape waits for a worker, milliseconds; one that does not answer is counted as it was seen last. */
const MEASURE_WITHIN_MS = 2_000;
/** Workers that have ended whose last word is waited for. */
const MOST_GONE = 8;

/** The supervisor's side: the metrics of all its workers as those of one process. No counter ever goes down. */
export interface MetricsMerger {
  /** Asks every worker and makes one page of what they say. */
  page(workers: ReadonlyMap<number, (order: MetricsOrder) => void>): Promise<string>;
  /** A worker has said what it measures. */
  measured(worker: number, news: Extract<MetricsNews, { kind: 'metrics' }>): void;
  /** A worker has ended: what it had counted when it was seen last still counts. */
  ended(worker: number): void;
}

/** @param after runs something after that many milliseconds; returns what takes it back */
export function createMetricsMerger(after: (ms: number, run: () => void) => () => void): MetricsMerger {
  const last = new Map<number, MetricsSnapshot>();
  const rounds = new Map<number, { missing: Set<number>; answered(): void }>();
  /** Workers that have ended, the first one in front. What one of them has sent last may arrive after its end. */
  const gone = new Set<number>();
  const folded = new Set<number>();
  let departed: MetricsSnapshot = [];
  let round = 0;

  /** From here on only the sum is kept of what it had counted. */
  function fold(worker: number): void {
    gone.delete(worker);
    folded.add(worker);
    const metrics = last.get(worker);
    last.delete(worker);
    if (!metrics) return;
    const both = merged([departed, counted(metrics)]).getMetricsAsArray() as unknown as MetricsSnapshot;
    departed = both.map(({ name, help, type, values, aggregator }) => ({ name, help, type, values, aggregator }));
  }

  const answer = (worker: number, to: number | null) => {
    for (const [id, { missing, answered }] of rounds) {
      if (to === null || to === id) missing.delete(worker);
      if (missing.size === 0) answered();
    }
  };

  return {
    async page(workers) {
      const mine = (round += 1);
      const missing = new Set(workers.keys());
      await new Promise<void>((over) => {
        const cancel = after(MEASURE_WITHIN_MS, () => answered());
        const answered = () => {
          cancel();
          rounds.delete(mine);
          over();
        };
        rounds.set(mine, { missing, answered });
        if (missing.size === 0) answered();
        for (const ask of workers.values()) ask({ kind: 'measure', round: mine });
      });
      const seen = [...last].map(([worker, metrics]) =>
        missing.has(worker) || gone.has(worker) ? counted(metrics) : metrics,
      );
      return merged([...seen, departed]).metrics();
    },
    measured(worker, { round: to, metrics }) {
      if (folded.has(worker)) return;
      last.set(worker, metrics);
      answer(worker, to);
    },
    ended(worker) {
      answer(worker, null);
      gone.add(worker);
      if (gone.size > MOST_GONE) fold([...gone][0]!);
    },
  };
}

/** A worker's side: asks its supervisor for the page, and sends it what is measured here. */
export interface MergedMetrics {
  /** The page of all workers; null when the supervisor does not answer. */
  page(): Promise<string | null>;
  /** Takes what the supervisor says. @param own what is measured here */
  take(order: MetricsOrder, own: () => Promise<MetricsSnapshot>): void;
}

/** Longer than the supervisor waits for its slowest worker, milliseconds. */
const PAGE_WITHIN_MS = 4 * MEASURE_WITHIN_MS;

export function createMergedMetrics(tell: (news: MetricsNews) => void): MergedMetrics {
  const asked = new Map<number, (page: string | null) => void>();
  let scrapes = 0;
  return {
    page() {
      const scrape = (scrapes += 1);
      return new Promise((resolve) => {
        const late = setTimeout(() => answer(null), PAGE_WITHIN_MS);
        const answer = (page: string | null) => {
          clearTimeout(late);
          asked.delete(scrape);
          resolve(page);
        };
        asked.set(scrape, answer);
        tell({ kind: 'scrape', scrape });
      });
    },
    take(order, own) {
      if (order.kind === 'scraped') asked.get(order.scrape)?.(order.page);
      else
        own().then(
          (metrics) => tell({ kind: 'metrics', round: order.round, metrics }),
          () => {},
        );
    },
  };
}
