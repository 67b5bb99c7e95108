import cluster, { type Worker } from 'node:cluster';
import { join } from 'node:path';
import { type AdminToken, adminTokenFor } from './bridge.ts';
import { systemClock } from './clock.ts';
import type { Config } from './config.ts';
import { guarded, onFault, reportFault } from './faults.ts';
import type { Logger } from './observe/log.ts';
import { createMetricsMerger, type MetricsNews, type MetricsOrder } from './observe/metrics/merged.ts';
import { openConfigured } from './storage.ts';
import { loadOrCreateAdminToken, loadOrCreateTokenSecrets, startEmbeddedPostgres } from './store/embedded/index.ts';
import { parseSecrets } from './token/keyring.ts';

/** What a worker process tells its supervisor. */
export type WorkerNews = { kind: 'registered'; workerId: string } | { kind: 'ready'; url: string } | MetricsNews;

/** What a supervisor tells a worker process. Signals say nothing there: see `obeySupervisor` in `cli.ts`. */
export type SupervisorOrder = { kind: 'drain' } | MetricsOrder;

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
/** What a drain may take beyond its deadlines before the worker is killed, milliseconds. */
const HANGING_GRACE = 10_000;

/**
 * Runs several workers behind one port, one process each, and owns their embedded database. A reaped child is certainly
 * dead: its death is stored at once, so that its busy sessions need not wait for a lease.
 */
export async function supervise({ config, logger, workers, onReady }: SupervisorOptions): Promise<Supervisor> {
  const { env, url, adminToken, stopDatabase } = await database(config, logger);
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
  const serving = new Set<number>();
  const metrics = createMetricsMerger(systemClock.after);
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

  /** A worker that is gone, or is going, gets no orders: its exit is an event of its own. */
  function order(child: Worker, what: SupervisorOrder): void {
    if (child.isConnected()) child.send(what, () => {});
  }

  const children = () => Object.values(cluster.workers ?? {}) as Worker[];
  /** Those that serve: one that is being started would be waited for in vain. */
  const askers = () =>
    new Map(
      children()
        .filter((child) => serving.has(child.id))
        .map((child) => [child.id, (what: MetricsOrder) => order(child, what)] as const),
    );

  function start(pause: number): void {
    const child = cluster.fork(env);
    const startedAt = performance.now();
    child.on(
      'message',
      guarded('supervisor', (news: WorkerNews) => {
        switch (news.kind) {
          case 'registered':
            return void identities.set(child.id, news.workerId);
          case 'metrics':
            return metrics.measured(child.id, news);
          case 'scrape':
            return void metrics.page(askers()).then((page) => {
              order(child, { kind: 'scraped', scrape: news.scrape, page });
            });
          case 'ready':
            serving.add(child.id);
            if (announced) return;
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
        serving.delete(child.id);
        metrics.ended(child.id);
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

  async function end(how: 'drain' | 'kill'): Promise<void> {
    stopping = true;
    const kill = () => {
      for (const child of children()) child.process.kill('SIGKILL');
    };
    if (how === 'kill') kill();
    else for (const child of children()) order(child, { kind: 'drain' });
    // A worker that hangs does not keep the others, or the database, from ending.
    const { lameDuck, drain } = config.deadlines;
    const cancelKill = systemClock.after(lameDuck + drain + HANGING_GRACE, kill);
    await Promise.all(exits);
    cancelKill();
    await store.shutdown();
    await stopDatabase();
  }

  for (let count = 0; count < workers; count += 1) start(FIRST_PAUSE);
  return { stop: () => end('drain'), kill: () => end('kill') };
}

/** The database all workers share, the settings by which they find it, and the admin token they all take. */
async function database(
  config: Config,
  logger: Logger,
): Promise<{
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
  for (const notice of server.notices) logger.warn({ dataDir: config.dataDir }, notice);
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
