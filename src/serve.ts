import cluster from 'node:cluster';
import { type AdminToken, type Bridge, createBridge } from './bridge.ts';
import type { ServeOptions } from './command-line.ts';
import { fail } from './commands/output.ts';
import { readConfig } from './config.ts';
import { createApp, plainUpgrades } from './http/app.ts';
import { type Listening, listen } from './http/server.ts';
import { createLogger } from './observe/log.ts';
import { createMergedMetrics } from './observe/metrics/merged.ts';
import { type SupervisorOrder, supervise, type WorkerNews } from './supervisor.ts';
import { version } from './version.ts';
import { longestShutdown } from './worker.ts';

/** Returns the operators' line of the banner. Only the banner shows a generated token; the log never does. */
function operators(url: string, adminToken: AdminToken | null): string {
  const page = `Operators: ${url}/admin/ui`;
  if (adminToken === null) return `${page}, from this machine only`;
  if (adminToken.given) return `${page}, with the admin token`;
  const kept = adminToken.file === null ? 'derived from HOLDFAST_SECRETS' : `kept in ${adminToken.file}`;
  if (adminToken.file !== null && !adminToken.fresh) return `${page}, with the admin token ${kept}`;
  return `${page}\nAdmin token (generated; ${kept}): ${adminToken.token}`;
}

const banner = (url: string, adminToken: AdminToken | null) => `
Holdfast ${version} is ready at ${url}

Codex (~/.codex/config.toml):

  model_provider = "holdfast"

  [model_providers.holdfast]
  name = "holdfast"
  base_url = "${url}/v1"
  wire_api = "responses"
  env_key = "OPENAI_API_KEY"
  supports_websockets = true

OpenAI SDKs: base URL ${url}/v1

${operators(url, adminToken)}
`;

/** Time for a stopped server to finish answers in progress, in milliseconds. */
const CLOSE_GRACE = 1_000;

/** Serves in this process, as a single worker. */
async function serveAlone(): Promise<void> {
  // Messages to a supervisor that has ended are dropped; the `disconnect` event reports its end.
  const tell = (news: WorkerNews) =>
    new Promise<void>((sent) => (process.connected ? process.send!(news, () => sent()) : sent()));
  const merged = cluster.isWorker ? createMergedMetrics(tell) : null;
  const bridge = await createBridge({
    onRegistered: (workerId) => void tell({ kind: 'registered', workerId }),
    ...(merged && { metricsPage: merged.page }),
  });
  let server: Listening;
  try {
    server = await listen(createApp(bridge.router, bridge), bridge.config.server, plainUpgrades(bridge.handleUpgrade));
  } catch (error) {
    await bridge.close();
    throw error;
  }
  bridge.guardConnections(server.server);
  const drain = async () => {
    await closeInOrder(bridge, server);
    if (merged) await tell({ kind: 'metrics', round: null, metrics: await bridge.metrics() });
  };
  inOrder = { logger: bridge.logger, drain, withinMs: longestShutdown(bridge.config.deadlines) };
  const ending = createEnding(bridge.logger, drain);
  if (!merged) {
    process.stdout.write(banner(server.url, bridge.adminToken));
    return obeySignals(ending);
  }
  obeySupervisor((order) => {
    if (order.kind === 'drain') ending.begin('the supervisor');
    else merged.take(order, bridge.metrics);
  });
  // Otherwise Node would end a worker when its supervisor ends, together with its running turns, which nothing would
  // replace.
  cluster.worker!.exitedAfterDisconnect = true;
  const orphaned = () => {
    ending.begin('the end of the supervisor');
    obeySignals(ending);
  };
  process.once('disconnect', orphaned);
  if (!process.connected) orphaned();
  await tell({ kind: 'ready', url: server.url });
}

async function closeInOrder(bridge: Bridge, server: Listening): Promise<void> {
  await bridge.close();
  await server.close(CLOSE_GRACE);
}

/** Supervises several workers from this process. */
async function serveMany(workers: number): Promise<void> {
  const config = readConfig(process.env);
  const logger = createLogger(config.logLevel);
  const supervisor = await supervise({
    config,
    logger,
    workers,
    onReady: (url, adminToken) => process.stdout.write(banner(url, adminToken)),
  });
  inOrder = { logger, drain: supervisor.stop, withinMs: longestShutdown(config.deadlines) };
  obeySignals(createEnding(logger, supervisor.stop, supervisor.kill));
}

/** Drain of this process, set once it serves; until then there is nothing to drain. */
let inOrder: { logger: Bridge['logger']; drain(): Promise<void>; withinMs: number } | null = null;

/**
 * Handles an exception that no guard caught. The state of this process may be inconsistent, so it logs the exception, lets
 * running turns end and exits with 1 to be restarted. A second exception is only logged.
 */
