import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { startSimulator } from '../../src/testing/index.ts';
import { version } from '../../src/version.ts';
import { type Ran, run as runIn } from '../deploy/tools.ts';
import { plainEnv, startProgram } from '../support/program.ts';
import { application, compiled, complaints, configOf, files, type ModuleKind, printed } from './consumer.ts';
import { type Manager, managerEnv, managersOf, tools } from './managers.ts';

/**
 * `npm run test:package`: packs the project, installs the tarball with each package manager in an empty project, and uses it
 * there: the types under two compilers, from ESM and from CommonJS; every example; the program. `-- NAME ...` takes only the
 * package managers of these names. What is downloaded stays in `TEST_PACKAGE_DIR`, by default a folder of the temporary
 * directory.
 */

const ROOT = join(import.meta.dirname, '..', '..');
const scratch = process.env.TEST_PACKAGE_DIR ?? join(tmpdir(), 'holdfast-test-package');
const toolsAt = join(scratch, 'tools');
const own = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as Record<string, Record<string, string>>;

/** Compilers, by the names under which the projects have them. Yarn's PnP patches only a package called `typescript`. */
const compilers = [
  { label: '5.9', name: 'typescript', wanted: '5.9.3' },
  { label: '7', name: 'typescript7', wanted: `npm:typescript@${own.devDependencies!.typescript}` },
];
const kinds: ModuleKind[] = ['esm', 'cjs'];

/** What the examples and the programs of `consumer.ts` import, and what their types need. */
const imported = [
  '@fastify/middie',
  '@hono/node-server',
  '@mikro-orm/core',
  '@mikro-orm/postgresql',
  '@openai/agents',
  '@types/express',
  '@types/express4',
  '@types/node',
  'express',
  'express4',
  'fastify',
  'helmet',
  'hono',
  'openai',
  'xstate',
  'zod',
];

const failures: string[] = [];
const remarks = new Set<string>();

interface Options {
  cwd: string;
  env: NodeJS.ProcessEnv;
}
const run = ([program, ...args]: readonly string[], options: Options): Promise<Ran> =>
  runIn(program!, args, '', options);

/** Returns what a cell of the table says: its text, or why it failed. */
async function cell(label: string, check: () => Promise<string>): Promise<string> {
  try {
    const text = await check();
    console.log(`${label}: ${text}`);
    return text;
  } catch (error) {
    failures.push(label);
    console.log(`${label}: FAILED\n${(error as Error).message}`);
    return 'FAILED';
  }
}

function succeeded({ code, stdout, stderr }: Ran): string {
  if (code !== 0) throw new Error(`exit code ${code}\n${(stdout + stderr).slice(-4_000)}`);
  return stdout;
}

/** Returns a Node of `PATH` that is older than the package allows, and its version; null where there is none. */
async function olderNode(): Promise<{ path: string; version: string } | null> {
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    const path = join(folder, 'node');
    const { code, stdout } = await runIn(path, ['--version'], '', {}).catch(() => ({ code: 1, stdout: '' }));
    const [major, minor] = stdout.slice(1).split('.').map(Number);
    if (code === 0 && (major! < 22 || (major === 22 && minor! < 19))) return { path, version: stdout.trim().slice(1) };
  }
  return null;
}

async function pack(): Promise<string> {
  const stdout = succeeded(await runIn('npm', ['pack', '--silent', '--pack-destination', scratch], '', { cwd: ROOT }));
  const name = stdout.trim().split('\n').at(-1)!;
  if (!name.endsWith('.tgz')) throw new Error(`npm pack named no tarball:\n${stdout}`);
  return join(scratch, name);
}

