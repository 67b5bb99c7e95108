import { execFile, spawn } from 'node:child_process';
import { access, chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { readConfig } from '../../src/config.ts';
import { unprivileged } from '../../src/store/embedded/binaries.ts';
import { startEmbeddedPostgres } from '../../src/store/embedded/index.ts';
import { type Cluster, ensureCluster, startServer, stopServer, urlOf } from '../../src/store/embedded/server.ts';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { version } from '../../src/version.ts';
import { startTestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { freshDatabase } from '../support/database.ts';
import { plainEnv } from '../support/program.ts';
import { replaceOnce, snippetAfter } from './snippets.ts';

vi.setConfig({ testTimeout: 900_000, hookTimeout: 300_000 });

const PROGRAM = join(import.meta.dirname, '..', '..', 'bin', 'holdfast.js');
let home: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'hf-operations-'));
  await chmod(home, 0o711);
});
afterAll(() => rm(home, { recursive: true, force: true }));

/** Runs a snippet of docs/operations.md by its name, with texts of the document replaced. */
async function run(name: string, env: Record<string, string>, replaced: Record<string, string> = {}) {
  let code = (await snippetAfter('docs/operations.md', `<!-- run: ${name} -->`)).replace(/^ +/gm, '');
  for (const [what, by] of Object.entries(replaced)) code = replaceOnce(code, what, by);
  const shell = code.replace(/^holdfast /gm, `'${process.execPath}' '${PROGRAM}' `);
  const child = spawn('sh', ['-ec', shell], {
    cwd: home,
    env: { ...plainEnv(), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let out = '';
  let err = '';
  child.stdout.on('data', (text) => (out += text));
  child.stderr.on('data', (text) => (err += text));
  const exitCode = await new Promise((ended) => child.once('close', ended));
  return { exitCode, out, err };
}

it('Finding out why a client got its answer', async () => {
  const at = await startTestBridge();
  const { headers } = await post(at.url, { model: 'm', stream: true, input: 'one' });
  const env = { PORT: new URL(at.url).port };
  const told = await run('explain', env, { '0d9f3a51': String(headers['x-request-id']).slice(0, 8) });
  expect(told).toMatchObject({ exitCode: 0, err: '' });
  expect(told.out).toContain(`Request ${headers['x-request-id']}, turn`);
  expect(told.out).toContain('The client got');
  await at.close();
});

it('Rotating secrets: a new secret is valid, and so are the settings with both', async () => {
  const { out: secret } = await run('secret', {});
  const rotated = `HOLDFAST_SECRETS=k2:${secret.trim()},k1:${'old-'.repeat(10)}\n`;
  expect(readConfig({ HOLDFAST_SECRETS: rotated.trim().slice(17) }).security.secrets).toContain('k1:');
  await writeFile(join(home, 'holdfast.env'), rotated);
  expect(await run('check', {})).toEqual({ exitCode: 0, out: 'The settings are valid.\n', err: '' });
  await writeFile(join(home, 'holdfast.env'), 'HOLDFAST_SECRETS=short\n');
  expect(await run('check', {})).toMatchObject({ exitCode: 1, out: expect.stringContaining('HOLDFAST_SECRETS') });
});

it('Upgrading: the state of the migrations', async () => {
  const database = await freshDatabase({ empty: true });
  const { exitCode, out } = await run('migrate', {
    DATABASE_URL: database.url,
    HOLDFAST_SECRETS: `k:${'s'.repeat(40)}`,
  });
  expect(exitCode).toBe(0);
  expect(out).toMatch(/0001-initial +pending\n/);
  await database.drop();
});

it('Backing up and restoring', async () => {
  const dataDir = join(home, 'data');
  const server = await startEmbeddedPostgres({ dataDir, settings: ['fsync=off'] });
  await (await openPostgresStore({ url: server.url })).shutdown();
  const env = { HOLDFAST_DATA_DIR: dataDir, DATABASE_URL: '' };
  const place = { '/backups/monday': join(home, 'monday') };
  // In use, as by a Holdfast that serves.
  expect(await run('backup', env, place)).toMatchObject({
    exitCode: 0,
    out: expect.stringContaining('proved by a start'),
  });
  expect(await run('restore', env, place)).toMatchObject({
    exitCode: 1,
    err: expect.stringMatching(/A Holdfast uses/),
  });
  await server.stop();
  expect(await run('restore', env, place)).toMatchObject({
    exitCode: 0,
    out: expect.stringContaining('What was there before'),
  });
});

/** Runs a function with an empty server of the same release as `pg_dump`; returns false where there is none. */
async function withServerOfTools(use: (url: string) => Promise<void>): Promise<boolean> {
  const tools = await promisify(execFile)('pg_dump', ['--version']).catch(() => null);
  const bin = `/usr/lib/postgresql/${/\d+/.exec(tools?.stdout ?? '')?.[0]}/bin`;
  const binaries = { initdb: join(bin, 'initdb'), postgres: join(bin, 'postgres') };
  const isThere = await access(binaries.initdb).then(
    () => true,
    () => false,
  );
  if (!isThere) return false;
  const place = await mkdtemp(join(home, 'tools-'));
  await chmod(place, 0o777);
  const cluster: Cluster = {
    ...{ binaries, dir: join(place, 'pg'), logFile: join(home, 'tools.log'), password: 'secret' },
    ...{ user: unprivileged(), settings: ['fsync=off', 'dynamic_shared_memory_type=mmap'], hidden: false },
  };
  await ensureCluster(cluster);
  const server = await startServer(cluster);
  try {
    const url = new URL(urlOf(server.port, cluster.password));
    // Parameters of the driver, which the tools do not know.
    url.search = '';
    await use(url.href);
  } finally {
    await stopServer(server.pid);
  }
  return true;
}

it('A database of your own is restored from its dump to what it held', async ({ skip }) => {
  const ran = await withServerOfTools(async (url) => {
    await (await openPostgresStore({ url })).shutdown();
    const query = async (sql: string) => {
      const client = new pg.Client({ connectionString: url });
      await client.connect();
      try {
        return (await client.query<{ name: string }>(sql)).rows.map(({ name }) => name);
      } finally {
        await client.end();
      }
    };
    const before = await query('select name from holdfast.holdfast_meta order by name');
    expect(before.length).toBeGreaterThan(0);
    expect(await run('dump', { DATABASE_URL: url })).toMatchObject({ exitCode: 0, err: '' });
    await query(`insert into holdfast.holdfast_meta (name, value) values ('later', 'x')`);
    expect(await run('load', { DATABASE_URL: url })).toMatchObject({ exitCode: 0 });
    expect(await query('select name from holdfast.holdfast_meta order by name')).toEqual(before);
    // A worker starts on it, as before the restore.
    await (await openPostgresStore({ url })).shutdown();
  });
  if (!ran) skip('there is no server of the same release as pg_dump');
});

it('The commands of the systemd unit: its data directory, its user and its program', async () => {
  const unit = await readFile('deploy/systemd/holdfast.service', 'utf8');
  const ofUnit = (name: string) => new RegExp(`\\b${name}=(\\S+)`).exec(unit)![1]!;
  const [, backUp] = (await snippetAfter('docs/operations.md', '<!-- check: backup of the unit -->')).split('\n');
  expect(backUp).toContain(`--user ${ofUnit('User')} `);
  expect(backUp).toContain(`--data-dir ${ofUnit('HOLDFAST_DATA_DIR')} `);
  const install = await snippetAfter('docs/deploy.md', '<!-- check: systemd -->');
  const [, place] = /^sudo ln .* (\S+)$/m.exec(install)!;
  expect(unit).toContain(`${place}/node_modules/holdfast/bin/holdfast.js`);
  expect(backUp).toContain(` ${place}/node_modules/.bin/holdfast backup `);
  expect([...install.matchAll(/[-@](\d+\.\d+\.\d+)/g)].map(([, named]) => named)).toEqual([version, version, version]);
});
