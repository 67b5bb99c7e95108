import { randomUUID } from 'node:crypto';
import type { TracerProvider as Tracers } from '@opentelemetry/api';
import { defaultResource, detectResources, envDetector, resourceFromAttributes } from '@opentelemetry/resources';
import { MeterProvider, PeriodicExportingMetricReader, type PushMetricExporter } from '@opentelemetry/sdk-metrics';
import {
  AlwaysOffSampler,
  AlwaysOnSampler,
  BatchSpanProcessor,
  ParentBasedSampler,
  type Sampler,
  type SpanExporter,
  TraceIdRatioBasedSampler,
  TracerProvider,
} from '@opentelemetry/sdk-trace';
import type { Registry } from 'prom-client';
import { version } from '../../version.ts';
import type { Logger } from '../log.ts';
import { createMetricProducer } from './metrics.ts';
import { TelemetryUnusable } from './port.ts';

/** The SDK with exporters of its own. It registers nothing in the process. */
interface Sdk {
  /** Undefined: traces are not exported. */
  readonly tracers: Tracers | undefined;
  /** Exports these metrics periodically. */
  measure(registry: Registry): void;
  /** Sends what is left, within `FLUSH_MS`, and ends. */
  close(): Promise<void>;
}

/** Time for the last export at shutdown, in milliseconds. */
const FLUSH_MS = 2_000;
/** Longest text of an attribute, in characters, unless the environment sets a limit. */
const LONGEST_VALUE = 1_024;

/**
 * Starts the SDK as the environment asks: endpoint, headers, certificates, compression and timeout are read by the exporters
 * themselves, the rest here.
 *
 * @throws TelemetryUnusable naming the variable whose value is not supported
 */
export async function startSdk(env: NodeJS.ProcessEnv, logger: Logger): Promise<Sdk> {
  const resource = defaultResource()
    .merge(
      resourceFromAttributes({
        'service.name': 'holdfast',
        'service.version': version,
        'service.instance.id': randomUUID(),
      }),
    )
    .merge(detectResources({ detectors: [envDetector] }));
  const [traces, metrics] = await Promise.all([spanExporter(env), metricExporter(env)]);
  const tracers =
    traces === null
      ? undefined
      : new TracerProvider({
          resource,
          sampler: samplerOf(env),
          spanLimits: {
            attributeValueLengthLimit: countOf(env, 'OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT') ?? LONGEST_VALUE,
          },
          spanProcessors: [
            new BatchSpanProcessor({
              exporter: reporting(traces, 'traces', logger),
              ...defined({
                maxQueueSize: countOf(env, 'OTEL_BSP_MAX_QUEUE_SIZE'),
                scheduledDelayMillis: countOf(env, 'OTEL_BSP_SCHEDULE_DELAY'),
                exportTimeoutMillis: countOf(env, 'OTEL_BSP_EXPORT_TIMEOUT'),
                maxExportBatchSize: countOf(env, 'OTEL_BSP_MAX_EXPORT_BATCH_SIZE'),
              }),
            }),
          ],
        });
  let meters: MeterProvider | undefined;

  return {
    tracers,
    measure(registry) {
      if (metrics === null) return;
      const every = countOf(env, 'OTEL_METRIC_EXPORT_INTERVAL') ?? 60_000;
      const reader = new PeriodicExportingMetricReader({
        exporter: reporting(metrics, 'metrics', logger),
        exportIntervalMillis: every,
        exportTimeoutMillis: Math.min(every, countOf(env, 'OTEL_METRIC_EXPORT_TIMEOUT') ?? 30_000),
        metricProducers: [createMetricProducer(registry, resource)],
      });
      meters = new MeterProvider({ resource, readers: [reader] });
    },
    async close() {
      const sent = Promise.allSettled([tracers?.shutdown(), meters?.shutdown()]);
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<'late'>((end) => (timer = setTimeout(end, FLUSH_MS, 'late')));
      if ((await Promise.race([sent, late])) === 'late') {
        logger.warn({ waitedMs: FLUSH_MS }, 'the collector of OpenTelemetry has not taken the last exports');
      }
      clearTimeout(timer);
    },
  };
}

/**
 * Makes an exporter report its failures: one line when exports begin to fail, and one when they succeed again. What the
 * collector did not take is lost.
 */
