import cluster, { type Worker } from 'node:cluster';
import { join } from 'node:path';
import { type AdminToken, adminTokenFor } from './bridge.ts';
import { type Config, FILE_SUFFIX } from './config.ts';
import type { Logger } from './observe/log.ts';
import { createMetricsMerger, type MetricsNews, type MetricsOrder } from './observe/metrics/merged.ts';
import { openConfigured } from './storage.ts';
import { loadOrCreateAdminToken, loadOrCreateTokenSecrets, startEmbeddedPostgres } from './store/embedded/index.ts';
import { guarded, onFault, reportFault, systemClock } from './system.ts';
import { parseSecrets } from './token/keyring.ts';
import { longestShutdown } from './worker.ts';

/** Messages of a worker process to its supervisor. */
export type WorkerNews = { kind: 'registered'; workerId: string } | { kind: 'ready'; url: string } | MetricsNews;

/** Orders of a supervisor to a worker process. Workers ignore signals: see `obeySupervisor` in `serve.ts`. */
export type SupervisorOrder = { kind: 'drain' } | MetricsOrder;

export interface SupervisorOptions {
  config: Config;
  logger: Logger;
  workers: number;
  /** Called once, when the first worker serves. */
  onReady(url: string, adminToken: AdminToken | null): void;
}

export interface Supervisor {
  /** Drains all workers and stops the embedded database, if there is one. Resolves when all processes have ended. */
  stop(): Promise<void>;
  /** Ends the workers without draining; their running turns are recorded as lost. */
  kill(): Promise<void>;
}

/** Lifetime in milliseconds below which a worker is replaced after a growing pause. */
const SHORT_LIFE = 10_000;
const FIRST_PAUSE = 250;
const LONGEST_PAUSE = 10_000;

/**
 * Runs several workers behind one port, one process each, and owns their embedded database. A reaped child process is
 * certainly dead: its death is stored at once, so that its busy sessions do not wait for the lease to expire.
 *
 * @throws `DatabaseUnusable`, or the error of the embedded database's start
 */
export async function supervise({ config, logger, workers, onReady }: SupervisorOptions): Promise<Supervisor> {
  const { env, url, adminToken, stopDatabase } = await database(config);
  // A worker gets a value or the name of a file, never both.
  for (const name of Object.keys(env)) if (`${name}${FILE_SUFFIX}` in process.env) env[name + FILE_SUFFIX] = '';
  onFault((err, source, suppressed) => {
    logger.error({ err, source, suppressed }, 'an exception was contained at its source: report it');
  });
  const store = await openConfigured(config, url, logger, 1).catch(async (error) => {
    await stopDatabase();
    throw error;
  });
  // Workers accept connections themselves. With distribution by the primary, a connection handed to a worker that just dies
  // stays open and is never answered.
  cluster.schedulingPolicy = cluster.SCHED_NONE;
  cluster.setupPrimary({ exec: join(import.meta.dirname, `cli.${import.meta.filename.split('.').at(-1)}`), args: [] });
  const identities = new Map<number, string>();
  const serving = new Set<number>();
  const metrics = createMetricsMerger(systemClock.after);
  const exits = new Set<Promise<void>>();
  let stopping = false;
  let announced = false;

  /** Stores a worker's death, retrying until the store answers: only a stored death releases the worker's running turns. */
  async function recordDeath(workerId: string): Promise<void> {
    for (let attempt = 0; attempt < 20; attempt += 1) {
      if ((await store.declareDead(workerId)).verdict === 'dead') return;
      await new Promise((again) => setTimeout(again, 250));
    }
    logger.error({ worker: workerId }, 'the death of a worker could not be recorded; its lease must expire first');
  }

  /** Sends an order. A worker that has ended, or is ending, gets none; its exit is a separate event. */
  function order(child: Worker, what: SupervisorOrder): void {
    if (child.isConnected()) child.send(what, () => {});
  }

  const children = () => Object.values(cluster.workers ?? {}) as Worker[];
  /** Returns the workers that serve. One that is starting would not answer in time. */
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
    // A message could not be delivered; the end of the process is a separate event.
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
    // A hanging worker must not keep the others, or the database, from ending.
    const cancelKill = systemClock.after(longestShutdown(config.deadlines), kill);
    await Promise.all(exits);
    cancelKill();
    await store.shutdown();
    await stopDatabase();
  }

  for (let count = 0; count < workers; count += 1) start(FIRST_PAUSE);
  return { stop: () => end('drain'), kill: () => end('kill') };
}

/** Returns the database shared by all workers, the settings with which they find it, and their common admin token. */
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
      // All workers share one port, so clients and balancers need no notice when one leaves.
      HOLDFAST_LAME_DUCK_MS: '0',
    },
    stopDatabase: () => server.stop(),
  };
}
