import { randomBytes } from 'node:crypto';
import { chmod, mkdir, readFile, stat } from 'node:fs/promises';
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
  loadOrCreateSecret,
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
    await ensureCluster(cluster);
    const server = (await findOrphan(cluster)) ?? (await startServer(cluster));
    return {
      ...server,
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