/** Compiles the application with one compiler, and runs what it made. */
async function compileAndRun(manager: Manager, kind: ModuleKind, label: string, name: string, options: Options) {
  const to = `made-${label}`;
  for (const [path, text] of Object.entries(application(kind, to))) await writeFile(join(options.cwd, path), text);
  const env = { ...options.env, NODE_OPTIONS: manager.nodeOptions };
  const found = await run([process.execPath, '-p', `require.resolve('${name}/package.json')`], { ...options, env });
  const tsc = join(dirname(succeeded(found).trim()), 'bin', 'tsc');
  const { stdout, stderr } = await run([process.execPath, tsc, '-p', configOf(kind, to)], { ...options, env });
  const { own: ours, others } = complaints(stdout + stderr);
  if (ours.length > 0) throw new Error(ours.join('\n'));
  for (const other of others) remarks.add(`TypeScript ${label} finds errors in the declarations of ${other} itself`);
  const ran = succeeded(await run([process.execPath, compiled(kind, to)], { ...options, env }));
  const { names, ...seen } = JSON.parse(ran.trim().split('\n').at(-1)!) as { names: string[][] };
  if (!isDeepStrictEqual(seen, printed)) throw new Error(`${files[kind].made} printed ${ran}`);
  // A name that only one of import and require sees would show here.
  exported.add(JSON.stringify(names));
  if (exported.size > 1) throw new Error(`the exported names differ: ${[...exported].join('\n')}`);
  return 'ok';
}
const exported = new Set<string>();

/** Runs `test/examples` on a copy of the examples in the project. */
async function examples(manager: Manager, { cwd, env }: Options): Promise<string> {
  await cp(join(ROOT, 'examples'), join(cwd, 'examples'), { recursive: true });
  const report = join(cwd, 'examples.json');
  const vitest = join(ROOT, 'node_modules', 'vitest', 'vitest.mjs');
  const ran = await run(
    [process.execPath, vitest, 'run', 'test/examples', '--reporter=json', `--outputFile=${report}`],
    { cwd: ROOT, env: { ...env, EXAMPLES_DIR: join(cwd, 'examples'), EXAMPLES_NODE_OPTIONS: manager.nodeOptions } },
  );
  const { testResults } = JSON.parse(await readFile(report, 'utf8').catch(() => '{"testResults":[]}')) as {
    testResults: {
      message: string;
      assertionResults: { status: string; title: string; failureMessages: string[] }[];
    }[];
  };
  const all = testResults.flatMap(({ assertionResults }) => assertionResults);
  const failed = all.filter(({ status }) => status === 'failed');
  if (failed.length > 0 || ran.code !== 0) {
    const causes = failed.map(
      ({ title, failureMessages }) => `${title}\n${failureMessages.join('\n').slice(0, 3_000)}`,
    );
    throw new Error(causes.join('\n') || ran.stderr.slice(-4_000));
  }
  return `${all.filter(({ status }) => status === 'passed').length} ok`;
}

