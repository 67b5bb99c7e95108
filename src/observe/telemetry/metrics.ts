import type { Attributes, HrTime } from '@opentelemetry/api';
import type { Resource } from '@opentelemetry/resources';
import {
  AggregationTemporality,
  DataPointType,
  type MetricData,
  type MetricProducer,
} from '@opentelemetry/sdk-metrics';
import type { Registry } from 'prom-client';
import { version } from '../../version.ts';
import type { MetricsSnapshot } from './../metrics/merged.ts';

type Metric = MetricsSnapshot[number];
type Value = Metric['values'][number] & { metricName?: string };

/** Ends of metrics' names with the units that they state. */
const units = [
  [/_milliseconds(?:_total)?$/, 'ms'],
  [/_seconds(?:_total)?$/, 's'],
  [/_bytes(?:_total)?$/, 'By'],
] as const;

const hrTime = (ms: number): HrTime => [Math.floor(ms / 1_000), (ms % 1_000) * 1_000_000];

/**
 * Creates the source of the metrics of a registry: it reads them at each export, so that they have one bookkeeping. Names,
 * labels and buckets are those of `/metrics`; counters and histograms are sums since the start.
 */
export function createMetricProducer(registry: Registry, resource: Resource): MetricProducer {
  const startTime = hrTime(Date.now());
  return {
    async collect() {
      const read = (await registry.getMetricsAsJSON()) as unknown as MetricsSnapshot;
      const times = { startTime, endTime: hrTime(Date.now()) };
      const metrics = read.flatMap((metric) => {
        const data = metric.values.length === 0 ? null : dataOf(metric, times);
        return data ? [data] : [];
      });
      return {
        resourceMetrics: { resource, scopeMetrics: [{ scope: { name: 'holdfast', version }, metrics }] },
        errors: [],
      };
    },
  };
}

interface Times {
  startTime: HrTime;
  endTime: HrTime;
}

function dataOf({ name, help, type, values }: Metric, times: Times): MetricData | null {
  const unit = units.find(([end]) => end.test(name))?.[1] ?? '';
  const base = {
    descriptor: { name, description: help, unit, valueType: 1 },
    aggregationTemporality: AggregationTemporality.CUMULATIVE,
  };
  const single = () => values.map(({ labels, value }) => ({ ...times, attributes: labels as Attributes, value }));
  // The library's declaration of the kinds is a number; at run time they are words.
  switch (String(type)) {
    case 'counter':
      return { ...base, dataPointType: DataPointType.SUM, isMonotonic: true, dataPoints: single() };
    case 'gauge':
      return { ...base, dataPointType: DataPointType.GAUGE, dataPoints: single() };
    case 'histogram':
      return { ...base, dataPointType: DataPointType.HISTOGRAM, dataPoints: histograms(name, values, times) };
    default:
      return null;
  }
}

/** Returns the histograms among these values, one for each set of labels. Their buckets here count all smaller values too. */
function histograms(name: string, values: readonly Value[], times: Times) {
  const byLabels = new Map<
    string,
    { attributes: Attributes; buckets: [number, number][]; sum: number; count: number }
  >();
  for (const { labels, value, metricName } of values) {
    const { le, ...attributes } = labels as Attributes & { le?: unknown };
    const key = JSON.stringify(Object.entries(attributes).sort());
    let found = byLabels.get(key);
    if (!found) byLabels.set(key, (found = { attributes, buckets: [], sum: 0, count: 0 }));
    if (metricName === `${name}_sum`) found.sum = value;
    else if (metricName === `${name}_count`) found.count = value;
    else if (le !== '+Inf') found.buckets.push([Number(le), value]);
  }
  return [...byLabels.values()].map(({ attributes, buckets, sum, count }) => {
    buckets.sort(([a], [b]) => a - b);
    const upTo = [...buckets.map(([, below]) => below), count];
    const counts = upTo.map((below, at) => below - (upTo[at - 1] ?? 0));
    return {
      ...times,
      attributes,
      value: { buckets: { boundaries: buckets.map(([bound]) => bound), counts }, sum, count },
    };
  });
}
