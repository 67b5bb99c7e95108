import { appendFile, chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { backup, restore } from '../../src/commands/backup.ts';
import { startEmbeddedPostgres } from '../../src/store/embedded/index.ts';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { keptOutput } from '../support/command.ts';

vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

let home: string;
let dataDir: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'hf-backup-'));
  await chmod(home, 0o711);
  dataDir = join(home, 'data');
});
afterAll(() => rm(home, { recursive: true, force: true }));

async function query<Row>(url: string, sql: string): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}

const insert = (from: number, to: number) =>
  `insert into holdfast.holdfast_meta (name, value) select 'test-' || n, repeat('x', 2000) from generate_series(${from}, ${to}) n`;
const count = (url: string) =>
  query<{ n: number }>(url, `select count(*)::int as n from holdfast.holdfast_meta where name like 'test-%'`).then(
    ([row]) => row!.n,
  );

it('A backup taken while rows are written is consistent, and restores to what it held', async () => {
  const server = await startEmbeddedPostgres({ dataDir, settings: ['fsync=off'] });
  await (await openPostgresStore({ url: server.url })).shutdown();
  await query(server.url, insert(1, 500));
  let written = 500;
  const client = new pg.Client({ connectionString: server.url });
  await client.connect();
  const writes: Promise<unknown>[] = [];
  const target = join(home, 'monday');
  const output = keptOutput();
  // Each line of the progress is followed by a write, so that the files change while they are copied.
  const writing = {
    ...output,
    err(text: string) {
      output.err(text);
      writes.push(client.query(insert(written + 1, written + 20)));
      written += 20;
    },
  };
  await backup(target, { dataDir, json: true }, writing);
  await Promise.all(writes);
  await client.end();
  const result = JSON.parse(output.text);
  expect(Object.keys(result)).toEqual([
    'directory',
    'createdAt',
    'holdfast',
    'postgres',
    'files',
    'bytes',
    'rows',
    'replaced',
  ]);
  const held = result.rows.holdfast_meta - 1;
  expect(held).toBeGreaterThanOrEqual(500);
  expect(held).toBeLessThanOrEqual(written);
  // Whole transactions only.
  expect((held - 500) % 20).toBe(0);
  expect((await stat(target)).mode & 0o077).toBe(0);
  expect(output.errors).toMatch(/Copying: 100 %, \S+ MB of \S+ MB\n/);
  expect((await readdir(home)).sort()).toEqual(['data', 'monday']);

  // While the database is in use nothing is restored.
  await expect(restore(target, { dataDir, force: true }, keptOutput())).rejects.toThrow(/A Holdfast uses/);
  expect(await count(server.url)).toBe(written);
  await server.stop();
  await expect(restore(target, { dataDir }, keptOutput())).rejects.toThrow(/set it aside with --force/);
  const restored = keptOutput();
  await restore(target, { dataDir, force: true, json: true }, restored);
  const { replaced } = JSON.parse(restored.text);
  expect((await readdir(replaced)).sort()).toEqual(['pg', 'pg.password']);
  const again = await startEmbeddedPostgres({ dataDir });
  expect(await count(again.url)).toBe(held);
  await again.stop();
});

it('A backup is not overwritten without --force, and only a backup is with it', async () => {
  const target = join(home, 'monday');
  const before = await readFile(join(target, 'backup.json'), 'utf8');
  await expect(backup(target, { dataDir }, keptOutput())).rejects.toThrow(/is there already: .*--force/);
  await expect(backup(join(dataDir, 'inside'), { dataDir }, keptOutput())).rejects.toThrow(
    /in the data directory itself/,
  );
  const foreign = join(home, 'foreign');
  await mkdir(foreign);
  await appendFile(join(foreign, 'letter.txt'), 'precious');
  await expect(backup(foreign, { dataDir, force: true }, keptOutput())).rejects.toThrow(/holds no backup of Holdfast/);
  expect(await readdir(foreign)).toEqual(['letter.txt']);
  const output = keptOutput();
  await backup(target, { dataDir, force: true }, output);
  expect(output.text).toMatch(/monday: \d+ files, .*; proved by a start from it/);
  expect(await readFile(join(target, 'backup.json'), 'utf8')).not.toBe(before);
  expect((await readdir(home)).sort()).toEqual(['data', 'foreign', 'monday']);
});

it('A damaged backup is refused, and what was there stays', async () => {
  const target = join(home, 'monday');
  const fresh = join(home, 'fresh');
  const file = join(target, 'pg', 'global', 'pg_control');
  await appendFile(file, 'x');
  await expect(restore(target, { dataDir: fresh }, keptOutput())).rejects.toThrow(/pg_control is damaged/);
  expect(await readdir(fresh)).toEqual([]);
  await rm(file);
  await expect(restore(target, { dataDir: fresh }, keptOutput())).rejects.toThrow(/pg_control is missing/);
  await expect(restore(home, { dataDir: fresh }, keptOutput())).rejects.toThrow(/holds no backup/);
});

it('There is nothing to back up in an empty directory, and a database of its own has its own tools', async () => {
  await expect(backup(join(home, 'x'), { dataDir: join(home, 'nowhere') }, keptOutput())).rejects.toThrow(
    /There is no database in/,
  );
  vi.stubEnv('DATABASE_URL', 'postgres://u:p@h/d');
  await expect(backup(join(home, 'x'), {}, keptOutput())).rejects.toThrow(/pg_dump/);
  vi.unstubAllEnvs();
});

it('The settings of --env-file decide which database is meant, and the environment where it names none', async () => {
  const envFile = join(home, 'holdfast.env');
  await writeFile(envFile, `HOLDFAST_DATA_DIR=${join(home, 'of-the-file')}\n`);
  vi.stubEnv('HOLDFAST_DATA_DIR', join(home, 'of-the-environment'));
  await expect(backup(join(home, 'x'), { envFile }, keptOutput())).rejects.toThrow(/no database in .*of-the-file/);
  await expect(backup(join(home, 'x'), {}, keptOutput())).rejects.toThrow(/no database in .*of-the-environment/);
  // The restored backup is damaged: it leaves behind the data directory that it was meant for.
  await expect(restore(join(home, 'monday'), { envFile }, keptOutput())).rejects.toThrow(/pg_control is missing/);
  expect(await readdir(join(home, 'of-the-file'))).toEqual([]);
  await writeFile(envFile, 'DATABASE_URL=postgres://u:p@h/d\n');
  await expect(backup(join(home, 'x'), { envFile }, keptOutput())).rejects.toThrow(/pg_dump/);
  await expect(restore(home, { envFile: join(home, 'none') }, keptOutput())).rejects.toThrow(/none cannot be read/);
  vi.unstubAllEnvs();
});
