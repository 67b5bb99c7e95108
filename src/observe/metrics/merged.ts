import type { RequestHandler } from 'express';
import { AggregatorRegistry, type MetricObjectWithValues, type MetricValue, type Registry } from 'prom-client';
import type { AccessRule } from '../../http/access.ts';

/**
 * Handles `GET /metrics`, in the Prometheus text format. Responses are never cached.
 *
 * @param page returns the page to show instead of the registry's own metrics; where it returns null, those are shown
 */
export function metricsPage(
  registry: Registry,
  allow: AccessRule,
  page: () => Promise<string | null> = async () => null,
): RequestHandler {
  return async (req, res) => {
    allow(req);
    const text = (await page()) ?? (await registry.metrics());
    res.set({ 'content-type': registry.contentType, 'cache-control': 'no-store' }).send(text);
  };
}

/** All metrics of one process with their values, as plain JSON. */
export type MetricsSnapshot = readonly Omit<MetricObjectWithValues<MetricValue<string>>, 'collect'>[];

/** Messages about metrics from a worker to its supervisor. */
export type MetricsNews =
  /** A scrape reached this worker; it requests the metrics of all workers. */
  | { kind: 'scrape'; scrape: number }
  /** The worker's own metrics, in answer to `round`. With round null they are its last ones, sent without a request. */
  | { kind: 'metrics'; round: number | null; metrics: MetricsSnapshot };

/** Messages about metrics from a supervisor to its workers. */
export type MetricsOrder =
  | { kind: 'measure'; round: number }
  /** The page of all workers. */
  | { kind: 'scraped'; scrape: number; page: string };

const merged = (snapshots: readonly MetricsSnapshot[]) => AggregatorRegistry.aggregate(snapshots as never);

/** Keeps the counters and histograms of an ended process. Its gauges end with it. */
const counted = (metrics: MetricsSnapshot) =>
  metrics.filter(({ type }) => ['counter', 'histogram'].includes(String(type)));

/**
 * Time for which a scrape waits for a worker, in milliseconds. After that, the worker's last counters and histograms
 * are used.
 */
const MEASURE_WITHIN_MS = 2_000;
/** Number of ended workers whose last metrics may still arrive. */
const MOST_GONE = 8;

/** The supervisor's side: merges the metrics of all workers into those of one process. No counter ever decreases. */
export interface MetricsMerger {
  /** Requests the metrics of every worker and returns the merged page. */
  page(workers: ReadonlyMap<number, (order: MetricsOrder) => void>): Promise<string>;
  /** Stores the metrics that a worker has sent. */
  measured(worker: number, news: Extract<MetricsNews, { kind: 'metrics' }>): void;
  /** Records the end of a worker. Its last known counters stay in the totals. */
  ended(worker: number): void;
}

/**
 * Creates the supervisor's side.
 *
 * @param after runs a function after a number of milliseconds; returns a function that cancels it
 */
export function createMetricsMerger(after: (ms: number, run: () => void) => () => void): MetricsMerger {
  const last = new Map<number, MetricsSnapshot>();
  const rounds = new Map<number, { missing: Set<number>; answered(): void }>();
  /** Ended workers, the one that ended first in front. A worker's last message may arrive after its end. */
  const gone = new Set<number>();
  const folded = new Set<number>();
  let departed: MetricsSnapshot = [];
  let round = 0;

  /** Adds the worker's counters to the totals of ended workers and drops its own entry. */
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

/** A worker's side: requests the page from its supervisor, and sends its own metrics when requested. */
export interface MergedMetrics {
  /** Returns the page of all workers, or null when the supervisor does not answer in time. */
  page(): Promise<string | null>;
  /**
   * Handles a message of the supervisor.
   *
   * @param own returns the metrics of this worker
   */
  take(order: MetricsOrder, own: () => Promise<MetricsSnapshot>): void;
}

/** Time limit for the page, in milliseconds; longer than the supervisor waits for its slowest worker. */
const PAGE_WITHIN_MS = 4 * MEASURE_WITHIN_MS;

/**
 * Creates a worker's side.
 *
 * @param tell function that sends a message to the supervisor
 */
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
