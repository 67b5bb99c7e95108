import { createHash, randomBytes } from 'node:crypto';
import { chmod, chown, mkdir } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { findBinaries, isReachableByOthers, reachableBinaries, requireSafe, unprivileged } from './binaries.ts';
import { listenAlone, socketPath } from './lock.ts';
import {
  type Cluster,
  ensureCluster,
  findOrphan,
  loadOrCreateSecret,
  startServer,
  stopServer,
  urlOf,
} from './server.ts';

export interface EmbeddedOptions {
  /** Holdfast's data directory; the cluster lives in `pg` below it. */
  dataDir: string;
  /** Further server settings, `name=value`; they win over the defaults. */
  settings?: readonly string[];
}

export interface EmbeddedPostgres {
  url: string;
  pid: number;
  port: number;
  adopted: boolean;
  /** Stops the server in order and gives the data directory free. */
  stop(): Promise<void>;
}

/** Small, and as durable as PostgreSQL is by default. */
const defaults = [
  'shared_buffers=64MB',
  'max_connections=200',
  'logging_collector=off',
  'log_min_messages=warning',
  'dynamic_shared_memory_type=mmap',
];

const hex = (bytes: number) => () => randomBytes(bytes).toString('hex');

/** Where the cluster lives: below the data directory, unless its unprivileged server could not get there. */
async function clusterHome(dataDir: string, user: { uid: number; gid: number } | null): Promise<string> {
  if (!user || (await isReachableByOthers(resolve(dataDir, '..')))) return dataDir;
  const home = join('/var/lib/holdfast', createHash('sha256').update(dataDir).digest('hex').slice(0, 16));
  await mkdir('/var/lib/holdfast', { recursive: true, mode: 0o711 });
  await mkdir(home, { recursive: true, mode: 0o711 });
  return home;
}

/**
 * Starts (or finds running) the PostgreSQL of a data directory. One Holdfast at a time: a second one gets `DataDirInUse`.
 * Throws `NoEmbeddedPostgres` on a platform without binaries, and `UnsafePath` where another user may write its data
 * directory or its programs.
 */
export async function startEmbeddedPostgres(options: EmbeddedOptions): Promise<EmbeddedPostgres> {
  const dataDir = resolve(options.dataDir);
  const user = unprivileged();
  const found = await findBinaries();
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  // The server's own user must get through to its cluster, and see nothing else.
  if (user) await chmod(dataDir, 0o711);
  await requireSafe(dataDir);
  const lock = await listenAlone(
    socketPath(dataDir, 'holdfast'),
    `Another Holdfast is using ${dataDir}: stop it, or choose another HOLDFAST_DATA_DIR.`,
  );
  try {
    const home = await clusterHome(dataDir, user);
    const password = await loadOrCreateSecret(join(dataDir, 'pg.password'), hex(24));
    const binaries = user ? await reachableBinaries(found) : found;
    const libraries = join(dirname(dirname(binaries.postgres)), 'lib');
    for (const path of [binaries.initdb, binaries.postgres, libraries]) await requireSafe(path);
    const cluster: Cluster = {
      binaries,
      dir: join(home, 'pg'),
      logFile: join(dataDir, 'pg.log'),
      password,
      user,
      settings: [...defaults, ...(options.settings ?? [])],
    };
    if (user && home !== dataDir) await chown(home, user.uid, user.gid);
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

/** Token secrets of an embedded installation, `kid:secret`, made on its first start and kept readable by its owner only. */
export function loadOrCreateTokenSecrets(dataDir: string): Promise<string> {
  return loadOrCreateSecret(join(resolve(dataDir), 'token.secrets'), () => `${hex(4)()}:${hex(32)()}`);
}

/** File below the data directory that holds the generated admin token. */
export const ADMIN_TOKEN_FILE = 'admin.token';

/** The admin token of an embedded installation, made on its first start that needs one. */
export async function loadOrCreateAdminToken(
  dataDir: string,
): Promise<{ token: string; file: string; fresh: boolean }> {
  const file = join(resolve(dataDir), ADMIN_TOKEN_FILE);
  let fresh = false;
  const token = await loadOrCreateSecret(file, () => {
    fresh = true;
    return randomBytes(24).toString('base64url');
  });
  return { token, file, fresh };
}
