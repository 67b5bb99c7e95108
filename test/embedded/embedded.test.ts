import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { DataDirInUse } from '../../src/exclusive-socket.ts';
import { loadOrCreateTokenSecrets, startEmbeddedPostgres } from '../../src/store/embedded/index.ts';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { until } from '../support/until.ts';

let dataDir: string;
const children: ChildProcess[] = [];
beforeEach(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'hf-emb-'));
});
afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  // Take over and properly stop whatever a killed process left running.
  await (await startEmbeddedPostgres({ dataDir })).stop();
  await rm(dataDir, { recursive: true, force: true });
});

interface Held {
  child: ChildProcess;
  pid: number;
  url: string;
  adopted: boolean;
  gone: Promise<unknown>;
}

async function hold(): Promise<Held> {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'worker.ts'), dataDir], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  const gone = new Promise((resolve) => child.once('exit', resolve));
  const line = await new Promise<string>((resolve, reject) => {
    child.stdout!.once('data', (chunk) => resolve(String(chunk)));
    void gone.then(() => reject(new Error('the worker ended before its database was up')));
  });
  return { child, gone, ...(JSON.parse(line) as Omit<Held, 'child' | 'gone'>) };
}

async function query(url: string, sql: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}

/** Returns false also for a process that has exited but was not reaped by its new parent. */
const alive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch (error) {
    // Without /proc, the answer to the signal has to suffice.
    return (error as NodeJS.ErrnoException).code === 'ENOENT' && process.platform !== 'linux';
  }
};

describe('embedded database', () => {
  it('The embedded database listens on loopback only, and leaves neither process nor lock behind', async () => {
    const server = await startEmbeddedPostgres({ dataDir });
    const [row] = await query(server.url, `select current_setting('listen_addresses') as at`);
    expect(row!.at).toMatch(/^(127\.0\.0\.1|localhost)$/);
    const command = await readFile(`/proc/${server.pid}/cmdline`, 'utf8').catch(() => '');
    expect(command).not.toContain(new URL(server.url).password);
    await server.stop();
    expect(alive(server.pid)).toBe(false);
    const again = await startEmbeddedPostgres({ dataDir });
    expect(again.adopted).toBe(false);
    await again.stop();
  });

  it('The PG variables of the environment affect neither the embedded database nor the connections to it', async () => {
    const variables = {
      PGSSLMODE: 'require',
      PGSSLNEGOTIATION: 'direct',
      PGOPTIONS: '-c search_path=elsewhere',
      PGHOST: 'elsewhere.invalid',
      PGPORT: '1',
      PGUSER: 'somebody',
      PGPASSWORD: 'else',
      PGDATABASE: 'elsewhere',
      PGDATA: '/nonexistent',
      PGREPLICATION: 'database',
      PGCLIENT_ENCODING: 'LATIN1',
      PGTZ: 'Mars/Base',
    };
    for (const [name, value] of Object.entries(variables)) vi.stubEnv(name, value);
    try {
      const server = await startEmbeddedPostgres({ dataDir });
      const rows = await query(server.url, `select current_setting('search_path') as path, current_user as me`);
      expect(rows).toEqual([{ path: '"$user", public', me: 'holdfast' }]);
      const store = await openPostgresStore({ url: server.url });
      expect(await store.sessions(1)).toEqual([]);
      await store.shutdown();
      if (process.platform === 'linux') {
        expect(await readFile(`/proc/${server.pid}/environ`, 'utf8')).not.toMatch(/(^|\0)PG/);
      }
      await server.stop();
    } finally {
      vi.unstubAllEnvs();
    }
  });

  it('A second process gets a one-sentence error while the first holds the embedded database', async () => {
    const server = await startEmbeddedPostgres({ dataDir });
    await expect(startEmbeddedPostgres({ dataDir })).rejects.toThrow(DataDirInUse);
    await expect(startEmbeddedPostgres({ dataDir })).rejects.toThrow(
      /^Another Holdfast is using .*HOLDFAST_DATA_DIR\.$/,
    );
    await server.stop();
  });

  it('The embedded database of a killed worker is taken over: the same server with all its data', async () => {
    const first = await hold();
    await query(first.url, 'create table kept as select 7 as seven');
    first.child.kill('SIGKILL');
    await first.gone;
    expect(alive(first.pid)).toBe(true);
    const next = await startEmbeddedPostgres({ dataDir });
    expect([next.adopted, next.pid]).toEqual([true, first.pid]);
    expect(await query(next.url, 'select seven from kept')).toEqual([{ seven: 7 }]);
    await next.stop();
    expect(alive(first.pid)).toBe(false);
  });

  it('An embedded database that was killed together with its worker recovers what was committed', async () => {
    const first = await hold();
    await query(first.url, 'create table kept as select 7 as seven');
    first.child.kill('SIGKILL');
    process.kill(first.pid, 'SIGKILL');
    await first.gone;
    await until(() => !alive(first.pid));
    const next = await startEmbeddedPostgres({ dataDir });
    expect(next.adopted).toBe(false);
    expect(await query(next.url, 'select seven from kept')).toEqual([{ seven: 7 }]);
    await next.stop();
  });

  it('The embedded database stops with its worker on SIGTERM', async () => {
    const first = await hold();
    first.child.kill('SIGTERM');
    await first.gone;
    expect(alive(first.pid)).toBe(false);
  });
});

it('Token secrets are created once, readable only by their owner', async () => {
  const secrets = await loadOrCreateTokenSecrets(dataDir);
  expect(secrets).toMatch(/^[0-9a-f]{8}:[0-9a-f]{64}$/);
  expect(await loadOrCreateTokenSecrets(dataDir)).toBe(secrets);
  expect((await stat(join(dataDir, 'token.secrets'))).mode & 0o777).toBe(0o600);
});
