import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { freePort } from '../support/worker-process.ts';
import { openPath, type Path } from './proxy.ts';

const CLI = join(import.meta.dirname, '..', '..', 'src', 'cli.ts');

/** One worker process. The test controls the network paths to it and from it. */
export interface FleetWorker {
  readonly name: string;
  readonly url: string;
  readonly running: boolean;
  /** Process id; null while it does not run. */
  readonly pid: number | null;
  /** The worker's path to the database, which can be pointed elsewhere. */
  readonly database: Path;
  readonly databaseTarget: { host: string; port: number };
  /** The path by which other workers reach this one. */
  readonly peers: Path;
  start(): Promise<void>;
  /** Sends SIGKILL. */
  kill(): Promise<void>;
  /** Sends SIGSTOP: the worker keeps its sockets and answers nothing. */
  pause(): void;
  resume(): void;
  /** Sends SIGTERM; resolves when the process has exited. */
  stop(): Promise<number | null>;
  ready(): Promise<boolean>;
  output(): string;
  /** Returns the number of times the worker has logged this message. */
  logged(text: string): number;
}

export interface Fleet {
  readonly workers: readonly FleetWorker[];
  /** Points the worker's path at a database that came back on another port. */
  databaseMoved(url: string): void;
  close(): Promise<void>;
}

export interface FleetOptions {
  workers: number;
  databaseUrl: string;
  upstreamUrl: string;
  env?: Record<string, string>;
}

/** Starts workers that share a database, each behind its own paths, and waits until all are ready. */
export async function startFleet(options: FleetOptions): Promise<Fleet> {
  const workers = await Promise.all(
    Array.from({ length: options.workers }, (_, index) => prepare(String.fromCharCode(65 + index), options)),
  );
  await Promise.all(workers.map((worker) => worker.start()));
  return {
    workers,
    databaseMoved(url) {
      for (const { databaseTarget } of workers) databaseTarget.port = Number(new URL(url).port);
    },
    async close() {
      await Promise.all(workers.map((worker) => worker.kill()));
      await Promise.all(workers.flatMap(({ database, peers }) => [database.close(), peers.close()]));
    },
  };
}

async function prepare(name: string, { databaseUrl, upstreamUrl, env }: FleetOptions): Promise<FleetWorker> {
  const real = new URL(databaseUrl);
  const [port, internalPort] = [await freePort(), await freePort()];
  const databaseTarget = { host: real.hostname, port: Number(real.port) };
  const database = await openPath(databaseTarget);
  const peers = await openPath({ host: '127.0.0.1', port: internalPort });
  const throughPath = new URL(databaseUrl);
  throughPath.hostname = '127.0.0.1';
  throughPath.port = String(database.port);
  const url = `http://127.0.0.1:${port}`;
  let child: ChildProcess | null = null;
  let gone: Promise<number | null> = Promise.resolve(null);
  let output = '';
  const notable = new Map<string, number>();
  /** Counts the messages of a worker's log; the whole output is not kept. */
  const note = (line: string) => {
    const message = /"msg":"([^"]*)"/.exec(line)?.[1];
    if (message) notable.set(message, (notable.get(message) ?? 0) + 1);
  };

  const ready = async () => {
    try {
      return (await fetch(`${url}/ready`, { signal: AbortSignal.timeout(1_000) })).ok;
    } catch {
      return false;
    }
  };
  const end = async (signal: NodeJS.Signals) => {
    child?.kill('SIGCONT');
    child?.kill(signal);
    return gone;
  };

  return {
    name,
    url,
    database,
    databaseTarget,
    peers,
    get running() {
      return child !== null;
    },
    get pid() {
      return child?.pid ?? null;
    },
    async start() {
      const mine = spawn(process.execPath, [CLI, 'serve'], {
        env: {
          ...process.env,
          HOLDFAST_LOG_LEVEL: process.env.CHAOS_LOGS ? 'debug' : 'info',
          HOLDFAST_SECRETS: 'chaos:0123456789abcdef0123456789abcdef',
          HOLDFAST_UPSTREAM_URL: upstreamUrl,
          HOLDFAST_LAME_DUCK_MS: '1500',
          ...env,
          DATABASE_URL: throughPath.href,
          PORT: String(port),
          HOLDFAST_INTERNAL_PORT: String(internalPort),
          HOLDFAST_ADVERTISE_URL: `http://127.0.0.1:${peers.port}`,
        },
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      child = mine;
      createInterface({ input: mine.stdout }).on('line', note);
      for (const stream of [mine.stdout, mine.stderr]) {
        stream.on('data', (chunk) => {
          output = (output + chunk).slice(process.env.CHAOS_LOGS ? 0 : -200_000);
        });
      }
      gone = new Promise((resolve) => {
        mine.once('exit', (code) => {
          if (child === mine) child = null;
          resolve(code);
        });
      });
      while (!(await ready())) {
        if (child !== mine) throw new Error(`worker ${name} ended before it was ready:\n${output.slice(-4_000)}`);
        await new Promise((look) => setTimeout(look, 25));
      }
    },
    kill: async () => void (await end('SIGKILL')),
    pause: () => void child?.kill('SIGSTOP'),
    resume: () => void child?.kill('SIGCONT'),
    stop: () => end('SIGTERM'),
    ready,
    output: () => output,
    logged: (text) => notable.get(text) ?? 0,
  };
}
