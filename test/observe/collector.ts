import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { until } from '../support/until.ts';

interface Value {
  stringValue?: string;
  intValue?: number | string;
  doubleValue?: number;
  boolValue?: boolean;
}
interface KeyValue {
  key: string;
  value: Value;
}

/** A span as a collector gets it. */
export interface CollectedSpan {
  traceId: string;
  spanId: string;
  parentSpanId: string;
  name: string;
  kind: 'internal' | 'server' | 'client';
  startNs: bigint;
  endNs: bigint;
  attributes: Record<string, string | number | boolean>;
  events: { name: string; atNs: bigint }[];
  failed: boolean;
  /** Attributes of the process. */
  resource: Record<string, string | number | boolean>;
}

/** One value of a metric as a collector gets it. */
export interface CollectedPoint {
  labels: Record<string, string | number | boolean>;
  value?: number;
  histogram?: { count: number; sum: number; boundaries: number[]; counts: number[] };
}

export interface CollectedMetric {
  kind: 'sum' | 'gauge' | 'histogram';
  unit: string;
  monotonic: boolean;
  points: CollectedPoint[];
}

/** A collector of OTLP over HTTP that reads JSON and keeps everything. */
export interface Collector {
  readonly url: string;
  readonly requests: { path: string; headers: IncomingHttpHeaders; body: Buffer }[];
  readonly spans: CollectedSpan[];
  /** The metrics of the last export, by their names. */
  readonly metrics: Map<string, CollectedMetric>;
  /** Resolves with the spans once this many have arrived. */
  collected(count: number): Promise<CollectedSpan[]>;
  /** Answers with this status from now on. */
  answer(status: number): void;
  close(): Promise<void>;
}

const kinds = ['internal', 'internal', 'server', 'client'] as const;
const plain = ({ stringValue, intValue, doubleValue, boolValue }: Value) =>
  stringValue ?? (intValue === undefined ? undefined : Number(intValue)) ?? doubleValue ?? boolValue ?? '';
const record = (given: KeyValue[] = []) => Object.fromEntries(given.map(({ key, value }) => [key, plain(value)]));

// biome-ignore lint/suspicious/noExplicitAny: what arrives is read as it comes
type Arrived = any;

function readSpans(body: Arrived): CollectedSpan[] {
  return body.resourceSpans.flatMap(({ resource, scopeSpans }: Arrived) =>
    scopeSpans.flatMap(({ spans }: Arrived) =>
      spans.map((span: Arrived) => ({
        traceId: span.traceId,
        spanId: span.spanId,
        parentSpanId: span.parentSpanId ?? '',
        name: span.name,
        kind: kinds[span.kind],
        startNs: BigInt(span.startTimeUnixNano),
        endNs: BigInt(span.endTimeUnixNano),
        attributes: record(span.attributes),
        events: (span.events ?? []).map((event: Arrived) => ({ name: event.name, atNs: BigInt(event.timeUnixNano) })),
        failed: span.status?.code === 2,
        resource: record(resource.attributes),
      })),
    ),
  );
}

function readMetrics(body: Arrived): Map<string, CollectedMetric> {
  const found = new Map<string, CollectedMetric>();
  for (const { scopeMetrics } of body.resourceMetrics) {
    for (const { metrics } of scopeMetrics) {
      for (const { name, unit, sum, gauge, histogram } of metrics) {
        const data = sum ?? gauge ?? histogram;
        found.set(name, {
          kind: sum ? 'sum' : gauge ? 'gauge' : 'histogram',
          unit,
          monotonic: sum?.isMonotonic ?? false,
          points: data.dataPoints.map((point: Arrived) => ({
            labels: record(point.attributes),
            ...(histogram
              ? {
                  histogram: {
                    ...{ count: Number(point.count), sum: point.sum },
                    ...{ boundaries: point.explicitBounds, counts: point.bucketCounts.map(Number) },
                  },
                }
              : { value: point.asDouble ?? Number(point.asInt) }),
          })),
        });
      }
    }
  }
  return found;
}

/** Starts a collector on loopback. */
export async function startCollector(): Promise<Collector> {
  let status = 200;
  let metrics = new Map<string, CollectedMetric>();
  const requests: Collector['requests'] = [];
  const spans: CollectedSpan[] = [];
  const server = createServer((req, res) => {
    const parts: Buffer[] = [];
    req.on('data', (part: Buffer) => parts.push(part));
    req.on('end', () => {
      const body = Buffer.concat(parts);
      const path = req.url ?? '';
      requests.push({ path, headers: req.headers, body });
      if (status === 200 && req.headers['content-type'] === 'application/json') {
        const parsed = JSON.parse(body.toString('utf8'));
        if (path === '/v1/traces') spans.push(...readSpans(parsed));
        if (path === '/v1/metrics') metrics = readMetrics(parsed);
      }
      res.writeHead(status, { 'content-type': 'application/json' }).end('{}');
    });
  });
  await new Promise<void>((up) => server.listen(0, '127.0.0.1', up));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    spans,
    get metrics() {
      return metrics;
    },
    async collected(count) {
      await until(() => spans.length >= count);
      return spans;
    },
    answer(next) {
      status = next;
    },
    async close() {
      const closed = new Promise<void>((end) => server.close(() => end()));
      server.closeAllConnections();
      await closed;
    },
  };
}
