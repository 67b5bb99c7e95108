import { type ChildProcess, spawn } from 'node:child_process';
import { createWriteStream, existsSync } from 'node:fs';
import { chmod, chown, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { unprivileged } from '../../src/store/embedded/binaries.ts';
import { plainEnvironment } from '../../src/store/embedded/server.ts';
import { freePort } from '../support/worker-process.ts';

/** Paths of the programs as Debian's `etcd-server`, `patroni`, `haproxy` and `postgresql-15` install them. */
export const programs = {
  etcd: '/usr/bin/etcd',
  patroni: '/usr/bin/patroni',
  haproxy: '/usr/sbin/haproxy',
  postgres: '/usr/lib/postgresql/15/bin/postgres',
};

export const missingPrograms = Object.values(programs).filter((path) => !existsSync(path));

const NODES = ['n1', 'n2', 'n3'];

/** Patroni's reaction times in seconds: the shortest that it accepts. */
const DCS = { ttl: 20, loop_wait: 2, retry_timeout: 5 };

/** Maximum time for the cluster to become whole, in milliseconds. */
const WHOLE_WITHIN_MS = 300_000;

/**
 * Three PostgreSQL servers under Patroni with etcd, one of them a synchronous standby, and HAProxy in front of the
 * primary. Commits are acknowledged only when a second server has them.
 */
export interface PostgresCluster {
  /** URL of a database through HAProxy. */
  url: string;
  /** Returns the name of the primary. */
  leader(): Promise<string>;
  /** Kills the primary and its Patroni (SIGKILL), waits until another server is the primary, and starts it again. */
  crash(): Promise<void>;
  /** Makes Patroni switch the primary over in order. */
  switchover(): Promise<void>;
  /** Resolves when one server leads, two follow, and one of these is synchronous. */
  whole(): Promise<void>;
  close(): Promise<void>;
}

interface Node {
  name: string;
  port: number;
  restPort: number;
  dataDir: string;
  config: string;
  patroni: ChildProcess | null;
}

interface Member {
  name: string;
  role: string;
  state: string;
}

export async function startCluster(log: (text: string) => void): Promise<PostgresCluster> {
  const dir = await mkdtemp(join(tmpdir(), 'hf-failover-'));
  const user = unprivileged();
  await chmod(dir, 0o755);
  const own = async (path: string) => {
    if (user) await chown(path, user.uid, user.gid);
  };
  await own(dir);
  const started = new Set<ChildProcess>();

  /** Starts a program as a user that PostgreSQL accepts; its output goes to a file beside the data. */
  function run(name: string, program: string, args: readonly string[]): ChildProcess {
    const child = spawn(program, args, {
      ...(user ?? {}),
      cwd: dir,
      env: { ...plainEnvironment(process.env), HOME: dir },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const output = createWriteStream(join(dir, `${name}.log`), { flags: 'a' });
    child.stdout.pipe(output, { end: false });
    child.stderr.pipe(output, { end: false });
    started.add(child);
    child.once('exit', () => started.delete(child));
    return child;
  }

  const [etcdPort, etcdPeerPort, proxyPort] = [await freePort(), await freePort(), await freePort()];
  const etcdUrl = `http://127.0.0.1:${etcdPort}`;
  const etcdPeerUrl = `http://127.0.0.1:${etcdPeerPort}`;
  const nodes: Node[] = [];
  for (const name of NODES) {
    nodes.push({
      name,
      port: await freePort(),
      restPort: await freePort(),
      dataDir: join(dir, name),
      config: join(dir, `${name}.yml`),
      patroni: null,
    });
  }

  async function configure(node: Node): Promise<void> {
    // JSON is valid YAML.
    const config = {
      scope: 'holdfast',
      name: node.name,
      restapi: { listen: `127.0.0.1:${node.restPort}`, connect_address: `127.0.0.1:${node.restPort}` },
      etcd3: { host: `127.0.0.1:${etcdPort}` },
      bootstrap: {
        dcs: {
          ...DCS,
          // Patroni fails over at once instead of restarting the failed primary.
          master_start_timeout: 0,
          synchronous_mode: true,
          synchronous_mode_strict: true,
          postgresql: {
            use_pg_rewind: true,
            use_slots: true,
            parameters: {
              max_connections: 200,
              shared_buffers: '32MB',
              wal_log_hints: 'on',
              wal_keep_size: '256MB',
              // Only processes are killed here, not the machine, so fsync is not needed.
              fsync: 'off',
              dynamic_shared_memory_type: 'mmap',
            },
          },
        },
        initdb: [{ encoding: 'UTF8' }, { locale: 'C' }, 'data-checksums'],
      },
      postgresql: {
        listen: `127.0.0.1:${node.port}`,
        connect_address: `127.0.0.1:${node.port}`,
        data_dir: node.dataDir,
        bin_dir: '/usr/lib/postgresql/15/bin',
        pgpass: join(dir, `${node.name}.pgpass`),
        authentication: {
          superuser: { username: 'postgres', password: 'secret' },
          replication: { username: 'replicator', password: 'secret' },
          rewind: { username: 'postgres', password: 'secret' },
        },
        parameters: { unix_socket_directories: dir },
        pg_hba: [
          'host all all 127.0.0.1/32 scram-sha-256',
          'host replication replicator 127.0.0.1/32 scram-sha-256',
          'local all all trust',
        ],
      },
    };
    await writeFile(node.config, JSON.stringify(config, null, 1), { mode: 0o600 });
    await own(node.config);
  }

  const startNode = (node: Node) => {
    node.patroni = run(node.name, programs.patroni, [node.config]);
  };

  async function members(): Promise<Member[]> {
    for (const { restPort, patroni } of nodes) {
      if (patroni === null) continue;
      try {
        const answer = await fetch(`http://127.0.0.1:${restPort}/cluster`, { signal: AbortSignal.timeout(5_000) });
        return ((await answer.json()) as { members: Member[] }).members;
      } catch {
        // Another node may answer.
      }
    }
    return [];
  }

  async function until(what: string, look: () => Promise<boolean>): Promise<void> {
    const end = performance.now() + WHOLE_WITHIN_MS;
    while (!(await look())) {
      if (performance.now() > end) throw new Error(`${what}: not within ${WHOLE_WITHIN_MS} ms; the logs are in ${dir}`);
      await pause(250);
    }
  }

  const isUp = ({ state }: Member) => state === 'running' || state === 'streaming';
  async function leader(): Promise<string> {
    return (await members()).find(({ role, state }) => role === 'leader' && isUp({ state } as Member))?.name ?? '';
  }
  async function whole(): Promise<void> {
    await until('a whole cluster', async () => {
      const all = await members();
      return (
        all.filter(isUp).length === NODES.length &&
        all.some(({ role }) => role === 'sync_standby') &&
        (await leader()) !== ''
      );
    });
  }
  const nodeOf = (name: string) => nodes.find((node) => node.name === name)!;

  const url = (port: number, name: string, role = 'holdfast') =>
    `postgres://${role}:secret@127.0.0.1:${port}/${name}?sslmode=disable`;

  async function close(): Promise<void> {
    for (const child of started) child.kill('SIGTERM');
    for (let waited = 0; started.size > 0 && waited < 30_000; waited += 100) await pause(100);
    for (const node of nodes) await killServer(node);
    for (const child of started) child.kill('SIGKILL');
    await rm(dir, { recursive: true, force: true });
  }

  /** Kills the server process that a node's data directory names; it is not a child of this process. */
  async function killServer({ dataDir }: Node): Promise<void> {
    const pid = Number((await readFile(join(dataDir, 'postmaster.pid'), 'utf8').catch(() => '')).split('\n')[0]);
    if (!(pid > 0)) return;
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (command.includes(dataDir)) process.kill(pid, 'SIGKILL');
  }

  try {
    await mkdir(join(dir, 'etcd'), { mode: 0o700 });
    await own(join(dir, 'etcd'));
    run('etcd', programs.etcd, [
      ...['--name', 'e', '--data-dir', join(dir, 'etcd')],
      ...['--listen-client-urls', etcdUrl, '--advertise-client-urls', etcdUrl],
      ...['--listen-peer-urls', etcdPeerUrl, '--initial-advertise-peer-urls', etcdPeerUrl],
      ...['--initial-cluster', `e=${etcdPeerUrl}`, '--heartbeat-interval', '500', '--election-timeout', '5000'],
    ]);
    await until('etcd', async () => (await fetch(`${etcdUrl}/health`).catch(() => null))?.ok ?? false);
    for (const node of nodes) await configure(node);
    startNode(nodes[0]!);
    await until('a first primary', async () => (await leader()) === NODES[0]);
    for (const node of nodes.slice(1)) startNode(node);
    await whole();
    log('the cluster is whole');

    await writeFile(
      join(dir, 'haproxy.cfg'),
      `global
  maxconn 1000
defaults
  mode tcp
  retries 2
  timeout connect 4s
  timeout check 5s
  timeout client 30m
  timeout server 30m
listen primary
  bind 127.0.0.1:${proxyPort}
  option httpchk GET /primary
  http-check expect status 200
  default-server inter 1s fall 2 rise 1 on-marked-down shutdown-sessions
${nodes.map(({ name, port, restPort }) => `  server ${name} 127.0.0.1:${port} maxconn 200 check port ${restPort}`).join('\n')}
`,
    );
    run('haproxy', programs.haproxy, ['-f', join(dir, 'haproxy.cfg')]);
    const admin = new pg.Client({ connectionString: url(nodeOf(await leader()).port, 'postgres', 'postgres') });
    await admin.connect();
    await admin.query(`create role holdfast login password 'secret'`);
    await admin.query('create database holdfast owner holdfast');
    await admin.end();
    const reached = async () => {
      const client = new pg.Client({ connectionString: url(proxyPort, 'holdfast'), connectionTimeoutMillis: 5_000 });
      client.on('error', () => undefined);
      const ok = await client.connect().then(
        () => true,
        () => false,
      );
      await client.end().catch(() => undefined);
      return ok;
    };
    await until('a way through HAProxy', reached);
  } catch (error) {
    for (const { name } of [{ name: 'etcd' }, ...nodes]) {
      const text = await readFile(join(dir, `${name}.log`), 'utf8').catch(() => '');
      console.error(`--- ${name}\n${text.slice(-2_000)}`);
    }
    await close();
    throw error;
  }

  const anotherLeads = (old: string) =>
    until('another primary', async () => {
      const now = await leader();
      return now !== '' && now !== old;
    });

  return {
    url: url(proxyPort, 'holdfast'),
    leader,
    whole,
    async crash() {
      const name = await leader();
      const node = nodeOf(name);
      const { patroni } = node;
      node.patroni = null;
      patroni?.kill('SIGKILL');
      await killServer(node);
      await anotherLeads(name);
      startNode(node);
    },
    async switchover() {
      const name = await leader();
      const answer = await fetch(`http://127.0.0.1:${nodeOf(name).restPort}/switchover`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ leader: name }),
      });
      if (!answer.ok) throw new Error(`no switchover: ${await answer.text()}`);
      await anotherLeads(name);
    },
    close,
  };
}
