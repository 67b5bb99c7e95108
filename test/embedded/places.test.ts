import { chmod, cp, mkdtemp, readdir, readFile, realpath, rename, rm, stat, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { findBinaries, usableBinaries } from '../../src/store/embedded/binaries.ts';
import { startEmbeddedPostgres } from '../../src/store/embedded/index.ts';

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

const isRoot = process.getuid?.() === 0;
let home: string;
const ends: (() => unknown)[] = [];
beforeEach(async () => {
  // Private, like a home directory.
  home = await mkdtemp(join(tmpdir(), 'hf-place-'));
});
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
  await rm(home, { recursive: true, force: true });
});

async function query(url: string, sql: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}

async function start(dataDir: string) {
  const server = await startEmbeddedPostgres({ dataDir });
  let stopped = false;
  const stop = async () => {
    if (!stopped) await server.stop();
    stopped = true;
  };
  ends.push(stop);
  return { ...server, stop };
}

it('The embedded database lives in the data directory, also below one that only its owner may enter', async () => {
  const dataDir = join(home, 'data');
  const first = await start(dataDir);
  await query(first.url, 'create table kept as select 7 as seven');
  await first.stop();
  expect(await stat(join(dataDir, 'pg', 'PG_VERSION'))).toBeTruthy();
  // A copy of the directory is a complete backup.
  const copy = join(home, 'copy');
  await rename(dataDir, copy);
  const again = await start(copy);
  expect(await query(again.url, 'select seven from kept')).toEqual([{ seven: 7 }]);
});

it('The embedded database below a private directory is taken over when its worker was killed', async () => {
  const dataDir = join(home, 'data');
  const first = await startEmbeddedPostgres({ dataDir });
  // Simulates a killed process: its server keeps running, without the lock.
  ends.push(() => first.stop());
  await unlink(join(dataDir, 'holdfast.sock'));
  const next = await startEmbeddedPostgres({ dataDir });
  expect([next.adopted, next.pid]).toEqual([true, first.pid]);
});

describe('programs whose install script did not run', () => {
  /** Creates the package as it is unpacked: no links and no execute permissions. */
  async function unpacked(): Promise<{ native: string; binaries: { initdb: string; postgres: string } }> {
    const { postgres } = await findBinaries();
    const native = join(home, 'native');
    await cp(dirname(dirname(await realpath(postgres))), native, { recursive: true, verbatimSymlinks: true });
    const links = JSON.parse(await readFile(join(native, 'pg-symlinks.json'), 'utf8')) as { target: string }[];
    expect(links.length).toBeGreaterThan(0);
    for (const { target } of links) await unlink(join(home, target));
    for (const name of await readdir(join(native, 'bin'))) await chmod(join(native, 'bin', name), 0o644);
    return { native, binaries: { initdb: join(native, 'bin', 'initdb'), postgres: join(native, 'bin', 'postgres') } };
  }
  const runs = async (program: string) => {
    const { execFileSync } = await import('node:child_process');
    return execFileSync(program, ['--version'], { encoding: 'utf8' });
  };

  it('Programs whose install script did not run are completed at the first start', async () => {
    const { binaries } = await unpacked();
    await expect(runs(binaries.postgres)).rejects.toThrow();
    const usable = await usableBinaries(binaries, null);
    expect(usable).toEqual(binaries);
    expect(await runs(usable.postgres)).toContain('PostgreSQL');
    expect(await runs(usable.initdb)).toContain('PostgreSQL');
  });

  it.runIf(isRoot)('Programs that another user must reach are copied, and are complete there', async () => {
    const { binaries } = await unpacked();
    const usable = await usableBinaries(binaries, { uid: 65_534, gid: 65_534 });
    ends.push(() => rm(dirname(dirname(usable.postgres)), { recursive: true, force: true }));
    expect(dirname(usable.postgres)).not.toBe(dirname(binaries.postgres));
    expect(basename(dirname(dirname(usable.postgres)))).toMatch(/^holdfast-postgres-[0-9a-f]{16}$/);
    expect(await runs(usable.postgres)).toContain('PostgreSQL');
  });
});
