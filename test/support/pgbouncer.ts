import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, chown, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { unprivileged } from '../../src/store/embedded/binaries.ts';
import { plainEnvironment } from '../../src/store/embedded/server.ts';
import { freePort } from './worker-process.ts';

const PROGRAM = '/usr/sbin/pgbouncer';

export const hasPgbouncer = existsSync(PROGRAM);

/** A PgBouncer of the test in front of a database. */
export interface Pgbouncer {
  /** URL of the database through the pooler. */
  url: string;
  close(): Promise<void>;
}

export interface PgbouncerOptions {
  mode: 'session' | 'transaction';
  /** Number of server connections. */
  size: number;
  /** Additional lines of its configuration. */
  settings?: readonly string[];
}

/** Starts PgBouncer on a free port, as a user that it accepts; resolves when it forwards connections. */
export async function startPgbouncer(databaseUrl: string, options: PgbouncerOptions): Promise<Pgbouncer> {
  const real = new URL(databaseUrl);
  const dir = await mkdtemp(join(tmpdir(), 'hf-pgbouncer-'));
  const user = unprivileged();
  const port = await freePort();
  const users = join(dir, 'users.txt');
  const config = join(dir, 'pgbouncer.ini');
  await writeFile(users, `"${real.username}" "${decodeURIComponent(real.password)}"\n`, { mode: 0o600 });
  await writeFile(
    config,
    [
      '[databases]',
      `* = host=${real.hostname} port=${real.port}`,
      '[pgbouncer]',
      'listen_addr = 127.0.0.1',
      `listen_port = ${port}`,
      'unix_socket_dir =',
      'auth_type = scram-sha-256',
      `auth_file = ${users}`,
      `pool_mode = ${options.mode}`,
      `default_pool_size = ${options.size}`,
      'max_client_conn = 500',
      ...(options.settings ?? []),
      '',
    ].join('\n'),
  );
  if (user) {
    await chmod(dir, 0o700);
    await Promise.all([dir, users, config].map((path) => chown(path, user.uid, user.gid)));
  }
  const child = spawn(PROGRAM, [config], {
    ...(user ?? {}),
    cwd: dir,
    env: plainEnvironment(process.env),
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let output = '';
  child.stderr.on('data', (chunk) => {
    output = (output + chunk).slice(-10_000);
  });
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const url = new URL(databaseUrl);
  url.hostname = '127.0.0.1';
  url.port = String(port);
  // PgBouncer refuses start-up parameters that it does not know.
  url.search = '?sslmode=disable';
  const close = async () => {
    child.kill('SIGKILL');
    await gone;
    await rm(dir, { recursive: true, force: true });
  };
  try {
    await untilItAnswers(child, url.href);
  } catch (error) {
    await close();
    throw new Error(`pgbouncer does not start:\n${output}`, { cause: error });
  }
  return { url: url.href, close };
}

async function untilItAnswers(child: ChildProcess, url: string): Promise<void> {
  for (;;) {
    const client = new pg.Client({ connectionString: url });
    client.on('error', () => undefined);
    try {
      await client.connect();
      await client.query('select');
      return;
    } catch (error) {
      if (child.exitCode !== null || (error as { code?: string }).code !== 'ECONNREFUSED') throw error;
      await new Promise((again) => setTimeout(again, 20));
    } finally {
      await client.end().catch(() => undefined);
    }
  }
}
