import { type ChildProcess, spawn } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '../../src/store/embedded/index.ts';
import { startSimulator } from '../../src/testing/index.ts';
import { startBalancer } from '../support/balancer.ts';
import { plainEnv } from '../support/program.ts';
import { readCompose, secrets } from './compose.ts';
import { which } from './tools.ts';

/** The topology of `deploy/compose/compose.yaml` on this machine, without containers. */
export interface Topology {
  /** Address of the balancer. */
  readonly url: string;
  readonly balancer: 'nginx' | 'node';
  /** A client's API key and the operators' token, as in `.env`. */
  readonly apiKey: string;
  readonly adminToken: string;
  readonly workers: readonly TopologyWorker[];
  /** Milliseconds since the start, by step. */
  readonly steps: Readonly<Record<string, number>>;
  close(): Promise<void>;
}

export interface TopologyWorker {
  readonly name: string;
  readonly url: string;
  /** Environment declared in `compose.yaml`, with addresses for names. */
  readonly env: Readonly<Record<string, string>>;
  /** Runs the healthcheck that `compose.yaml` declares; returns its exit code. */
  check(): Promise<number | null>;
  /** Sends SIGTERM; resolves with the exit code. */
  stop(): Promise<number | null>;
}

const CLI = join(import.meta.dirname, '..', '..', 'src', 'cli.ts');
const HEALTHCHECK = join(import.meta.dirname, '..', '..', 'deploy', 'docker', 'healthcheck.js');
/** No right to write any file: what the read-only root of the containers comes to. */
const READ_ONLY = [
  '--disable-warning=SecurityWarning',
  '--permission',
  '--allow-fs-read=*',
  '--allow-addons',
  '--allow-worker',
];