function installLastResort(): void {
  let leaving = false;
  const leave = (err: unknown, origin: string) => {
    const ending = inOrder;
    if (leaving) return ending?.logger.debug({ err, origin }, 'another exception while this process ends');
    leaving = true;
    if (ending === null) return fail(err instanceof Error ? err : new Error(String(err)));
    ending.logger.fatal?.(
      { err, origin },
      'an unexpected exception: this process drains and exits with 1. It is a fault of Holdfast: report it with this line',
    );
    setTimeout(() => process.exit(1), ending.withinMs);
    ending.drain().then(
      () => process.exit(1),
      () => process.exit(1),
    );
  };
  process.on('uncaughtException', (error) => leave(error, 'exception'));
  process.on('unhandledRejection', (reason) => leave(reason, 'rejection'));
}

/** Shutdown of a process that serves. */
interface Ending {
  /**
   * Drains and exits; does nothing if that has begun.
   *
   * @param asker origin of the request, for the log
   */
  begin(asker: string): void;
  /** The same, but if that has begun, it cuts off everything that still runs. */
  hurry(asker: string): void;
}

function createEnding(
  logger: Bridge['logger'],
  drain: () => Promise<void>,
  now: () => Promise<void> = async () => {},
): Ending {
  let begun = false;
  const begin = (asker: string) => {
    if (begun) return;
    begun = true;
    logger.info({ asker }, 'draining');
    drain().then(
      () => process.exit(0),
      (err) => {
        logger.error({ err }, 'the drain failed');
        process.exit(1);
      },
    );
  };
  return {
    begin,
    hurry(asker) {
      if (!begun) return begin(asker);
      logger.warn({ asker }, 'second request to stop: stopping now');
      const leave = () => process.exit(1);
      now().then(leave, leave);
    },
  };
}

const endSignals = ['SIGTERM', 'SIGINT'] as const;

/** Action on a termination signal. Until the process serves, there is nothing to drain. */
let onSignal = (signal: NodeJS.Signals): void => void process.exit(signal === 'SIGINT' ? 130 : 143);
/** Action on an order of the supervisor, in a process that has one. */
let onOrder = (order: SupervisorOrder): void => {
  if (order.kind === 'drain') process.exit(0);
};

/**
 * Makes a worker ignore signals and take orders of its supervisor instead. A terminal, and many process managers, send a
 * signal to the whole process group; the supervisor gets it too and decides alone, so that a worker never gets one request
 * twice.
 */
function obeySupervisor(take: (order: SupervisorOrder) => void): void {
  onSignal = () => {};
  onOrder = take;
}

/**
 * Window in which a repeated signal counts as the same request, in milliseconds. One request may arrive twice: from the
 * terminal, which signals the whole group, and from npm, which passes signals on. The delay of npm depends on the machine's
 * load, so under npm two signals are never a second request.
 */
const SAME_REQUEST_MS = 1_000;
const byNpm = process.env.npm_lifecycle_event !== undefined;
/** Interval at which a program started by npm checks its parent, in milliseconds. */
const PARENT_MS = 500;

/** Connects signals: the first request drains, a second one stops at once. */
function obeySignals(ending: Ending): void {
  let count = 0;
  let firstAt = 0;
  onSignal = (signal) => {
    count += 1;
    if (count === 1) {
      firstAt = performance.now();
      ending.begin(signal);
    } else if (count > (byNpm ? 2 : 1) && performance.now() - firstAt >= SAME_REQUEST_MS) ending.hurry(signal);
  };
  if (!byNpm || process.platform === 'win32') return;
  // npm signals the shell that runs its script, and most shells exit without passing the signal on.
  const { ppid } = process;
  setInterval(() => process.ppid !== ppid && ending.begin('the end of npm'), PARENT_MS).unref();
}

/** Serves as one of the worker processes of a supervisor. */
export function serveWorker(): Promise<void> {
  installLastResort();
  obeySupervisor(onOrder);
  process.on('message', (order: SupervisorOrder) => onOrder(order));
  for (const signal of endSignals) process.on(signal, (given) => onSignal(given));
  return serveAlone();
}

/**
 * Serves until it is stopped. Options override their environment variables, for worker processes too.
 *
 * @throws `ConfigError`, `DatabaseUnusable`, or the error of the listening socket
 */
export async function serve({ port, host, workers: count }: ServeOptions): Promise<void> {
  installLastResort();
  if (port !== undefined) process.env.PORT = String(port);
  if (host !== undefined) process.env.HOST = host;
  if (count !== undefined) process.env.HOLDFAST_WORKERS = String(count);
  const { workers } = readConfig(process.env);
  for (const signal of endSignals) process.on(signal, (given) => onSignal(given));
  await (workers > 1 ? serveMany(workers) : serveAlone());
}
