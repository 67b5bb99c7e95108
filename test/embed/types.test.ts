import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { parseSync } from 'oxc-parser';
import { afterAll, beforeAll, expect, it } from 'vitest';

const run = promisify(execFile);
const ROOT = join(import.meta.dirname, '..', '..');
const tsc = (...args: string[]) =>
  run(join(ROOT, 'node_modules', '.bin', 'tsc'), args, { cwd: ROOT }).then(
    ({ stdout }) => stdout,
    ({ stdout }: { stdout: string }) => stdout,
  );

/** Program of an application with the strictest settings. */
const PROGRAM = `
import { createServer } from 'node:http';
import middie from '@fastify/middie';
import type { MikroORM } from '@mikro-orm/postgresql';
import express from 'express';
import express4 from 'express4';
import fastify from 'fastify';
import { BridgeError, type BridgeHooks, type BridgeOptions, createBridge, type Identity, type TurnReport } from 'holdfast';

declare const maybe: string | undefined;
declare const orm: MikroORM;
const hooks: BridgeHooks = {
  authenticate: async (req): Promise<Identity | null> => (req.headers.cookie ? { tenant: 'a', credential: maybe } : null),
  chooseUpstream: ({ model }) => (model === 'x' ? { url: 'https://x.test/v1', key: maybe } : undefined),
  onTurn(turn: TurnReport) {
    const total: number | undefined = turn.tokens?.total;
    console.log(total);
  },
};
const options: BridgeOptions = { orm, hooks, upstream: maybe, database: { schema: maybe }, logger: console };
const bridge = await createBridge(options);
express().use(bridge.router).use('/x', bridge.router).use(bridge.handler).use(bridge.adminRouter);
express4().use(bridge.router).use('/x', bridge.router).use(bridge.handler);
const app = fastify();
await app.register(middie);
app.use(bridge.handler);
createServer(bridge.handler).on('upgrade', bridge.handleUpgrade);
throw new BridgeError('bridge_unauthorized', { detail: maybe });
`;

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'holdfast-types-'));
  await symlink(join(ROOT, 'node_modules'), join(folder, 'node_modules'), 'junction');
  await tsc('-p', 'tsconfig.build.json', '--emitDeclarationOnly', '--outDir', join(folder, 'dist'));
}, 240_000);
afterAll(() => rm(folder, { recursive: true, force: true }));

it('The published types suit Express 4 and 5, Fastify and plain http under the strictest settings', async () => {
  const at = join(folder, 'app');
  await mkdir(at);
  await writeFile(join(at, 'app.mts'), PROGRAM);
  const compilerOptions = {
    target: 'es2024',
    lib: ['es2024', 'esnext.disposable'],
    module: 'nodenext',
    types: ['node'],
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    noEmit: true,
    skipLibCheck: true,
    paths: { holdfast: [join(folder, 'dist', 'src', 'index.d.ts')] },
  };
  await writeFile(join(at, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['app.mts'] }));
  expect(await tsc('-p', at)).toBe('');
}, 240_000);

it('No published type of the embedding API is any', async () => {
  const src = join(folder, 'dist', 'src');
  const files = (await readdir(src)).filter((name) => name.endsWith('.d.ts') && !/^(?:cli|supervisor)/.test(name));
  expect(files).toContain('hooks.d.ts');
  for (const name of files) {
    const { program } = parseSync(name, await readFile(join(src, name), 'utf8'));
    expect([name, JSON.stringify(program).includes('"TSAnyKeyword"')]).toEqual([name, false]);
  }
}, 60_000);
