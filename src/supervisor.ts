import cluster, { type Worker } from 'node:cluster';
import { join } from 'node:path';
import { type AdminToken, adminTokenFor } from './bridge.ts';
import type { Config } from './config.ts';
import { guarded, onFault, reportFault } from './faults.ts';
import type { Logger } from './observe/log.ts';
import { openConfigured } from './storage.ts';
import { loadOrCreateAdminToken, loadOrCreateTokenSecrets, startEmbeddedPostgres } from './store/embedded/index.ts';
import { parseSecrets } from './token/keyring.ts';

/** What a worker process tells its supervisor. */
export type WorkerNews = { kind: 'registered'; workerId: string } | { kind: 'ready'; url: string };

export interface SupervisorOptions {
  config: Config;
  logger: Logger;
  workers: number;
  /** Called once, when the first worker serves. */
  onReady(url: string, adminToken: AdminToken | null): void;
}

export interface Supervisor {
  /** Resolves when every worker has drained and gone, and the embedded database, if any, has stopped. */
  stop(): Promise<void>;
  /** Ends the workers without draining; what they ran is recorded as lost. */
  kill(): Promise<void>;
}

/** A worker that lived shorter than this, in milliseconds, is replaced with a growing pause. */
const SHORT_LIFE = 10_000;
const FIRST_PAUSE = 250;
const LONGEST_PAUSE = 10_000;

/**
 * Runs several workers behind one port, one process each, and owns their embedded database. A reaped child is certainly
 * dead: its death is stored at once, so that its busy sessions need not wait for a lease.
 */
export async function supervise({ config, logger, workers, onReady }: SupervisorOptions): Promise<Supervisor> {
  const { env, url, adminToken, stopDatabase } = await database(config);
  onFault((err, source, suppressed) => {
    logger.error({ err, source, suppressed }, 'an exception ended what it arose from, and nothing else: report it');
  });
  const store = await openConfigured(config, url, logger, 1).catch(async (error) => {
    await stopDatabase();
    throw error;
  });
  // Workers accept by themselves. Where the primary hands connections out, one that it hands to a worker in the moment that
  // worker dies stays open and is never answered.
  cluster.schedulingPolicy = cluster.SCHED_NONE;
  cluster.setupPrimary({ exec: join(import.meta.dirname, `cli.${import.meta.filename.split('.').at(-1)}`), args: [] });
  const identities = new Map<number, string>();
  const exits = new Set<Promise<void>>();
  let stopping = false;
  let announced = false;

  /** Repeated until it is answered: only a stored death frees what the worker was running. */
  async function recordDeath(workerId: string): Promise<void> {
    for (let attempt = 0; attempt < 20; attempt += 1) {
      if ((await store.declareDead(workerId)).verdict === 'dead') return;
      await new Promise((again) => setTimeout(again, 250));
    }
    logger.error({ worker: workerId }, 'the death of a worker could not be recorded; its lease decides');
  }

  function start(pause: number): void {
    const child = cluster.fork(env);
    const startedAt = performance.now();
    child.on(
      'message',
      guarded('supervisor', (news: WorkerNews) => {
        if (news.kind === 'registered') identities.set(child.id, news.workerId);
        else if (!announced) {
          announced = true;
          onReady(news.url, adminToken);
        }
      }),
    );
    // A message that could not be delivered; the end of the process is an event of its own.
    child.on('error', (error) => reportFault(error, 'supervisor'));
    const exit = new Promise<void>((gone) => {
      child.once('exit', (code, signal) => {
        const workerId = identities.get(child.id);
        identities.delete(child.id);
        if (!stopping || code !== 0) logger.warn({ worker: workerId, code, signal }, 'a worker process ended');
        void (workerId ? recordDeath(workerId) : Promise.resolve()).then(gone);
        if (!stopping) replace(performance.now() - startedAt < SHORT_LIFE ? Math.min(LONGEST_PAUSE, pause * 2) : 0);
      });
    });
    exits.add(exit);
    void exit.then(() => exits.delete(exit));
  }

  function replace(pause: number): void {
    setTimeout(() => !stopping && start(Math.max(FIRST_PAUSE, pause)), pause);
  }

  async function end(signal: NodeJS.Signals): Promise<void> {
    stopping = true;
    for (const child of Object.values(cluster.workers ?? {}) as Worker[]) child.process.kill(signal);
    await Promise.all(exits);
    await store.shutdown();
    await stopDatabase();
  }

  for (let count = 0; count < workers; count += 1) start(FIRST_PAUSE);
  return { stop: () => end('SIGTERM'), kill: () => end('SIGKILL') };
}

/** The database all workers share, the settings by which they find it, and the admin token they all take. */
async function database(config: Config): Promise<{
  url: string;
  env: Record<string, string>;
  adminToken: AdminToken | null;
  stopDatabase(): Promise<void>;
}> {
  if (config.databaseUrl !== null) {
    const adminToken = await adminTokenFor(config, parseSecrets(config.security.secrets!), async () => null);
    return { url: config.databaseUrl, env: {}, adminToken, stopDatabase: async () => {} };
  }
  const server = await startEmbeddedPostgres({ dataDir: config.dataDir });
  const secrets = config.security.secrets ?? (await loadOrCreateTokenSecrets(config.dataDir));
  const adminToken = await adminTokenFor(config, parseSecrets(secrets), () => loadOrCreateAdminToken(config.dataDir));
  return {
    url: server.url,
    adminToken,
    env: {
      DATABASE_URL: server.url,
      HOLDFAST_SECRETS: secrets,
      ...(adminToken ? { HOLDFAST_ADMIN_TOKEN: adminToken.token } : {}),
      HOLDFAST_LIVENESS_DIR: config.dataDir,
      // One port for all: nobody has to learn that one of them goes.
      HOLDFAST_LAME_DUCK_MS: '0',
    },
    stopDatabase: () => server.stop(),
  };
}
