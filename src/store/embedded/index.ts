import { createHash, randomBytes } from 'node:crypto';
import { chmod, chown, cp, lstat, mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { listenAlone, probe, socketPath } from '../../exclusive-socket.ts';
import {
  findBinaries,
  isReachableByOthers,
  requireSafe,
  type Unprivileged,
  unprivileged,
  usableBinaries,
} from './binaries.ts';
import {
  type Cluster,
  ensureCluster,
  findOrphan,
  flushFile,
  loadOrCreateSecret,
  runsThere,
  serverOf,
  startServer,
  stopServer,
  urlOf,
  WORKING_DIRECTORY,
} from './server.ts';

export interface EmbeddedOptions {
  /** Holdfast's data directory. The cluster is in `pg` below it. */
  dataDir: string;
  /** Further server settings, `name=value`. They override the defaults. */
  settings?: readonly string[];
}

/** Running server of a data directory. `adopted`: it was left running by a killed worker. */
export interface EmbeddedPostgres {
  url: string;
  pid: number;
  port: number;
  adopted: boolean;
  /** Messages for the operator about the location of the data. */
  notices: readonly string[];
  /** Stops the server in order and releases the data directory. */
  stop(): Promise<void>;
}

/** Small, with PostgreSQL's default durability. */
const defaults = [
  'shared_buffers=64MB',
  'max_connections=200',
  'logging_collector=off',
  'log_min_messages=warning',
  'dynamic_shared_memory_type=mmap',
];

const hex = (bytes: number) => randomBytes(bytes).toString('hex');

/** Only root can reach the data directory, and PostgreSQL does not run as root. */
export class PrivatePlace extends Error {
  override readonly name = 'PrivatePlace';
}

/**
 * Returns whether the server's user cannot reach the data directory by its path.
 *
 * @throws `PrivatePlace` when there is no other way to reach it
 */
async function isHidden(dataDir: string, user: Unprivileged | null): Promise<boolean> {
  if (!user || (await isReachableByOthers(resolve(dataDir, '..')))) return false;
  if (await stat(WORKING_DIRECTORY).catch(() => null)) return true;
  throw new PrivatePlace(
    `PostgreSQL does not run as root, and no other user can get to ${dataDir}: a directory above it is private. Run Holdfast ` +
      'as another user, choose a HOLDFAST_DATA_DIR that others can get to, or set DATABASE_URL.',
  );
}

/** Parent of the clusters that earlier releases made when they ran as root below a private directory. */
const FORMER_HOMES = '/var/lib/holdfast';
const formerHome = (dataDir: string) =>
  join(FORMER_HOMES, createHash('sha256').update(dataDir).digest('hex').slice(0, 16));

/** Gives a copied tree to the server's user and flushes it to disk. */
export async function handOver(path: string, user: Unprivileged): Promise<void> {
  const info = await lstat(path);
  if (info.isDirectory()) for (const name of await readdir(path)) await handOver(join(path, name), user);
  if (!info.isSymbolicLink()) await chown(path, user.uid, user.gid);
  if (info.isFile()) await flushFile(path, 'r');
}

/**
 * Moves a cluster of an earlier release into the data directory.
 *
 * @returns messages for the operator
 */
async function bringHome(cluster: Cluster, dataDir: string): Promise<string[]> {
  const { dir, user } = cluster;
  const home = formerHome(dataDir);
  const former = join(home, 'pg');
  if (!user || !(await stat(join(former, 'PG_VERSION')).catch(() => null))) return [];
  if (await stat(join(dir, 'PG_VERSION')).catch(() => null)) {
    return [
      `a database of an earlier release lies in ${former} and is not used: remove it when nothing in it is missed`,
    ];
  }
  await requireSafe(home, [user.uid]);
  const orphan = await findOrphan({ ...cluster, dir: former });
  if (orphan) await stopServer(orphan.pid);
  const stays = await runsThere(former);
  if (stays !== null) throw new Error(`A database server (process ${stays}) still runs in ${former}: stop it.`);
  await rename(former, dir).catch(async (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EXDEV') throw error;
    const draft = `${dir}.moving`;
    await rm(draft, { recursive: true, force: true });
    await cp(former, draft, { recursive: true, verbatimSymlinks: true, preserveTimestamps: true });
    await handOver(draft, user);
    await rename(draft, dir);
  });
  await rm(home, { recursive: true, force: true });
  return [`the database, which an earlier release kept in ${former}, was moved to ${dir}`];
}

/**
 * Starts the PostgreSQL server of a data directory, or adopts a running one. Only one Holdfast at a time may use it.
 *
 * @throws `DataDirInUse` for a second Holdfast, `NoEmbeddedPostgres` on a platform without binaries, `UnsafePath` when
 *   another user may write its data directory or its programs, `PrivatePlace` when the server could not reach the data
 *   directory
 */
export async function startEmbeddedPostgres(options: EmbeddedOptions): Promise<EmbeddedPostgres> {
  const dataDir = resolve(options.dataDir);
  const user = unprivileged();
  const found = await findBinaries();
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  // The server's user must be able to traverse the directory to its cluster, and must not list it.
  if (user) await chmod(dataDir, 0o711);
  await requireSafe(dataDir);
  const lock = await listenAlone(
    socketPath(dataDir, 'holdfast'),
    `Another Holdfast is using ${dataDir}: stop it, or choose another HOLDFAST_DATA_DIR.`,
  );
  try {
    const hidden = await isHidden(dataDir, user);
    const password = await loadOrCreateSecret(join(dataDir, 'pg.password'), hex(24));
    const binaries = await usableBinaries(found, user);
    const libraries = join(dirname(dirname(binaries.postgres)), 'lib');
    for (const path of [binaries.initdb, binaries.postgres, libraries]) await requireSafe(path);
    const cluster: Cluster = {
      binaries,
      dir: join(dataDir, 'pg'),
      logFile: join(dataDir, 'pg.log'),
      password,
      user,
      settings: [...defaults, ...(options.settings ?? [])],
      hidden,
    };
    const notices = await bringHome(cluster, dataDir);
    await ensureCluster(cluster);
    const server = (await findOrphan(cluster)) ?? (await startServer(cluster));
    return {
      ...server,
      notices,
      url: urlOf(server.port, password),
      async stop() {
        await stopServer(server.pid);
        await lock.close();
      },
    };
  } catch (error) {
    await lock.close();
    throw error;
  }
}

/** State of a data directory, seen from outside. */
export interface DataDirState {
  /** It has a cluster, which was made by this major version of PostgreSQL; null without one. */
  major: string | null;
  /** A Holdfast uses it now. */
  inUse: boolean;
  /** Address of the server that this Holdfast runs; null when none answers. */
  url: string | null;
}

/** Looks at a data directory without changing anything. */
export async function dataDirState(given: string): Promise<DataDirState> {
  const dataDir = resolve(given);
  const read = (name: string) => readFile(join(dataDir, name), 'utf8').catch(() => null);
  const [major, password] = await Promise.all([read('pg/PG_VERSION'), read('pg.password')]);
  const inUse = (await probe(socketPath(dataDir, 'holdfast'))) === 'answered';
  const server = inUse && password !== null ? await serverOf(join(dataDir, 'pg'), password.trim()) : null;
  return { major: major?.trim() ?? null, inUse, url: server && urlOf(server.port, password!.trim()) };
}

/**
 * Returns the token secrets of an embedded installation, `kid:secret`. They are made at the first start and readable by
 * their owner only.
 */
export function loadOrCreateTokenSecrets(dataDir: string): Promise<string> {
  return loadOrCreateSecret(join(resolve(dataDir), 'token.secrets'), `${hex(4)}:${hex(32)}`);
}

/** File below the data directory that holds the generated admin token. */
export const ADMIN_TOKEN_FILE = 'admin.token';

/** Returns the admin token of an embedded installation. It is made at the first start that needs one. */
export async function loadOrCreateAdminToken(
  dataDir: string,
): Promise<{ token: string; file: string; fresh: boolean }> {
  const file = join(resolve(dataDir), ADMIN_TOKEN_FILE);
  const made = randomBytes(24).toString('base64url');
  const token = await loadOrCreateSecret(file, made);
  return { token, file, fresh: token === made };
}
