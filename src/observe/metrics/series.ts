import { Counter, type MetricObjectWithValues, type MetricValueWithName, type Registry } from 'prom-client';
import type { Definition } from './catalogue.ts';

export type Labels = Record<string, string>;

/**
 * Returns the labels as they are recorded: unknown values become `other`, so that they create no series of their own. An
 * empty list of values allows any value; the process then sets only one.
 */
export function bounded(allowed: Definition['labels'], labels: Labels): Labels {
  return Object.fromEntries(
    Object.entries(labels).map(([label, value]) => {
      const values = allowed[label];
      return [label, !values || values.length === 0 || values.includes(value) ? value : 'other'];
    }),
  );
}

interface Branch<T> {
  readonly below: Map<string, Branch<T>>;
  /** What is recorded for the values up to here; null above the last label. */
  series: T | null;
}

/** What is recorded for each set of labels of one metric, found without making a key of them. */
class SeriesOf<T> {
  readonly all: T[] = [];
  readonly #allowed: Definition['labels'];
  readonly #names: readonly string[];
  readonly #make: (labels: Labels) => T;
  readonly #root: Branch<T> = { below: new Map(), series: null };

  constructor(allowed: Definition['labels'], make: (labels: Labels) => T) {
    this.#allowed = allowed;
    this.#names = Object.keys(allowed);
    this.#make = make;
  }

  of(labels: Labels): T {
    let at: Branch<T> | undefined = this.#root;
    for (const name of this.#names) {
      at = at.below.get(labels[name]!);
      if (at === undefined) break;
    }
    return at?.series ?? this.#add(bounded(this.#allowed, labels));
  }

  #add(labels: Labels): T {
    let at = this.#root;
    for (const name of this.#names) {
      const value = labels[name]!;
      let next = at.below.get(value);
      if (next === undefined) at.below.set(value, (next = { below: new Map(), series: null }));
      at = next;
    }
    if (at.series === null) this.all.push((at.series = this.#make(labels)));
    return at.series;
  }
}

/** Counts in plain numbers. The library's counter, which takes far longer for each addition, gets them when it is read. */
export function createCounter(
  registry: Registry,
  name: string,
  { help, labels }: Pick<Definition, 'help' | 'labels'>,
): (given: Labels, value: number) => void {
  const series = new SeriesOf(labels, (given) => ({ given, pending: 0 }));
  const counter = new Counter({
    name,
    help,
    labelNames: Object.keys(labels),
    registers: [registry],
    collect() {
      for (const each of series.all) {
        counter.inc(each.given, each.pending);
        each.pending = 0;
      }
    },
  });
  return (given, value) => {
    series.of(given).pending += value;
  };
}

/** A histogram in plain numbers, in the form in which the library's registry reads its own. */
export function createHistogram(
  registry: Registry,
  name: string,
  { help, labels, buckets = [] }: Pick<Definition, 'help' | 'labels' | 'buckets'>,
): (given: Labels, value: number) => void {
  /** `counts` has one number for each bucket, without the values of smaller buckets, and one for the rest. */
  const series = new SeriesOf(labels, (given) => ({
    given,
    counts: new Array<number>(buckets.length + 1).fill(0),
    sum: 0,
  }));
  const valuesOf = ({ given, counts, sum }: (typeof series.all)[number]) => {
    let below = 0;
    const values: MetricValueWithName<string>[] = counts.map((count, nth) => {
      below += count;
      return { metricName: `${name}_bucket`, labels: { le: buckets[nth] ?? '+Inf', ...given }, value: below };
    });
    values.push({ metricName: `${name}_sum`, labels: given, value: sum });
    values.push({ metricName: `${name}_count`, labels: given, value: below });
    return values;
  };
  const metric = {
    name,
    get: async (): Promise<Omit<MetricObjectWithValues<MetricValueWithName<string>>, 'collect'>> => ({
      name,
      help,
      type: 'histogram' as never,
      values: series.all.flatMap(valuesOf),
      aggregator: 'sum',
    }),
  };
  registry.registerMetric(metric as never);
  return (given, value) => {
    const found = series.of(given);
    const bucket = buckets.findIndex((bound) => value <= bound);
    found.counts[bucket < 0 ? buckets.length : bucket]! += 1;
    found.sum += value;
  };
}
