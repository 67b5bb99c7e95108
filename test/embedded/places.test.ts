import { createHash } from 'node:crypto';
import {
  chmod,
  chown,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  stat,
  unlink,
} from 'node:fs/promises';
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

/** Returns the path where an earlier release kept the data of a directory that only root can reach. */
const formerHome = (dataDir: string) =>
  join('/var/lib/holdfast', createHash('sha256').update(dataDir).digest('hex').slice(0, 16));

it('The embedded database lives in the data directory, also below one that only its owner may enter', async () => {
  const dataDir = join(home, 'data');
  const first = await start(dataDir);
  await query(first.url, 'create table kept as select 7 as seven');
  await first.stop();
  expect(await stat(join(dataDir, 'pg', 'PG_VERSION'))).toBeTruthy();
  expect(first.notices).toEqual([]);
  await expect(stat(formerHome(dataDir))).rejects.toThrow('ENOENT');
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

describe.runIf(isRoot)('data that an earlier release kept elsewhere', () => {
  async function keptElsewhere(dataDir: string): Promise<string> {
    const former = formerHome(dataDir);
    ends.push(() => rm(former, { recursive: true, force: true }));
    const first = await start(dataDir);
    await query(first.url, 'create table kept as select 7 as seven');
    await first.stop();
    await mkdir(former, { recursive: true, mode: 0o711 });
    const { uid, gid } = await stat(join(dataDir, 'pg'));
    await cp(join(dataDir, 'pg'), join(former, 'pg'), { recursive: true });
    await rm(join(dataDir, 'pg'), { recursive: true });
    const give = async (path: string): Promise<void> => {
      await chown(path, uid, gid);
      if ((await stat(path)).isDirectory()) for (const name of await readdir(path)) await give(join(path, name));
    };
    await give(former);
    return former;
  }

  it('Data that an earlier release kept elsewhere is moved to the data directory, and the move is logged', async () => {
    const dataDir = join(home, 'data');
    const former = await keptElsewhere(dataDir);
    const next = await start(dataDir);
    expect(await query(next.url, 'select seven from kept')).toEqual([{ seven: 7 }]);
    expect(next.notices).toEqual([expect.stringContaining(`was moved to ${join(dataDir, 'pg')}`)]);
    await expect(stat(former)).rejects.toThrow('ENOENT');
    expect(await stat(join(dataDir, 'pg', 'PG_VERSION'))).toBeTruthy();
  });

  it('Data that an earlier release kept elsewhere is reported when the data directory has its own, which is used', async () => {
    const dataDir = join(home, 'data');
    const former = await keptElsewhere(dataDir);
    await cp(join(former, 'pg'), join(home, 'aside'), { recursive: true });
    await (await start(dataDir)).stop();
    await mkdir(former, { recursive: true, mode: 0o711 });
    await rename(join(home, 'aside'), join(former, 'pg'));
    const next = await start(dataDir);
    expect(next.notices).toEqual([expect.stringContaining(`lies in ${join(former, 'pg')} and is not used`)]);
    expect(await query(next.url, 'select seven from kept')).toEqual([{ seven: 7 }]);
  });
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