/** Waits for a condition. It fails at once when one of these processes has ended. */
async function until(check: () => Promise<boolean>, what: string, needed: readonly ChildProcess[]): Promise<void> {
  for (const end = performance.now() + 60_000; performance.now() < end; ) {
    if (await check().catch(() => false)) return;
    if (needed.some(({ exitCode }) => exitCode !== null)) throw new Error(`a process ended while waiting for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`waited 60 s in vain for ${what}`);
}

const ended = (child: ChildProcess) =>
  new Promise<number | null>((resolve) => {
    if (child.exitCode !== null || child.signalCode !== null) resolve(child.exitCode);
    else child.once('exit', resolve);
  });

/**
 * Starts the declared services as processes. Each service gets a loopback address of its own, so that ports stay as
 * declared; every service name in the environment and in `nginx.conf` is replaced by its address, 0.0.0.0 by that of the
 * service itself, and the database by an embedded one.
 *
 * @param balancer default: nginx, if it is installed
 */
export async function startTopology(balancer?: Topology['balancer']): Promise<Topology> {
  const startedAt = performance.now();
  const steps: Record<string, number> = {};
  const step = (name: string) => {
    steps[name] = Math.round(performance.now() - startedAt);
  };
  const closing: (() => Promise<unknown>)[] = [];
  const close = async () => {
    for (const each of closing.splice(0).reverse()) await each();
  };
  try {
    const dir = await mkdtemp(join(tmpdir(), 'holdfast-topology-'));
    await chmod(dir, 0o711);
    closing.push(() => rm(dir, { recursive: true, force: true }));
    const simulator = await startSimulator();
    closing.push(() => simulator.close());
    const services = await readCompose({ ...secrets, HOLDFAST_UPSTREAM_URL: simulator.url });
    const names = Object.keys(services).filter((name) => name.startsWith('worker-'));

    const database = await startEmbeddedPostgres({ dataDir: join(dir, 'database') });
    closing.push(() => database.stop());
    step('database');

    // A random network, so that several topologies may run at once.
    const network = `127.${1 + Math.floor(Math.random() * 250)}.${Math.floor(Math.random() * 250)}`;
    const addresses = new Map(names.map((name, at) => [name, `${network}.${11 + at}`]));
    const resolved = (text: string) =>
      text
        .replace(/^postgres:.*@postgres:5432\/.*$/, database.url)
        .replace(/\bworker-\d+\b/g, (name) => addresses.get(name) ?? name);

    const processes: ChildProcess[] = [];
    const workers = names.map((name): TopologyWorker => {
      const service = services[name]!;
      const own = addresses.get(name)!;
      const env = Object.fromEntries(
        Object.entries(service.environment!).map(([key, value]) => [key, value === '0.0.0.0' ? own : resolved(value)]),
      );
      const args = service.read_only ? READ_ONLY : [];
      const child = spawn(process.execPath, [...args, CLI, 'serve'], {
        env: { ...plainEnv(), HOLDFAST_LOG_LEVEL: 'warn', ...env },
        stdio: ['ignore', 'ignore', 'inherit'],
      });
      processes.push(child);
      closing.push(() => {
        child.kill('SIGKILL');
        return ended(child);
      });
      return {
        name,
        url: `http://${own}:${env.PORT}`,
        env,
        check: () =>
          ended(
            spawn(process.execPath, [HEALTHCHECK, ...service.healthcheck!.test.slice(3)], {
              env: { HOST: own, PORT: env.PORT },
            }),
          ),
        async stop() {
          child.kill('SIGTERM');
          return ended(child);
        },
      };
    });
    for (const { url, name } of workers) {
      await until(async () => (await fetch(`${url}/ready`)).ok, `${name} to be ready`, processes);
    }
    step('workers ready');

    const [host, port] = [`${network}.2`, 8080];
    const url = `http://${host}:${port}`;
    const nginx = balancer === 'node' ? null : await which('nginx', ['/usr/sbin/nginx']);
    if (nginx) {
      await mkdir(join(dir, 'nginx'));
      await chmod(join(dir, 'nginx'), 0o711);
      const config = resolved(await readFile('deploy/compose/nginx.conf', 'utf8'))
        .replaceAll('/tmp/', `${join(dir, 'nginx')}/`)
        .replace('listen 8080', `listen ${host}:${port}`)
        // Here the servers are addresses already, and Debian's nginx is older than `resolve`.
        .replace(/^ *resolver .*\n/m, '')
        // The refused connections of a drain are expected.
        .replace('error_log stderr warn', 'error_log stderr crit')
        .replaceAll(' resolve;', ';');
      const file = join(dir, 'nginx', 'nginx.conf');
      await writeFile(file, config);
      const child = spawn(nginx, ['-c', file, '-g', 'daemon off;'], { stdio: ['ignore', 'ignore', 'inherit'] });
      closing.push(() => {
        child.kill('SIGTERM');
        return ended(child);
      });
      processes.push(child);
    } else {
      const targets = workers.map(({ env }) => ({ host: env.HOST!, port: Number(env.PORT) }));
      closing.push((await startBalancer({ host, port }, targets)).close);
    }
    await until(async () => (await fetch(`${url}/ready`)).ok, 'the balancer', processes);
    step('balancer ready');
    return {
      url,
      balancer: nginx ? 'nginx' : 'node',
      apiKey: secrets.HOLDFAST_API_KEYS.split(':')[1]!,
      adminToken: secrets.HOLDFAST_ADMIN_TOKEN,
      workers,
      steps,
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Sends one turn of a conversation through the balancer. */
export async function turn(
  topology: Pick<Topology, 'url' | 'apiKey'>,
  conversation: string,
  input: unknown[],
): Promise<{ status: number; outcome: string | null; session: string | null; output: unknown[] }> {
  const response = await fetch(`${topology.url}/v1/responses`, {
    method: 'POST',
    headers: {
      authorization: `Bearer ${topology.apiKey}`,
      'content-type': 'application/json',
      'session-id': conversation,
    },
    body: JSON.stringify({ model: 'demo', input, store: false }),
  });
  const text = await response.text();
  // The balancer's own errors are pages.
  const isJson = response.headers.get('content-type')?.includes('json') ?? false;
  const body = (isJson ? JSON.parse(text) : { page: text }) as { output?: unknown[]; error?: unknown };
  return {
    status: response.status,
    outcome: response.headers.get('x-holdfast-outcome'),
    session: response.headers.get('x-holdfast-session'),
    output: body.output ?? [body],
  };
}

export const say = (text: string) => ({ type: 'message', role: 'user', content: [{ type: 'input_text', text }] });
