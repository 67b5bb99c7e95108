import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

/** A Holdfast worker as a separate process. */
export interface WorkerProcess {
  readonly pid: number;
  /** Sends SIGKILL. Resolves when the process has exited. */
  kill(): Promise<void>;
  /** Sends SIGTERM, which drains the worker. Resolves when the process has exited. */
  stop(): Promise<void>;
}

/** Memory of a worker right after a full garbage collection, in bytes. */
export interface WorkerMemory {
  rss: number;
  /** Resident memory before the collection. */
  residentBefore: number;
  heapUsed: number;
  external: number;
}

/** A worker that reports its memory. */
export interface MeasuredWorker extends WorkerProcess {
  memory(): Promise<WorkerMemory>;
}

/** Module to preload into a worker, so that it reports its memory when its parent sends `memory`. */
export const PROBE = pathToFileURL(join(import.meta.dirname, 'probe.js')).href;

const CLI = join(import.meta.dirname, '..', '..', 'src', 'cli.ts');

/** Below the ephemeral port range, so that no outgoing connection takes the port in between. */
const FIRST_PORT = 15_000;
const LAST_PORT = 30_000;

/** Returns a port that was free at the time of the check. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = FIRST_PORT + Math.floor(Math.random() * (LAST_PORT - FIRST_PORT));
    const free = await new Promise<boolean>((resolve) => {
      const server = createServer();
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
    });
    if (free) return port;
  }
}

/** Starts a worker; resolves when it answers `/ready`, and rejects with its output when it exits before that. */
export async function startWorker(env: Record<string, string>): Promise<WorkerProcess> {
  return started(spawnWorker(env, [CLI], ['ignore', 'pipe', 'pipe']), env.PORT!);
}

/**
 * Starts a worker like `startWorker`, with a probe in it.
 *
 * @param cli path of the command line; default: that of the sources
 */
export async function startMeasuredWorker(env: Record<string, string>, cli = CLI): Promise<MeasuredWorker> {
  const child = spawnWorker(env, ['--expose-gc', '--import', PROBE, cli], ['ignore', 'pipe', 'pipe', 'ipc']);
  const worker = await started(child, env.PORT!);
  const memory = () =>
    new Promise<WorkerMemory>((resolve, reject) => {
      const answered = (message: unknown) => {
        if (typeof message !== 'object' || message === null || !('heapUsed' in message)) return;
        child.off('message', answered);
        resolve(message as WorkerMemory);
      };
      child.on('message', answered);
      child.once('exit', () => reject(new Error('the worker has ended')));
      child.send('memory');
    });
  return { ...worker, memory };
}

function spawnWorker(env: Record<string, string>, args: readonly string[], stdio: StdioOptions): ChildProcess {
  return spawn(process.execPath, [...args, 'serve'], {
    // No balancer has to notice that a worker leaves.
    env: { ...process.env, HOLDFAST_LOG_LEVEL: 'warn', HOLDFAST_LAME_DUCK_MS: '0', ...env },
    stdio,
  });
}

async function started(child: ChildProcess, port: string): Promise<WorkerProcess> {
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk) => (output += chunk));
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const ready = until(async () => (await fetch(`http://127.0.0.1:${port}/ready`)).ok);
  await Promise.race([
    ready,
    gone.then(() => {
      throw new Error(`the worker ended before it was ready:\n${output}`);
    }),
  ]);
  const end = (signal: NodeJS.Signals) => async () => {
    child.kill(signal);
    await gone;
  };
  return { pid: pidOf(child), kill: end('SIGKILL'), stop: end('SIGTERM') };
}

const pidOf = (child: ChildProcess) => child.pid ?? -1;

async function until(check: () => Promise<boolean>): Promise<void> {
  for (;;) {
    if (await check().catch(() => false)) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
