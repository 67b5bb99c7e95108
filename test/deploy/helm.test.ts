import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { parse, parseAllDocuments } from 'yaml';
import { readConfig } from '../../src/config.ts';
import { longestShutdown } from '../../src/worker.ts';
import { snippetAfter } from '../docs/snippets.ts';
import {
  ABSENT,
  CHART,
  NAME,
  plainManifests,
  plainValues,
  render,
  SECRET_FILES,
  secretVariables,
  settable,
} from './chart.ts';
import { pythonWith, run } from './tools.ts';

// Each rendering starts a Python.
vi.setConfig({ testTimeout: 180_000 });

const KUBERNETES = 'deploy/kubernetes';
const NEWEST = '1.34';
const MOUNTED = '/run/secrets/holdfast';

interface Probe {
  httpGet: { path: string; port: string };
  periodSeconds: number;
  failureThreshold: number;
}
interface Container {
  env: { name: string; value?: string; valueFrom?: { fieldRef: { fieldPath: string } } }[];
  envFrom?: object[];
  volumeMounts?: object[];
  ports: { name: string; containerPort: number }[];
  securityContext: object;
  startupProbe: Probe;
  livenessProbe: Probe;
  readinessProbe: Probe;
}
// biome-ignore lint/suspicious/noExplicitAny: manifests of many kinds
type Manifest = { kind: string; metadata: { name: string; labels: Record<string, string> }; spec: any };

const documents = (text: string) => parseAllDocuments(text).map((each) => each.toJS() as Manifest);
const all = async (file: string) => documents(await readFile(join(KUBERNETES, file), 'utf8'));
const plain = await all('holdfast.yaml');
const kind = (name: string) => plain.filter((each) => each.kind === name);
const pod = kind('StatefulSet')[0]!.spec.template.spec;
const [container] = pod.containers as [Container];

/** Environment of the first pod, as the cluster would make it. */
function podEnv({ env: declared }: Container = container): Record<string, string> {
  const fields: Record<string, string> = {
    'status.podIP': '10.1.2.3',
    'metadata.name': 'holdfast-0',
    'metadata.namespace': 'holdfast',
  };
  const env: Record<string, string> = {};
  for (const { name, value, valueFrom } of declared) {
    const text = value ?? fields[valueFrom!.fieldRef.fieldPath]!;
    env[name] = text.replace(/\$\((\w+)\)/g, (_, other) => env[other]!);
  }
  return env;
}

const secret = {
  DATABASE_URL: 'postgres://holdfast:password@postgres/holdfast',
  HOLDFAST_SECRETS: `k1:${'5'.repeat(64)}`,
  HOLDFAST_API_KEYS: 'me:hf-client-key',
  HOLDFAST_UPSTREAM_KEY: 'sk-upstream',
  HOLDFAST_ADMIN_TOKEN: 'admin-token',
};

