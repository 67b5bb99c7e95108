import type { Registry } from 'prom-client';
import { type Config, ConfigError } from '../../config.ts';
import type { Clock } from '../../system.ts';
import type { Logger } from '../log.ts';
import { TelemetryUnusable, type Traces } from './port.ts';

/** OpenTelemetry of one bridge. */
export interface Telemetry extends Traces {
  /** Exports the metrics of this registry too, where Holdfast has an exporter of its own. */
  measure(registry: Registry): void;
  /** Sends what is left, within 2 s, and ends. */
  close(): Promise<void>;
}

/**
 * Returns whether this process has a tracer provider already. The API keeps it under this symbol, which all of its releases
 * share; to load the API for the answer would cost each start.
 */
function hasProvider(): boolean {
  const api = (globalThis as Record<symbol, unknown>)[Symbol.for('opentelemetry.js.api.1')];
  return (api as { trace?: unknown } | undefined)?.trace !== undefined;
}

const endpoints = [
  'OTEL_EXPORTER_OTLP_ENDPOINT',
  'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT',
  'OTEL_EXPORTER_OTLP_METRICS_ENDPOINT',
];

/**
 * Starts traces and metrics, if they are wanted: by the setting, by an endpoint of OTLP in the environment, or because the
 * application has registered a tracer provider, which then gets the spans. Otherwise nothing is loaded.
 *
 * @param from.env environment of the process, which the exporters read too
 * @returns null where they are not wanted, or not usable and only asked for by the environment, which is logged
 * @throws ConfigError if HOLDFAST_OTEL is `on` and they are not usable
 */
export async function startTelemetry(from: {
  config: Pick<Config, 'otel' | 'upstream'>;
  clock: Clock;
  logger: Logger;
  workerId(): string;
  env?: NodeJS.ProcessEnv;
}): Promise<Telemetry | null> {
  const { config, logger, env = process.env } = from;
  if (config.otel === 'off' || env.OTEL_SDK_DISABLED?.trim().toLowerCase() === 'true') return null;
  const provided = hasProvider();
  if (config.otel === 'auto' && !provided && !endpoints.some((name) => env[name]?.trim())) return null;
  try {
    const { createTraces, tracerOf } = await import('./traces.ts');
    const sdk = provided ? null : await startOwn(env, logger);
    const traces = createTraces({ ...from, tracer: tracerOf(sdk?.tracers) });
    return { ...traces, measure: (registry) => sdk?.measure(registry), close: async () => sdk?.close() };
  } catch (error) {
    if (!(error instanceof TelemetryUnusable)) throw error;
    if (config.otel === 'on') throw new ConfigError(error.message, [error.message]);
    logger.warn({}, `no traces and metrics are exported: ${error.message}`);
    return null;
  }
}

async function startOwn(env: NodeJS.ProcessEnv, logger: Logger) {
  try {
    const { startSdk } = await import('./sdk.ts');
    return await startSdk(env, logger);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== 'ERR_MODULE_NOT_FOUND' || !message.includes('@opentelemetry/')) throw error;
    throw new TelemetryUnusable(
      'the packages of OpenTelemetry are not installed. Install Holdfast again, or set HOLDFAST_OTEL=off. ' +
        'The packages: @opentelemetry/sdk-trace, @opentelemetry/sdk-metrics, @opentelemetry/resources, ' +
        '@opentelemetry/exporter-trace-otlp-proto, @opentelemetry/exporter-metrics-otlp-proto, and those with -http for JSON',
      { cause: error },
    );
  }
}
