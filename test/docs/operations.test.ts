import { spawn } from 'node:child_process';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { readConfig } from '../../src/config.ts';
import { startEmbeddedPostgres } from '../../src/store/embedded/index.ts';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
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
