import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '../src/store/embedded/index.ts';
import { percentile, thisMachine } from './machine.ts';

/**
 * Measures the start of the built package (`npm run build` first): the processor time of `import 'holdfast'` beyond that
 * of Node itself, and the time from the start of `holdfast serve` until it is ready on a database that exists, with the
 * size of the modules that it has loaded until then.
 */
const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 7);
const ROOT = join(import.meta.dirname, '..');

const home = await mkdtemp(join(tmpdir(), 'hf-bench-'));
const list = join(home, 'modules.json');
/** Records the modules that a process loads, of packages and of Holdfast, by their files. */
const hook = `data:text/javascript,${encodeURIComponent(`
  import { registerHooks } from 'node:module';
  import { writeFileSync } from 'node:fs';
  const urls = new Set();
  registerHooks({ load(url, context, next) { if (url.startsWith('file:')) urls.add(url); return next(url, context); } });
  process.on('exit', () => writeFileSync(${JSON.stringify(list)}, JSON.stringify([...urls])));
`)}`;

interface Loaded {
  files: number;
  bytes: number;
  byPackage: Map<string, number>;
}

async function loaded(): Promise<Loaded> {
  const urls = JSON.parse(await readFile(list, 'utf8')) as string[];
  const byPackage = new Map<string, number>();
  let bytes = 0;
  for (const url of urls) {
    const size = (await readFile(new URL(url))).length;
    const name = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(url)?.[1] ?? 'holdfast';
    byPackage.set(name, (byPackage.get(name) ?? 0) + size);
    bytes += size;
  }
  return { files: urls.length, bytes, byPackage };
}

function ended(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => (code === 0 ? resolve() : reject(new Error(`the process ended with ${code}`))));
  });
}

/** Returns the processor time in milliseconds that a fresh process needs for some code of a module, up to its end. */
async function processorTime(code: string, options: readonly string[] = []): Promise<number> {
  const text = `${code};const{user,system}=process.cpuUsage();process.stdout.write(String((user+system)/1000))`;
  const child = spawn(process.execPath, [...options, '--input-type=module', '-e', text], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let out = '';
  child.stdout!.setEncoding('utf8').on('data', (part: string) => (out += part));
  await ended(child);
  return Number(out);
}

const quiet = {
  HOLDFAST_LOG_LEVEL: 'silent',
  HOLDFAST_LAME_DUCK_MS: '0',
  HOLDFAST_UPSTREAM_URL: 'http://127.0.0.1:9/v1',
};

/** Starts the server, and returns the time until it is ready, in milliseconds. */
async function readyIn(env: Record<string, string>, options: readonly string[] = []): Promise<number> {
  const from = performance.now();
  const child = spawn(process.execPath, [...options, join(ROOT, 'dist', 'cli.js'), 'serve', '--port', '0'], {
    env: { ...process.env, ...quiet, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const over = ended(child);
  const ready = new Promise<number>((resolve) => {
    let text = '';
    child.stdout!.setEncoding('utf8').on('data', (part: string) => {
      text += part;
      if (text.includes('is ready at')) resolve(performance.now() - from);
    });
  });
  const took = await Promise.race([ready, over.then(() => Number.NaN)]);
  child.kill('SIGTERM');
  await over;
  return took;
}

async function rounds(measure: () => Promise<number>): Promise<{ median: number; least: number; most: number }> {
  const values: number[] = [];
  for (let round = 0; round < ROUNDS; round += 1) values.push(await measure());
  return { median: percentile(values, 0.5), least: Math.min(...values), most: Math.max(...values) };
}

const row = (figure: string, { median, least, most }: Awaited<ReturnType<typeof rounds>>) => ({
  figure,
  median: `${median.toFixed(0)} ms`,
  least: `${least.toFixed(0)} ms`,
  most: `${most.toFixed(0)} ms`,
});

const modules: object[] = [];
async function noteModules(start: string): Promise<void> {
  const { files, bytes, byPackage } = await loaded();
  const largest = [...byPackage].sort(([, a], [, b]) => b - a).slice(0, 8);
  modules.push({
    start,
    files,
    MB: (bytes / 1e6).toFixed(1),
    largest: largest.map(([name, size]) => `${name} ${(size / 1e6).toFixed(1)}`).join(', '),
  });
}

const embedded = await startEmbeddedPostgres({ dataDir: join(home, 'database') });
try {
  console.log(thisMachine());
  const node = await rounds(() => processorTime(''));
  const rows = [row('processor time of Node alone', node)];
  for (const name of ['holdfast', 'holdfast/machines', 'holdfast/testing']) {
    const { median, least, most } = await rounds(() => processorTime(`await import('${name}')`));
    const beyond = (value: number) => value - node.median;
    rows.push(row(`import '${name}', beyond it`, { median: beyond(median), least: beyond(least), most: beyond(most) }));
    await processorTime(`await import('${name}')`, ['--import', hook]);
    await noteModules(`import '${name}'`);
  }
  const starts = {
    'serve, DATABASE_URL': { DATABASE_URL: embedded.url, HOLDFAST_SECRETS: `bench:${'0'.repeat(32)}` },
    'serve, own database': { HOLDFAST_DATA_DIR: join(home, 'own') },
  };
  for (const [name, env] of Object.entries(starts)) {
    // The first start creates the tables, or the whole database.
    await readyIn(env, ['--import', hook]);
    await noteModules(name);
    rows.push(row(`${name}: ready`, await rounds(() => readyIn(env))));
  }
  console.table(rows);
  console.table(modules);
} finally {
  await embedded.stop();
  await rm(home, { recursive: true, force: true });
}
