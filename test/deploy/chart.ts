import { join } from 'node:path';
import { deadlineKnobs, limitKnobs, settings } from '../../src/config.ts';
import { pythonWith, run } from './tools.ts';

export const CHART = 'deploy/helm/holdfast';
export const ABSENT = 'Helm is not installed: test/deploy/install-tools installs it';

/** Release, namespace and Secret of the plain manifests. */
export const NAME = 'holdfast';

/** Every environment variable of Holdfast. */
export const variables: readonly string[] = [
  ...Object.values(deadlineKnobs),
  ...Object.values(limitKnobs),
  ...settings,
].map(({ variable }) => variable);

/** Variables of the Secret. */
export const secretVariables = [
  'DATABASE_URL',
  'HOLDFAST_SECRETS',
  'HOLDFAST_API_KEYS',
  'HOLDFAST_UPSTREAM_KEY',
  'HOLDFAST_ADMIN_TOKEN',
];
/** Variables that the templates set, and those that only make sense on one machine. */
const notForValues = [
  ...secretVariables,
  'HOST',
  'PORT',
  'HOLDFAST_INTERNAL_HOST',
  'HOLDFAST_INTERNAL_PORT',
  'HOLDFAST_ADVERTISE_URL',
  'HOLDFAST_LAME_DUCK_MS',
  'HOLDFAST_DRAIN_MS',
  'HOLDFAST_DATA_DIR',
  'HOLDFAST_LIVENESS_DIR',
  'HOLDFAST_WORKERS',
];
/** Variables of OpenTelemetry that are no secrets. Headers may be one: they belong into the Secret. */
const telemetry = [
  ...['', '_TRACES', '_METRICS'].flatMap((signal) => [
    `OTEL_EXPORTER_OTLP${signal}_ENDPOINT`,
    `OTEL_EXPORTER_OTLP${signal}_PROTOCOL`,
    `OTEL_EXPORTER_OTLP${signal}_COMPRESSION`,
    `OTEL_EXPORTER_OTLP${signal}_TIMEOUT`,
  ]),
  ...['OTEL_SERVICE_NAME', 'OTEL_RESOURCE_ATTRIBUTES', 'OTEL_TRACES_SAMPLER', 'OTEL_TRACES_SAMPLER_ARG'],
  ...['OTEL_TRACES_EXPORTER', 'OTEL_METRICS_EXPORTER', 'OTEL_METRIC_EXPORT_INTERVAL', 'OTEL_SDK_DISABLED'],
];
/** Variables that the value `settings` may contain. */
export const settable = [...variables.filter((variable) => !notForValues.includes(variable)), ...telemetry];

export interface Rendered {
  /** Rendered text by template. */
  files: Record<string, string>;
  lint: { messages: { severity: number; path: string; error: string }[]; errors: string[] };
}

/**
 * Renders the chart. Null when Helm is not installed.
 *
 * @throws the message of Helm, when it refuses the values
 */
export async function render(values: object): Promise<Rendered | null> {
  const python = await pythonWith('helm_python');
  if (!python) return null;
  const script = join(import.meta.dirname, 'render.py');
  const { code, stdout, stderr } = await run(python, [script, CHART, NAME, NAME], JSON.stringify(values));
  if (code !== 0) throw new Error(stderr);
  return JSON.parse(stdout);
}

export const plainValues = { existingSecret: NAME };

const header = (note: string) => `# Generated from deploy/helm/holdfast by \`npm run deploy:manifests\`. ${note}\n`;

/** Manifest in which the secrets are files. */
export const SECRET_FILES = 'secret-files.yaml';

/** Returns the plain manifests of `deploy/kubernetes` by file name; null when Helm is not installed. */
export async function plainManifests(): Promise<Record<string, string> | null> {
  const values = { ...plainValues, serviceMonitor: { enabled: true }, prometheusRule: { enabled: true } };
  const [rendered, withFiles] = await Promise.all([
    render(values),
    render({ ...values, secretFiles: { enabled: true } }),
  ]);
  if (!rendered || !withFiles) return null;
  const text = ({ files }: Rendered, ...templates: string[]) =>
    templates
      .flatMap((name) => files[`holdfast/templates/${name}.yaml`]!.split(/^---$/m))
      .map((document) => `---\n${document.replace(/^ *app\.kubernetes\.io\/managed-by: .*\n/gm, '').trim()}\n`)
      .join('');
  return {
    'holdfast.yaml':
      header('It needs a namespace and a Secret, both called holdfast: docs/deploy.md.') +
      text(rendered, 'service', 'statefulset', 'poddisruptionbudget', 'networkpolicy'),
    [SECRET_FILES]:
      header('The StatefulSet of holdfast.yaml, with the keys of the Secret as files; apply it after that file.') +
      text(withFiles, 'statefulset'),
    'monitoring.yaml': header('It needs the Prometheus operator.') + text(rendered, 'servicemonitor', 'prometheusrule'),
  };
}
