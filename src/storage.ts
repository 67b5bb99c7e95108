import { randomBytes } from 'node:crypto';
import { unlink } from 'node:fs/promises';
import { declareDeadNeighbours, openLiveness } from './cluster/liveness.ts';
import type { Config } from './config.ts';
import type { Logger } from './observe/log.ts';
import { loadOrCreateTokenSecrets, startEmbeddedPostgres } from './store/embedded/index.ts';
import type { SessionStore } from './store/port.ts';
import { openPostgresStore } from './store/postgres/index.ts';

/** The durable side of a worker: its store and, with the embedded database, what comes with it. */
export interface Storage {
  store: SessionStore;
  /** `kid:secret,...`. */
  secrets: string;
  embedded: boolean;
  /** Socket whose refusal proves this worker dead; only where all workers share the machine. */
  livenessPath: string | null;
  close(): Promise<void>;
}

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5_000;

/** Opens the configured database, or starts the embedded one. Keeps trying while a configured one cannot be reached. */
export async function openStorage(config: Config, logger: Logger): Promise<Storage> {
  const options = { statementTimeoutMs: config.deadlines.storeStatement, poolSize: config.limits.poolSize, logger };
  if (config.databaseUrl !== null) {
    const store = await openPatiently({ ...options, url: config.databaseUrl }, logger);
    return {
      store,
      secrets: config.security.secrets!,
      embedded: false,
      livenessPath: null,
      close: () => store.shutdown(),
    };
  }
  const server = await startEmbeddedPostgres({ dataDir: config.dataDir });
  if (server.adopted) logger.info({ pid: server.pid }, 'took over the database server of a worker that was killed');
  try {
    const store = await openPostgresStore({ ...options, url: server.url });
    const liveness = await openLiveness(config.dataDir, `worker-${randomBytes(4).toString('hex')}`);
    for (const { livenessPath } of await store.workers()) {
      if (livenessPath === liveness.path) throw new Error('a liveness path was used twice');
    }
    const dead = await declareDeadNeighbours(store);
    if (dead.length > 0) logger.info({ workers: dead }, 'workers that were killed are declared dead');
    return {
      store,
      secrets: config.security.secrets ?? (await loadOrCreateTokenSecrets(config.dataDir)),
      embedded: true,
      livenessPath: liveness.path,
      async close() {
        await store.shutdown();
        await server.stop();
        await liveness.close();
        await unlink(liveness.path).catch(() => {});
      },
    };
  } catch (error) {
    await server.stop();
    throw error;
  }
}

/** A database that is not up yet is waited for; one that refuses for a reason of its own is not. */
async function openPatiently(options: Parameters<typeof openPostgresStore>[0], logger: Logger): Promise<SessionStore> {
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(LONGEST_PAUSE_MS, pause * 2)) {
    try {
      return await openPostgresStore(options);
    } catch (error) {
      const code = String((error as { code?: unknown }).code ?? '');
      if (!/^(ECONNREFUSED|ECONNRESET|ETIMEDOUT|EHOSTUNREACH|57P0[123]|08)/.test(code)) throw error;
      logger.warn({ code, retryInMs: pause }, 'the database is not reachable; trying again');
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }
}
