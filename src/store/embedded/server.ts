import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { fsync, readFileSync } from 'node:fs';
import { chown, mkdir, open, readFile, readlink, realpath, rename, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { basename, join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';
import type { Binaries, Unprivileged } from './binaries.ts';

const run = promisify(execFile);

/** A cluster on disk and how to run it. */
export interface Cluster {
  binaries: Binaries;
  /** The cluster's data directory. */
  dir: string;
  logFile: string;
  password: string;
  /** User to run as; null runs as this process's own user. */
  user: Unprivileged | null;
  /** Server settings, `name=value`. */
  settings: readonly string[];
  /**
   * The server's user cannot reach the directory by its path. The server is started inside it and uses its working
   * directory.
   */
  hidden: boolean;
}

/** Path of the process's own working directory. Resolving it needs no permission on the parent directories. */
export const WORKING_DIRECTORY = '/proc/self/cwd';
const placeOf = ({ hidden }: Cluster, dir: string) => (hidden ? WORKING_DIRECTORY : dir);

export interface RunningServer {
  pid: number;
  port: number;
  /** The server was already running, left behind by a killed worker. */
  adopted: boolean;
}

const READY_WITHIN_MS = 15_000;
const START_ATTEMPTS = 5;

/**
 * Sets every connection parameter that a client would otherwise read from a `PG*` variable, since those of the environment
 * describe another database. An empty value would count as not set.
 */
const parameters = new URLSearchParams({
  sslmode: 'disable',
  sslnegotiation: 'postgres',
  options: '-c application_name=holdfast',
  client_encoding: 'UTF8',
  replication: 'false',
});

/** Returns the connection URL of the server on a local port. */
export const urlOf = (port: number, password: string) =>
  `postgres://holdfast:${password}@127.0.0.1:${port}/postgres?${parameters}`.replaceAll('+', '%20');

/** Environment variables passed to the database's programs. All others are withheld, secrets above all. */
const passedOn =
  /^(?:PATH|LANG|LANGUAGE|LC_.*|TZ|HOME|TMPDIR|TEMP|TMP|LD_LIBRARY_PATH|DYLD_LIBRARY_PATH|SYSTEMROOT|WINDIR|USERPROFILE)$/i;

/** Returns an environment without secrets and without anything that PostgreSQL or libpq reads as a setting. */
export function plainEnvironment(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const kept = Object.entries(env).filter(([name]) => passedOn.test(name));
  return { ...Object.fromEntries(kept), LC_ALL: 'C' };
}

const fsyncOf = promisify(fsync);

/**
 * Flushes a file to disk. By its descriptor, because the file handles of Yarn's Plug'n'Play cannot flush.
 *
 * @param flags how the file is opened; some systems flush only what may be written
 */
export async function flushFile(path: string, flags: 'r' | 'r+'): Promise<void> {
  const file = await open(path, flags);
  try {
    await fsyncOf(file.fd);
  } finally {
    await file.close();
  }
}

/**
 * Returns the secret in a file. If there is no such file, it is made with the given secret. It keeps other users of the machine, who can
 * reach the port, out of the database.
 */
export async function loadOrCreateSecret(file: string, made: string): Promise<string> {
  try {
    await writeFile(file, made, { flag: 'wx', mode: 0o600, flush: true });
    return made;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    return (await readFile(file, 'utf8')).trim();
  }
}

/** The programs cannot run, or cannot make a database, because of the machine. */
export class CannotInitialise extends Error {
  override readonly name = 'CannotInitialise';
}

/**
 * Makes the cluster unless it exists. An unfinished one never gets the final name.
 *
 * @throws `CannotInitialise` with the first line of the program's output
 */
export async function ensureCluster(cluster: Cluster): Promise<void> {
  const { binaries, dir, password, user } = cluster;
  if (await stat(join(dir, 'PG_VERSION')).catch(() => null)) return;
  const draft = `${dir}.new`;
  await rm(draft, { recursive: true, force: true });
  await mkdir(draft, { recursive: true, mode: 0o700 });
  const pwfile = join(draft, '..', `.pw-${randomBytes(8).toString('hex')}`);
  await writeFile(pwfile, `${password}\n`, { mode: 0o600 });
  try {
    if (user) await Promise.all([chown(draft, user.uid, user.gid), chown(pwfile, user.uid, user.gid)]);
    const named = `../${basename(pwfile)}`;
    const options = ['-D', placeOf(cluster, draft), '-U', 'holdfast', `--pwfile=${named}`, '--auth=scram-sha-256'];
    await run(binaries.initdb, [...options, '--encoding=UTF8', '--locale=C', '--no-instructions'], {
      ...(user ?? {}),
      cwd: draft,
      env: plainEnvironment(process.env),
    }).catch((error: Error & { stderr?: string; code?: unknown }) => {
      const said = (error.stderr ?? '').trim().split('\n')[0] || `${error.code ?? error.message}`;
      throw new CannotInitialise(
        `The embedded PostgreSQL cannot make its database in ${dir}: ${said.slice(0, 500)}. Install Holdfast with its ` +
          'optional dependencies on a system that they are made for (glibc), or set DATABASE_URL.',
        { cause: error },
      );
    });
  } finally {
    await rm(pwfile, { force: true });
  }
  await rename(draft, dir);
}

async function canConnect(port: number, password: string): Promise<'yes' | 'not_yet' | 'no'> {
  const client = new pg.Client({ connectionString: urlOf(port, password), connectionTimeoutMillis: 2_000 });
  client.on('error', () => {});
  try {
    await client.connect();
    await client.end();
    return 'yes';
  } catch (error) {
    // 57P03: the server is starting up, shutting down or recovering.
    return (error as { code?: string }).code === '57P03' ? 'not_yet' : 'no';
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Reads process id and port from the lock file of a server of this cluster, whether or not the server still runs. */
async function lockFile(dir: string): Promise<{ pid: number | null; port: number | null }> {
  const lines = (await readFile(join(dir, 'postmaster.pid'), 'utf8').catch(() => '')).split('\n');
  const [pid, port] = [Number(lines[0]), Number(lines[3])].map((n) => (Number.isInteger(n) && n > 0 ? n : null));
  return { pid: pid ?? null, port: port ?? null };
}

/**
 * Returns the process id in a stale lock file while that id is still in use: by a killed server that was not reaped yet
 * (containers whose first process reaps late or never), or by an unrelated process. PostgreSQL cannot tell the difference
 * and would refuse to start. The caller holds the data directory's own lock and has found no server to adopt.
 */
async function namedInVain(dir: string): Promise<number | null> {
  const { pid } = await lockFile(dir);
  return pid !== null && isAlive(pid) && !(await mayServe(pid, dir)) ? pid : null;
}

/**
 * Returns a server of this cluster that a killed worker left running; null when there is none. Waits for one that is
 * starting or shutting down.
 */
export async function findOrphan({ dir, password }: Cluster): Promise<RunningServer | null> {
  const until = Date.now() + READY_WITHIN_MS;
  while (Date.now() < until) {
    const { pid, port } = await lockFile(dir);
    if (pid === null || !isAlive(pid)) return null;
    const answer = port === null ? 'not_yet' : await canConnect(port, password);
    if (port !== null && answer === 'yes') {
      servers.add(pid);
      return { pid, port, adopted: true };
    }
    // A process id in a stale file may belong to any process; one that rejects our password is not our server.
    if (answer === 'no' && !(await mayServe(pid, dir))) return null;
    await pause(50);
  }
  return null;
}

/** Returns whether a process may be a server of this very cluster. True where that cannot be checked. */
async function mayServe(pid: number, dir: string): Promise<boolean> {
  if (process.platform !== 'linux') return true;
  if ((await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).includes(dir)) return true;
  const [there, here] = await Promise.all(
    [readlink(`/proc/${pid}/cwd`), realpath(dir)].map((path) => path.catch(() => null)),
  );
  return there !== null && there === here;
}

/**
 * Returns the server of a cluster that another process runs; null when none answers. Unlike an adopted one it is not
 * stopped when this process ends.
 */
export async function serverOf(dir: string, password: string): Promise<{ pid: number; port: number } | null> {
  const { pid, port } = await lockFile(dir);
  if (pid === null || port === null || !isAlive(pid)) return null;
  return (await canConnect(port, password)) === 'yes' ? { pid, port } : null;
}

/**
 * Servers that this process has started or adopted. They are stopped in order when this process ends, except by SIGKILL;
 * the next start adopts a server left behind by that.
 */
const servers = new Set<number>();

const isServer = (pid: number): boolean => {
  if (process.platform !== 'linux') return true;
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('postgres');
  } catch {
    return false;
  }
};

process.on('exit', () => {
  for (const pid of servers) {
    try {
      // The id of a server that ended by itself may belong to another process by now.
      if (isServer(pid)) process.kill(pid, 'SIGINT');
    } catch {
      // The process has already ended.
    }
  }
});

/**
 * Returns the process id of a server of this cluster that a killed worker left and that does not answer; null when none
 * runs.
 */
export async function runsThere(dir: string): Promise<number | null> {
  const { pid } = await lockFile(dir);
  return pid !== null && isAlive(pid) && (await mayServe(pid, dir)) ? pid : null;
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

/**
 * Starts the server on a free port and waits until it accepts connections. Tries again when another process took the port
 * or the lock file.
 *
 * @throws Error naming the log file, after the last attempt
 */
export async function startServer(cluster: Cluster): Promise<RunningServer> {
  let last: Error | null = null;
  for (let attempt = 0; attempt < START_ATTEMPTS; attempt += 1) {
    const port = await freePort();
    const child = await launch(cluster, port);
    const outcome = await waitReady(child, port, cluster.password);
    if (outcome === null) {
      child.unref();
      return { pid: child.pid!, port, adopted: false };
    }
    last = outcome;
    await pause(100 * 2 ** attempt);
  }
  throw new Error(`The embedded PostgreSQL does not start; its log is ${cluster.logFile}.`, { cause: last });
}

async function launch(cluster: Cluster, port: number): Promise<ChildProcess> {
  const { binaries, dir, logFile, settings, user } = cluster;
  const stale = await namedInVain(dir);
  const log = await open(logFile, 'a', 0o600);
  const fixed = ['listen_addresses=127.0.0.1', 'unix_socket_directories='];
  const args = [
    '-D',
    placeOf(cluster, dir),
    '-p',
    String(port),
    ...[...fixed, ...settings].flatMap((setting) => ['-c', setting]),
  ];
  // A process group of its own: Ctrl-C in the terminal must reach only Holdfast, which then stops the server in order.
  const child = spawn(binaries.postgres, args, {
    ...(user ?? {}),
    cwd: dir,
    detached: true,
    stdio: ['ignore', log.fd, log.fd],
    // PostgreSQL ignores this process id when it looks for a rival server, as with the shell that started pg_ctl. It still
    // detects the shared memory of a server whose child processes run.
    env: {
      ...plainEnvironment(process.env),
      ...(stale === null ? {} : { PG_GRANDPARENT_PID: String(stale) }),
    },
  });
  const { pid } = child;
  if (pid !== undefined) {
    servers.add(pid);
    child.once('exit', () => servers.delete(pid));
  }
  child.once('spawn', () => void log.close());
  child.once('error', () => void log.close().catch(() => {}));
  return child;
}

/**
 * Waits until the server accepts connections.
 *
 * @returns null when it does, else the reason
 */
async function waitReady(child: ChildProcess, port: number, password: string): Promise<Error | null> {
  let failed: Error | null = null;
  child.once('error', (error) => {
    failed = error;
  });
  child.once('exit', (code) => {
    failed ??= new Error(`it exited with ${code}`);
  });
  const until = Date.now() + READY_WITHIN_MS;
  while (Date.now() < until) {
    if (failed) return failed;
    if ((await canConnect(port, password)) === 'yes') return null;
    await pause(20);
  }
  child.kill('SIGQUIT');
  return failed ?? new Error(`it did not accept connections within ${READY_WITHIN_MS} ms`);
}

/** Requests a fast shutdown, then an immediate one, then kills. Resolves when the process has ended. */
export async function stopServer(pid: number): Promise<void> {
  servers.delete(pid);
  for (const [signal, patience] of [
    ['SIGINT', 10_000],
    ['SIGQUIT', 5_000],
    ['SIGKILL', 2_000],
  ] as const) {
    try {
      process.kill(pid, signal);
    } catch {
      return;
    }
    const until = Date.now() + patience;
    while (Date.now() < until) {
      if (!isAlive(pid) || (await isZombie(pid))) return;
      await pause(20);
    }
  }
}

async function isZombie(pid: number): Promise<boolean> {
  if (process.platform !== 'linux') return false;
  return /^State:\s+Z/m.test(await readFile(`/proc/${pid}/status`, 'utf8').catch(() => 'State: Z'));
}
