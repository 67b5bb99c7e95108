import { spawn } from 'node:child_process';
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { startEmbeddedPostgres } from '../../src/store/embedded/index.ts';
import { endTogether } from '../support/end-together.ts';
import { type Canary, canaries } from './list.ts';

/**
 * `npm run test:canaries -- [--only TEXT]...`: plants each bug in a copy of the project; a bug that no test detects fails.
 * The tests first run once without any bug, because a test that fails then would count as a catch.
 */
const ROOT = join(import.meta.dirname, '..', '..');
const COPIED = [
  'bin',
  'src',
  'machines',
  'test',
  'package.json',
  'tsconfig.json',
  'vitest.config.ts',
  'README.md',
  'docs',
  'deploy',
];

/** Maximum time of the first run, in milliseconds: it includes every test file of the list. */
const LONGEST_FIRST_RUN_MS = 3_600_000;
/** Maximum time of the run with one bug, in milliseconds. A bug that makes its tests hang longer counts as not caught. */
const LONGEST_RUN_MS = 1_200_000;

async function plant({ file, find, replace, name }: Canary, home: string): Promise<void> {
  const path = join(home, file);
  const text = await readFile(path, 'utf8');
  if (text.split(find).length !== 2) throw new Error(`canary "${name}" does not fit ${file} exactly once any more`);
  await writeFile(
    path,
    text.replace(find, () => replace),
  );
}

/** Calls `use` with a copy of the project, and removes the copy afterwards. */
async function withCopy<T>(use: (home: string) => Promise<T>): Promise<T> {
  const home = await mkdtemp(join(tmpdir(), 'hf-canary-home-'));
  try {
    for (const each of COPIED) await cp(join(ROOT, each), join(home, each), { recursive: true });
    await symlink(join(ROOT, 'node_modules'), join(home, 'node_modules'));
    return await use(home);
  } finally {
    await rm(home, { recursive: true, force: true });
  }
}

/** Result of a run. `failed` is the first failing test; null means that all tests passed only if `note` is `passed`. */
interface Run {
  failed: string | null;
  note: string;
}

/** Line of a file or test in the output of the reporter. The line of a file that fails as a whole names no test. */
const FAILED = /^ *(?:FAIL|×) +(.+ > .+)$/m;
const PASSED = /^ *✓ +(.+ > .+)$/gm;
const nameIn = (line: string | undefined) => line?.replace(/^\|\w+\| | \d+ms$/g, '') ?? null;

function runTests(home: string, tests: readonly string[], databaseUrl: string, longestMs: number): Promise<Run> {
  return new Promise((resolve) => {
    const child = spawn(
      process.execPath,
      [join(ROOT, 'node_modules/vitest/vitest.mjs'), 'run', '--bail', '1', '--reporter', 'verbose', ...tests],
      {
        cwd: home,
        env: { ...process.env, NO_COLOR: '1', TEST_DATABASE_URL: databaseUrl, PROPERTY_RUNS: '150' },
        stdio: ['ignore', 'pipe', 'pipe'],
        // A process group, which is ended as a whole.
        detached: true,
      },
    );
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk));
    let ended = false;
    const timer = setTimeout(() => {
      ended = true;
      // Its workers too: one in an endless loop does not notice that the run is gone.
      process.kill(-child.pid!, 'SIGKILL');
    }, longestMs);
    child.once('exit', (code) => {
      clearTimeout(timer);
      const failed = nameIn(FAILED.exec(output)?.[1]);
      if (failed !== null) return resolve({ failed, note: 'failed' });
      if (code === 0) return resolve({ failed, note: 'passed' });
      const last = nameIn([...output.matchAll(PASSED)].at(-1)?.[1]);
      const note = ended ? `did not end within ${longestMs / 1_000} s` : 'ended without the name of a failed test';
      resolve({ failed, note: `${note}, after ${last ?? 'no test'}` });
    });
  });
}

const { values } = parseArgs({ options: { only: { type: 'string', multiple: true } } });
const chosen = canaries.filter(({ name }) => !values.only || values.only.some((text) => name.includes(text)));
await endTogether();
const dataDir = await mkdtemp(join(tmpdir(), 'hf-canary-'));
const server = await startEmbeddedPostgres({ dataDir, settings: ['fsync=off', 'max_connections=300'] });
let survivors = 0;
try {
  const tests = [...new Set(chosen.flatMap((canary) => canary.tests))];
  const clean = await withCopy((home) => runTests(home, tests, server.url, LONGEST_FIRST_RUN_MS));
  if (clean.note !== 'passed') throw new Error(`without any bug the tests ${clean.note}: ${clean.failed ?? '-'}`);
  for (const canary of chosen) {
    const startedAt = performance.now();
    const { failed, note } = await withCopy(async (home) => {
      await plant(canary, home);
      return runTests(home, canary.tests, server.url, LONGEST_RUN_MS);
    });
    if (failed === null) survivors += 1;
    const seconds = ((performance.now() - startedAt) / 1_000).toFixed(1).padStart(6);
    console.log(`${failed === null ? 'SURVIVED' : 'caught  '} ${seconds} s  ${canary.name}: ${failed ?? note}`);
  }
} finally {
  await server.stop();
  await rm(dataDir, { recursive: true, force: true });
}
console.log(`${chosen.length} canaries, ${survivors} survived`);
process.exit(survivors === 0 ? 0 : 1);
