import { type ChildProcess, spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { join } from 'node:path';

/** A Holdfast worker as a separate process. */
export interface WorkerProcess {
  readonly pid: number;
  /** Sends SIGKILL. Resolves when the process has exited. */
  kill(): Promise<void>;
  /** Sends SIGTERM, which drains the worker. Resolves when the process has exited. */
  stop(): Promise<void>;
}

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
  const child = spawn(process.execPath, [CLI, 'serve'], {
    // No balancer has to notice that a worker leaves.
    env: { ...process.env, HOLDFAST_LOG_LEVEL: 'warn', HOLDFAST_LAME_DUCK_MS: '0', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk));
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const ready = until(async () => (await fetch(`http://127.0.0.1:${env.PORT}/ready`)).ok);
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
