import { randomBytes } from 'node:crypto';
import { unlink } from 'node:fs/promises';
import { declareDeadNeighbours, openLiveness } from './cluster/liveness.ts';
import type { Config } from './config.ts';
import type { Logger } from './observe/log.ts';
import { loadOrCreateAdminToken, loadOrCreateTokenSecrets, startEmbeddedPostgres } from './store/embedded/index.ts';
import type { SessionStore } from './store/port.ts';
import { openPostgresStore } from './store/postgres/index.ts';
import { DatabaseUnusable } from './store/postgres/unusable.ts';

/** A generated admin token and where it is kept. */
export interface KeptAdminToken {
  token: string;
  file: string;
  /** It did not exist before this start. */
  fresh: boolean;
}

/** The durable side of a worker: its store and, with the embedded database, what comes with it. */
export interface Storage {
  store: SessionStore;
  /** `kid:secret,...`. */
  secrets: string;
  /** The admin token kept beside them, made where there was none; null: nothing is kept on this machine. */
  adminToken(): Promise<KeptAdminToken | null>;
  embedded: boolean;
  /** Other workers may use the same database, so they must be able to find this one. */
  shared: boolean;
  /** Socket whose refusal proves this worker dead; only where all workers share the machine. */
  livenessPath: string | null;
  close(): Promise<void>;
}

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5_000;

/** Opens the configured database, or starts the embedded one. Keeps trying while a configured one cannot be reached. */
export async function openStorage(config: Config, logger: Logger): Promise<Storage> {
  if (config.databaseUrl !== null) {
    const store = await openConfigured(config, config.databaseUrl, logger);
    const liveness = config.livenessDir === null ? null : await openNeighbourhood(config.livenessDir, store, logger);
    return {
      store,
      secrets: config.security.secrets!,
      adminToken: async () => null,
      embedded: false,
      shared: true,
      livenessPath: liveness?.path ?? null,
      async close() {
        await store.shutdown();
        await liveness?.close();
      },
    };
  }
  const server = await startEmbeddedPostgres({ dataDir: config.dataDir });
  for (const notice of server.notices) logger.warn({ dataDir: config.dataDir }, notice);
  if (server.adopted) logger.info({ pid: server.pid }, 'took over the database server of a worker that was killed');
  try {
    const store = await openConfigured(config, server.url, logger);
    const liveness = await openNeighbourhood(config.dataDir, store, logger);
    return {
      store,
      secrets: config.security.secrets ?? (await loadOrCreateTokenSecrets(config.dataDir)),
      adminToken: () => loadOrCreateAdminToken(config.dataDir),
      embedded: true,
      shared: false,
      livenessPath: liveness.path,
      async close() {
        await store.shutdown();
        await server.stop();
        await liveness.close();
      },
    };
  } catch (error) {
    await server.stop();
    throw error;
  }
}

/** Listens where neighbours can prove this worker dead, and declares those dead that refuse. */
async function openNeighbourhood(dir: string, store: SessionStore, logger: Logger) {
  const liveness = await openLiveness(dir, `worker-${randomBytes(4).toString('hex')}`);
  const dead = await declareDeadNeighbours(store);
  if (dead.length > 0) logger.info({ workers: dead }, 'workers that were killed are declared dead');
  return {
    path: liveness.path,
    async close() {
      await liveness.close();
      await unlink(liveness.path).catch(() => {});
    },
  };
}

/**
 * Opens the store in a database as the settings want it. One that cannot be reached is tried again for
 * `HOLDFAST_STORE_START_MS`; one that refuses for a reason of its own is not.
 *
 * @param poolSize connections; default as configured
 * @throws `DatabaseUnusable`
 */
export async function openConfigured(
  { deadlines, limits, databaseSchema }: Pick<Config, 'deadlines' | 'limits' | 'databaseSchema'>,
  url: string,
  logger: Logger,
  poolSize = limits.poolSize,
): Promise<SessionStore> {
  const options = { url, schema: databaseSchema, statementTimeoutMs: deadlines.storeStatement, poolSize, logger };
  const until = performance.now() + deadlines.storeStart;
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(LONGEST_PAUSE_MS, pause * 2)) {
    try {
      return await openPostgresStore(options);
    } catch (error) {
      const left = Math.round(until - performance.now());
      if (!(error instanceof DatabaseUnusable && error.passing) || left <= 0) throw error;
      const retryInMs = Math.min(pause, left);
      logger.warn({ retryInMs, givenUpInMs: left }, error.message);
      await new Promise((resolve) => setTimeout(resolve, retryInMs));
    }
  }
}