/** Starts `holdfast` with nothing but an upstream, as its users do first; sends a turn, and ends it as Ctrl-C does. */
async function serve(command: readonly string[], { cwd, env }: Options): Promise<string> {
  const simulator = await startSimulator();
  const [program, ...args] = command;
  const started = startProgram(program!, [...args, 'holdfast'], {
    cwd,
    env: { ...env, PORT: '0', HOLDFAST_UPSTREAM_URL: simulator.url, HOLDFAST_LAME_DUCK_MS: '0' },
  });
  try {
    await started.says('is ready at http');
    const url = /is ready at (http\S+)/.exec(started.text())![1]!;
    const answer = await fetch(`${url}/v1/responses`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: 'Bearer any' },
      body: JSON.stringify({ model: 'm', input: 'Say hi.' }),
    });
    const text = await answer.text();
    if (!text.includes('"completed"')) throw new Error(`${answer.status} ${text}`);
    started.signalGroup('SIGINT');
    await started.says('"msg":"stopped"');
    return 'ok';
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${started.text()}`);
  } finally {
    started.signalGroup('SIGTERM');
    await started.gone;
    await simulator.close();
  }
}

async function doctor(command: readonly string[], options: Options): Promise<string> {
  const simulator = await startSimulator();
  const env = { ...options.env, HOLDFAST_UPSTREAM_URL: simulator.url, HOLDFAST_UPSTREAM_KEY: 'sk-upstream' };
  try {
    const { stdout, stderr } = await run([...command, 'holdfast', 'doctor', '--json'], { ...options, env });
    const { faults, findings } = JSON.parse(stdout || 'null') ?? { faults: stderr, findings: [] };
    if (faults !== 0 || findings.length < 5) throw new Error(stdout + stderr);
    return 'ok';
  } finally {
    await simulator.close();
  }
}

async function prints(command: readonly string[], options: Options): Promise<string> {
  const stdout = succeeded(await run([...command, 'holdfast', '--version'], options));
  if (stdout.trim() !== version) throw new Error(`--version printed ${stdout}`);
  return 'ok';
}

/** On an older Node the program says what it needs, in one line. */
async function refuses(command: readonly string[], options: Options, older: string): Promise<string> {
  const { code, stdout, stderr } = await run([...command, 'holdfast', '--version'], options);
  const lines = stderr.split('\n').filter((line) => line.startsWith('holdfast: '));
  if (code !== 1 || stdout.includes(version) || lines.length !== 1 || !lines[0]!.includes(`this is ${older}`))
    throw new Error(`exit code ${code}\n${stdout}${stderr}`);
  return 'says so';
}

await mkdir(toolsAt, { recursive: true });
await writeFile(join(toolsAt, 'package.json'), JSON.stringify({ private: true, dependencies: tools }));
const node = process.execPath;
const env = {
  ...plainEnv(),
  PATH: `${dirname(node)}${delimiter}${process.env.PATH}`,
  NO_COLOR: '1',
  ...(await managerEnv(scratch)),
};
succeeded(await run(['npm', 'install', '--no-audit', '--no-fund'], { cwd: toolsAt, env }));
const tarball = await pack();
const old = await olderNode();
if (!old) remarks.add('No Node older than 22.19 is installed: its refusal was not tried');

const chosen = process.argv.slice(2);
const known = managersOf(toolsAt, '').map(({ name }) => name);
for (const name of chosen) if (!known.includes(name)) throw new Error(`${name}: choose among ${known.join(', ')}`);
const table: Record<string, Record<string, string>> = {};
for (const name of known) {
  if (chosen.length > 0 && !chosen.includes(name)) continue;
  const project = join(scratch, 'projects', name.replaceAll(' ', '-'));
  const manager = managersOf(toolsAt, project).find((each) => each.name === name)!;
  const row: Record<string, string> = {};
  table[name] = row;
  await rm(project, { recursive: true, force: true });
  await mkdir(project, { recursive: true });
  const dependencies = Object.fromEntries([
    ['holdfast', `file:${tarball}`],
    ...imported.map((each) => [each, own.dependencies![each] ?? own.devDependencies![each]]),
    ...compilers.map((compiler) => [compiler.name, compiler.wanted]),
  ]);
  const manifest = { name: 'app', version: '1.0.0', private: true, type: 'module', dependencies };
  await writeFile(join(project, 'package.json'), JSON.stringify(manifest, null, 2));
  for (const [path, text] of Object.entries(manager.files)) await writeFile(join(project, path), text);
  const options = { cwd: project, env };
  const startedAt = performance.now();
  row.install = await cell(`${name}, install`, async () => {
    succeeded(await run(manager.install, options));
    return `${Math.round((performance.now() - startedAt) / 1_000)} s`;
  });
  if (row.install === 'FAILED') continue;
  for (const { label, name: compiler } of compilers) {
    for (const kind of kinds) {
      const column = `TS ${label} ${kind.toUpperCase()}`;
      if (label === '7' && manager.withoutNativeCompiler) {
        row[column] = 'not possible';
        remarks.add(`${name} with TypeScript 7: ${manager.withoutNativeCompiler}`);
      } else {
        row[column] = await cell(`${name}, ${column}`, () => compileAndRun(manager, kind, label, compiler, options));
      }
    }
  }
  row.examples = await cell(`${name}, examples`, () => examples(manager, options));
  row['--version'] = await cell(`${name}, holdfast --version`, () => prints(manager.exec(node), options));
  row.doctor = await cell(`${name}, holdfast doctor`, () => doctor(manager.exec(node), options));
  row.holdfast = await cell(`${name}, holdfast`, () => serve(manager.exec(node), options));
  if (old) {
    const onOld = { cwd: project, env: { ...env, PATH: `${dirname(old.path)}${delimiter}${env.PATH}` } };
    row[`on Node ${old.version}`] = await cell(`${name}, on Node ${old.version}`, () =>
      refuses(manager.exec(old.path), onOld, old.version),
    );
  }
  await rm(project, { recursive: true, force: true });
}

console.table(table);
for (const remark of remarks) console.log(remark);
console.log(failures.length === 0 ? 'test:package: passed' : `test:package: FAILED: ${failures.join('; ')}`);
process.exitCode = failures.length === 0 ? 0 : 1;
