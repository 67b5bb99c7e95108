import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import { catalogue, type Definition, type MetricName } from './catalogue.ts';

type Labels = Record<string, string>;

/** Metrics of the catalogue in one registry, written by name. Label values outside the catalogue become `other`. */
export interface Instruments {
  add(name: MetricName, labels: Labels, value?: number): void;
  observe(name: MetricName, labels: Labels, value: number): void;
  set(name: MetricName, labels: Labels, value: number): void;
  /**
   * Registers a function that sets the metric's values just before each scrape. If it throws, the metric has no value.
   */
  collect(name: MetricName, read: (set: (labels: Labels, value: number) => void) => void): void;
}

/** Registers every metric of the catalogue. Throws the library's Error when the registry already has one of them. */
export function createInstruments(registry: Registry): Instruments {
  const counters = new Map<MetricName, Counter>();
  const gauges = new Map<MetricName, Gauge>();
  const histograms = new Map<MetricName, Histogram>();
  const readers = new Map<MetricName, (set: (labels: Labels, value: number) => void) => void>();

  for (const [name, { kind, help, labels, buckets, together, fromZero }] of Object.entries(catalogue) as [
    MetricName,
    Definition,
  ][]) {
    const options = { name, help, labelNames: Object.keys(labels), registers: [registry] };
    if (kind === 'counter') {
      const counter = new Counter(options);
      counters.set(name, counter);
      if (fromZero) for (const each of combinations(labels)) counter.inc(each, 0);
    } else if (kind === 'histogram') histograms.set(name, new Histogram({ ...options, buckets: [...(buckets ?? [])] }));
    else {
      const gauge: Gauge = new Gauge({
        ...options,
        aggregator: together ?? 'sum',
        collect() {
          const read = readers.get(name);
          if (!read) return;
          forget();
          try {
            read((given, value) => gauge.set(bounded(name, given), value));
          } catch {
            forget();
          }
        },
      });
      // `reset` would leave a gauge without labels at 0, which would be a reported value; `remove` leaves it absent.
      const forget = () => (options.labelNames.length === 0 ? gauge.remove() : gauge.reset());
      gauges.set(name, gauge);
    }
  }

  return {
    add(name, labels, value = 1) {
      if (value > 0) counters.get(name)?.inc(bounded(name, labels), value);
    },
    observe(name, labels, value) {
      if (Number.isFinite(value)) histograms.get(name)?.observe(bounded(name, labels), Math.max(0, value));
    },
    set: (name, labels, value) => gauges.get(name)?.set(bounded(name, labels), value),
    collect: (name, read) => void readers.set(name, read),
  };
}

/** Returns every combination of label values. */
function combinations(labels: Definition['labels']): Labels[] {
  return Object.entries(labels).reduce<Labels[]>(
    (found, [label, values]) => found.flatMap((each) => values.map((value) => ({ ...each, [label]: value }))),
    [{}],
  );
}

/**
 * Replaces unknown label values by `other`, so that they create no series of their own. An empty list of values allows
 * any value; the process then sets only one.
 */
function bounded(name: MetricName, labels: Labels): Labels {
  const allowed: Definition['labels'] = catalogue[name].labels;
  return Object.fromEntries(
    Object.entries(labels).map(([label, value]) => {
      const values = allowed[label];
      return [label, !values || values.length === 0 || values.includes(value) ? value : 'other'];
    }),
  );
}