function reporting<E extends SpanExporter | PushMetricExporter>(exporter: E, signal: string, logger: Logger): E {
  const send = exporter.export.bind(exporter) as SpanExporter['export'];
  let failing = false;
  exporter.export = ((batch: never, done: (result: { code: number; error?: Error }) => void) =>
    send(batch, (result) => {
      const failed = result.code !== 0;
      if (failed !== failing) {
        failing = failed;
        const cause = String((result.error as NodeJS.ErrnoException | undefined)?.code ?? result.error?.message ?? '');
        if (failed)
          logger.warn({ signal, cause: cause.slice(0, 200) }, 'the collector of OpenTelemetry takes no exports');
        else logger.info({ signal }, 'the collector of OpenTelemetry takes exports again');
      }
      done(result);
    })) as E['export'];
  return exporter;
}

const wordOf = (env: NodeJS.ProcessEnv, name: string): string | null => env[name]?.trim().toLowerCase() || null;

/** Returns a variable that is a positive whole number; undefined for any other value, as OpenTelemetry asks for. */
function countOf(env: NodeJS.ProcessEnv, name: string): number | undefined {
  const value = Number(env[name]?.trim() || Number.NaN);
  return Number.isSafeInteger(value) && value > 0 ? value : undefined;
}

function defined<T extends object>(options: T): { [K in keyof T]?: NonNullable<T[K]> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as never;
}

/**
 * Returns the protocol in which a signal is exported; null where it is not exported.
 *
 * @throws TelemetryUnusable
 */
function protocolOf(env: NodeJS.ProcessEnv, signal: 'TRACES' | 'METRICS'): 'protobuf' | 'json' | null {
  const exporter = wordOf(env, `OTEL_${signal}_EXPORTER`) ?? 'otlp';
  if (exporter === 'none') return null;
  if (exporter !== 'otlp') throw new TelemetryUnusable(`OTEL_${signal}_EXPORTER must be otlp or none`);
  const own = `OTEL_EXPORTER_OTLP_${signal}_PROTOCOL`;
  const name = wordOf(env, own) === null ? 'OTEL_EXPORTER_OTLP_PROTOCOL' : own;
  const protocol = wordOf(env, name) ?? 'http/protobuf';
  if (protocol === 'http/protobuf') return 'protobuf';
  if (protocol === 'http/json') return 'json';
  throw new TelemetryUnusable(`${name} must be http/protobuf or http/json`);
}

async function spanExporter(env: NodeJS.ProcessEnv): Promise<SpanExporter | null> {
  switch (protocolOf(env, 'TRACES')) {
    case null:
      return null;
    case 'json':
      return new (await import('@opentelemetry/exporter-trace-otlp-http')).OTLPTraceExporter();
    case 'protobuf':
      return new (await import('@opentelemetry/exporter-trace-otlp-proto')).OTLPTraceExporter();
  }
}

async function metricExporter(env: NodeJS.ProcessEnv): Promise<PushMetricExporter | null> {
  switch (protocolOf(env, 'METRICS')) {
    case null:
      return null;
    case 'json':
      return new (await import('@opentelemetry/exporter-metrics-otlp-http')).OTLPMetricExporter();
    case 'protobuf':
      return new (await import('@opentelemetry/exporter-metrics-otlp-proto')).OTLPMetricExporter();
  }
}

/** @throws TelemetryUnusable for an unknown sampler, or a ratio outside 0 to 1 */
function samplerOf(env: NodeJS.ProcessEnv): Sampler {
  const name = wordOf(env, 'OTEL_TRACES_SAMPLER') ?? 'parentbased_always_on';
  const [, based, kind] = /^(parentbased_)?(always_on|always_off|traceidratio)$/.exec(name) ?? [];
  if (kind === undefined) {
    throw new TelemetryUnusable(
      'OTEL_TRACES_SAMPLER must be always_on, always_off or traceidratio, or one of them after parentbased_',
    );
  }
  const ratio = Number(env.OTEL_TRACES_SAMPLER_ARG?.trim() || 1);
  if (kind === 'traceidratio' && !(ratio >= 0 && ratio <= 1)) {
    throw new TelemetryUnusable('OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1');
  }
  const root =
    kind === 'always_on'
      ? new AlwaysOnSampler()
      : kind === 'always_off'
        ? new AlwaysOffSampler()
        : new TraceIdRatioBasedSampler(ratio);
  return based ? new ParentBasedSampler({ root }) : root;
}