describe('The plain manifests', () => {
  it('give a worker valid settings, and an address in the headless service', () => {
    expect(Object.keys(secret)).toEqual(secretVariables);
    const config = readConfig({ ...podEnv(), ...secret });
    expect(config.internal).toEqual({
      host: '10.1.2.3',
      port: 8788,
      advertiseUrl: 'http://holdfast-0.holdfast-peers.holdfast.svc:8788',
    });
    const peers = kind('Service').find(({ spec }) => spec.clusterIP === 'None')!;
    expect(peers.metadata.name).toBe(kind('StatefulSet')[0]!.spec.serviceName);
    expect(peers.spec.publishNotReadyAddresses).toBe(true);
  });

  it('grant the time of a whole drain before a pod is killed', () => {
    const { deadlines } = readConfig({ ...podEnv(), ...secret });
    expect(pod.terminationGracePeriodSeconds * 1_000).toBeGreaterThanOrEqual(longestShutdown(deadlines));
    // Endpoints are withdrawn while the worker still serves.
    const { periodSeconds, failureThreshold } = container.readinessProbe;
    expect(deadlines.lameDuck).toBeGreaterThan(periodSeconds * failureThreshold * 1_000);
  });

  it('probe the paths that exist, on ports that exist', () => {
    expect(container.startupProbe.httpGet.path).toBe('/health');
    expect(container.livenessProbe.httpGet.path).toBe('/health');
    expect(container.readinessProbe.httpGet.path).toBe('/ready');
    const { deadlines } = readConfig({ ...podEnv(), ...secret });
    const { periodSeconds, failureThreshold } = container.startupProbe;
    expect(periodSeconds * failureThreshold * 1_000).toBeGreaterThan(deadlines.storeStart);
    expect(container.ports.map(({ name, containerPort }) => [name, containerPort])).toEqual([
      ['http', Number(podEnv().PORT)],
      ['peers', Number(podEnv().HOLDFAST_INTERNAL_PORT)],
    ]);
    for (const { spec } of kind('Service')) {
      for (const { targetPort } of spec.ports) expect(container.ports.map(({ name }) => name)).toContain(targetPort);
    }
  });

  it('run without privileges', () => {
    expect(pod.securityContext).toMatchObject({ runAsNonRoot: true, runAsUser: 65532 });
    expect(container.securityContext).toEqual({
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    });
    expect(pod).toMatchObject({ automountServiceAccountToken: false, enableServiceLinks: false });
  });

  it('open the port of the workers to the workers alone', () => {
    const [policy] = kind('NetworkPolicy');
    const labels = kind('StatefulSet')[0]!.spec.selector.matchLabels;
    const peers = policy!.spec.ingress.find((rule: { ports: { port: string }[] }) => rule.ports[0]!.port === 'peers');
    expect(peers.from).toEqual([{ podSelector: { matchLabels: labels } }]);
    expect(kind('PodDisruptionBudget')[0]!.spec.maxUnavailable).toBe(1);
  });

  it('scrape the metrics of every worker with the admin token, and alert as deploy/prometheus does', async () => {
    const [monitor, rule] = await all('monitoring.yaml');
    const { endpoints, selector } = monitor!.spec;
    expect(endpoints[0]).toMatchObject({
      path: '/metrics',
      authorization: { credentials: { name: NAME, key: 'HOLDFAST_ADMIN_TOKEN' } },
    });
    const chosen = kind('Service').filter(({ metadata }) =>
      Object.entries(selector.matchLabels).every(([label, value]) => metadata.labels[label] === value),
    );
    expect(chosen.map(({ metadata }) => metadata.name)).toEqual(['holdfast']);
    expect(rule!.spec).toEqual(parse(await readFile('deploy/prometheus/alerts.yml', 'utf8')));
  });

  it('fit the schemas of Kubernetes', async ({ skip }) => {
    const python = await pythonWith('kubernetes_validate');
    if (!python) return skip('kubernetes-validate is not installed: test/deploy/install-tools installs it');
    for (const file of ['holdfast.yaml', SECRET_FILES]) {
      const args = ['-m', 'kubernetes_validate', '--strict', '-k', NEWEST, join(KUBERNETES, file)];
      const { code, stdout, stderr } = await run(python, args);
      expect(code, stdout + stderr).toBe(0);
    }
  });

  it('mount the secrets as files that only the process can read, and no secret is in the environment', async () => {
    const [set, ...rest] = await all(SECRET_FILES);
    expect(rest).toEqual([]);
    expect(set!.metadata).toEqual(kind('StatefulSet')[0]!.metadata);
    const { containers, volumes, securityContext } = set!.spec.template.spec;
    const [mounting] = containers as [Container];
    expect(mounting.envFrom).toBeUndefined();
    expect(mounting.volumeMounts).toEqual([{ name: 'secrets', mountPath: MOUNTED, readOnly: true }]);
    const items = secretVariables.map((key) => ({ key, path: key }));
    expect(volumes).toEqual([{ name: 'secrets', secret: { secretName: NAME, defaultMode: 0o440, items } }]);
    expect(securityContext).toMatchObject({ runAsGroup: 65532, fsGroup: 65532 });

    const dir = await mkdtemp(join(tmpdir(), 'holdfast-secrets-'));
    try {
      for (const [name, text] of Object.entries(secret)) await writeFile(join(dir, name), text);
      const env = podEnv(mounting);
      const files = Object.entries(env).filter(([, value]) => value.startsWith(`${MOUNTED}/`));
      for (const [name, path] of files) env[name] = join(dir, basename(path));
      expect(readConfig(env)).toEqual(readConfig({ ...podEnv(), ...secret }));
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  });
});

/** Returns the value at a path of names. */
const valueAt = (values: unknown, path: string): unknown =>
  path.split('.').reduce((at, name) => (at as Record<string, unknown>)[name], values);

describe('The chart', () => {
  it('has the version of the package, its alerts and its settings', async () => {
    const { version } = JSON.parse(await readFile('package.json', 'utf8'));
    expect(parse(await readFile(join(CHART, 'Chart.yaml'), 'utf8'))).toMatchObject({ version, appVersion: version });
    const alerts = await readFile(join(CHART, 'files', 'alerts.yml'), 'utf8');
    expect(alerts).toBe(await readFile('deploy/prometheus/alerts.yml', 'utf8'));
    const schema = JSON.parse(await readFile(join(CHART, 'values.schema.json'), 'utf8'));
    expect(schema.properties.settings.propertyNames.enum).toEqual(settable);
    expect(schema.properties.secretFiles.properties.keys.items.enum).toEqual(secretVariables);
    const values = parse(await readFile(join(CHART, 'values.yaml'), 'utf8'));
    expect(values.secretFiles.keys).toEqual(secretVariables);
    expect(Object.keys(values).sort()).toEqual(
      Object.keys(schema.properties)
        .filter((name) => name !== 'global')
        .sort(),
    );
  });

  it('is installed by the commands of the page: their image, Secret and values are those of the chart', async () => {
    const commands = await snippetAfter('docs/deploy.md', '<!-- check: kubernetes -->');
    const { appVersion } = parse(await readFile(join(CHART, 'Chart.yaml'), 'utf8'));
    const values = parse(await readFile(join(CHART, 'values.yaml'), 'utf8'));
    const found = (pattern: RegExp) => [...commands.matchAll(pattern)].map(([, text]) => text!);
    const [repository] = found(/--set image\.repository=(\S+)/g);
    expect(found(/(?:--tag|docker push) (\S+)/g)).toEqual(Array(2).fill(`${repository}:${appVersion}`));
    expect(found(/--from-literal=(\w+)=/g)).toEqual(secretVariables);
    for (const name of found(/--set ([\w.]+)=/g)) expect(valueAt(values, name), name).toBeDefined();
  });

  it('renders to the plain manifests (npm run deploy:manifests writes them)', async ({ skip }) => {
    const manifests = await plainManifests();
    if (!manifests) return skip(ABSENT);
    expect(Object.keys(manifests).sort()).toEqual((await readdir(KUBERNETES)).sort());
    for (const [name, text] of Object.entries(manifests)) {
      expect(text, name).toBe(await readFile(join(KUBERNETES, name), 'utf8'));
    }
  });

  it('refuses misspelled settings, secrets among the settings, and an installation without a Secret', {
    timeout: 120_000,
  }, async ({ skip }) => {
    if (!(await render(plainValues))) return skip(ABSENT);
    const refused = [
      {},
      { ...plainValues, settings: { HOLDFAST_LEASE: 1 } },
      { ...plainValues, settings: { HOLDFAST_SECRETS: 'k1:secret' } },
      { ...plainValues, replica: 2 },
      { ...plainValues, drain: { graceSeconds: 1 } },
      { ...plainValues, secretFiles: { enabled: true, keys: ['HOLDFAST_SECRET'] } },
      { secretFiles: { enabled: true } },
      { secretFiles: { enabled: false, volume: { csi: { driver: 'secrets-store.csi.k8s.io' } } } },
    ].map((wrong) => expect(render(wrong), JSON.stringify(wrong)).rejects.toThrow(/HelmValues|values|schema|validat/i));
    await Promise.all(refused);
  });

  it('takes the files with the secrets from a volume that is named, without a Secret', async ({ skip }) => {
    const csi = {
      driver: 'secrets-store.csi.k8s.io',
      readOnly: true,
      volumeAttributes: { secretProviderClass: 'vault' },
    };
    const keys = secretVariables.filter((name) => name !== 'HOLDFAST_ADMIN_TOKEN');
    const rendered = await render({ secretFiles: { enabled: true, keys, volume: { csi } } });
    if (!rendered) return skip(ABSENT);
    const [set] = documents(rendered.files['holdfast/templates/statefulset.yaml']!);
    const { containers, volumes } = set!.spec.template.spec;
    expect(volumes).toEqual([{ name: 'secrets', csi }]);
    const { env, envFrom } = containers[0] as Container;
    expect(envFrom).toBeUndefined();
    const named = env.map(({ name }) => name).filter((name) => name.endsWith('_FILE'));
    expect(named).toEqual(keys.map((name) => `${name}_FILE`));
    // The metrics are read with a key of the Secret.
    const monitored = { secretFiles: { enabled: true, volume: { csi } }, serviceMonitor: { enabled: true } };
    await expect(render(monitored)).rejects.toThrow('name the Secret');
  });

  it('passes settings on, and leaves the number of workers to the autoscaler', async ({ skip }) => {
    const rendered = await render({
      ...plainValues,
      settings: { HOLDFAST_UPSTREAM_URL: 'https://example.com/v1', HOLDFAST_MAX_BODY_BYTES: 67_108_864 },
      autoscaling: { enabled: true },
      peers: { advertise: 'ip' },
      drain: { lameDuckMs: 2_500, runningMs: 600_000 },
      networkPolicy: {
        clients: [{ namespaceSelector: { matchLabels: { team: 'agents' } } }],
        egress: [{ ports: [{ port: 5432 }] }],
      },
    });
    if (!rendered) return skip(ABSENT);
    expect(rendered.lint.messages.filter(({ severity }) => severity > 1)).toEqual([]);
    const made = Object.entries(rendered.files)
      .filter(([name]) => name.endsWith('.yaml'))
      .flatMap(([, text]) => documents(text))
      .filter((each) => each !== null);
    const [set] = made.filter((each) => each.kind === 'StatefulSet');
    expect(set!.spec.replicas).toBeUndefined();
    expect(made.some((each) => each.kind === 'HorizontalPodAutoscaler')).toBe(true);
    expect(set!.spec.template.spec.terminationGracePeriodSeconds).toBe(603 + 25);
    const { env } = set!.spec.template.spec.containers[0];
    expect(env).toContainEqual({ name: 'HOLDFAST_MAX_BODY_BYTES', value: '67108864' });
    expect(env).toContainEqual({ name: 'HOLDFAST_ADVERTISE_URL', value: 'http://$(POD_IP):8788' });
    const [policy] = made.filter((each) => each.kind === 'NetworkPolicy');
    expect(policy!.spec.policyTypes).toEqual(['Ingress', 'Egress']);
    expect(policy!.spec.egress).toHaveLength(3);
  });
});
