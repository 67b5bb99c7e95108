import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { version } from '../../src/version.ts';
import { freshDatabase } from '../support/database.ts';
import { startProgram } from '../support/program.ts';

const ROOT = join(import.meta.dirname, '..', '..');
vi.setConfig({ testTimeout: 300_000, hookTimeout: 600_000 });
const run = promisify(execFile);

/** An empty project in which the package is installed, with the libraries that it depends on. */
let home: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'hf-package-'));
  const modules = join(home, 'node_modules');
  await mkdir(modules);
  // The tests never run `dist` of this folder, so that building it disturbs none of them.
  const packed = await run('npm', ['pack', '--silent', '--pack-destination', home], { cwd: ROOT });
  const tarball = packed.stdout.trim().split('\n').at(-1)!;
  await run('tar', ['--extract', '--gzip', '--file', join(home, tarball), '--directory', modules]);
  await run('mv', [join(modules, 'package'), join(modules, 'holdfast')]);
  for (const name of await readdir(join(ROOT, 'node_modules'))) {
    if (!name.startsWith('.')) await symlink(join(ROOT, 'node_modules', name), join(modules, name));
  }
  await writeFile(join(home, 'package.json'), '{"private":true}');
});
afterAll(() => rm(home, { recursive: true, force: true }));

async function node(file: string, code: string): Promise<unknown> {
  await writeFile(join(home, file), code);
  const { stdout, stderr } = await run(process.execPath, [file], { cwd: home });
  expect(stderr).toBe('');
  return JSON.parse(stdout);
}

it('The package can be imported, and required from CommonJS', async () => {
  const names = `Object.keys({ ...holdfast, ...machines, ...testing }).filter((name) =>
    ['createBridge', 'BridgeError', 'ConfigError', 'catalogue', 'sessionMachine', 'testBridge', 'startSimulator'].includes(name))`;
  const wanted = [
    'BridgeError',
    'ConfigError',
    'catalogue',
    'createBridge',
    'sessionMachine',
    'startSimulator',
    'testBridge',
  ];
  const imported = await node(
    'imports.mjs',
    `import * as holdfast from 'holdfast'; import * as machines from 'holdfast/machines';
     import * as testing from 'holdfast/testing'; console.log(JSON.stringify(${names}.sort()));`,
  );
  expect(imported).toEqual(wanted);
  const required = await node(
    'requires.cjs',
    `const holdfast = require('holdfast'), machines = require('holdfast/machines'), testing = require('holdfast/testing');
     console.log(JSON.stringify(${names}.sort()));`,
  );
  expect(required).toEqual(wanted);
});

it('The types of the package are complete in a strict project', async () => {
  await writeFile(
    join(home, 'uses.ts'),
    `import { type Bridge, BridgeError, type Config, ConfigError, createBridge, type Outcome } from 'holdfast';
     import { sessionMachine } from 'holdfast/machines';
     import { testBridge, type Simulator, startSimulator } from 'holdfast/testing';
     export async function start(): Promise<[string, Config['upstream']['url'], Outcome[], Simulator]> {
       const bridge: Bridge = await createBridge({ env: { PORT: '0' } });
       // @ts-expect-error: a bridge has no such member, so its type is not any
       bridge.nothing;
       await using at = await testBridge();
       const row = await at.store.listSessions({ limit: 1 });
       const epoch: number = row.rows[0]!.epoch;
       // @ts-expect-error: a column is typed
       const wrong: string = row.rows[0]!.epoch;
       const error: Error = new BridgeError('bridge_draining');
       const codes: number = new BridgeError('bridge_draining').status;
       const config: ConfigError | null = null;
       return [sessionMachine.id, bridge.config.upstream.url, [], await startSimulator()];
     }`,
  );
  const options = {
    strict: true,
    noEmit: true,
    target: 'es2024',
    lib: ['es2024', 'esnext.disposable', 'dom'],
    module: 'nodenext',
    types: ['node'],
  };
  await writeFile(join(home, 'tsconfig.json'), JSON.stringify({ compilerOptions: options, include: ['uses.ts'] }));
  const { stdout } = await run(join(ROOT, 'node_modules', '.bin', 'tsc'), ['-p', home], { cwd: home }).catch(
    (error: { stdout: string }) => error,
  );
  // Without skipLibCheck, which would hide a missing declaration. Those of the libraries are not ours to check.
  const lines = stdout.split('\n').filter((line) => /^(?:uses\.ts|node_modules\/holdfast)/.test(line));
  expect(lines).toEqual([]);
});

it('The built program reads large bodies in its thread, and serves the files of the explorer', async () => {
  const answer = await node(
    'bridge.mjs',
    `import { testBridge } from 'holdfast/testing';
     import { pino } from 'pino';
     const at = await testBridge({ logger: pino({ level: 'silent' }) });
     const asked = await fetch(at.url + '/v1/responses', {
       method: 'POST',
       headers: { 'content-type': 'application/json', authorization: 'Bearer sk-test' },
       body: JSON.stringify({ model: 'm', store: false, input: [{ role: 'user', content: 'x'.repeat(100_000) }] }),
     });
     const { status, output } = await asked.json();
     const admin = { headers: { authorization: 'Bearer ' + (at.bridge.adminToken?.token ?? '') } };
     const page = await (await fetch(at.url + '/admin/ui', admin)).text();
     const files = [...page.matchAll(/(?:src|href)="(\\.[^"]+)"/g)].map(([, path]) => path);
     const statuses = [];
     for (const path of files) statuses.push((await fetch(new URL(path, at.url + '/admin/ui'))).status);
     await at.close();
     console.log(JSON.stringify({ status, items: output.length, files: files.length, statuses: [...new Set(statuses)] }));`,
  );
  expect(answer).toEqual({ status: 'completed', items: 1, files: 14, statuses: [200] });
});

it('The built program runs several workers', async () => {
  const database = await freshDatabase();
  const bin = join(home, 'node_modules', 'holdfast', 'bin', 'holdfast.js');
  expect((await run(process.execPath, [bin, '--version'])).stdout).toBe(`${version}\n`);
  const program = startProgram(process.execPath, [bin, 'serve', '--port', '0', '--workers', '2'], {
    env: {
      DATABASE_URL: database.url,
      HOLDFAST_SECRETS: `test:${'0'.repeat(32)}`,
      HOLDFAST_UPSTREAM_URL: 'http://127.0.0.1:9/v1',
      HOLDFAST_LAME_DUCK_MS: '0',
    },
  });
  try {
    await program.says('is ready at');
  } finally {
    program.signal('SIGTERM');
    await program.gone;
    await database.drop();
  }
});
