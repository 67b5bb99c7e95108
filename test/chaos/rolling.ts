import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { seeded } from '../support/random.ts';
import { connectSocket } from '../support/websocket.ts';
import { startBalancer } from './balancer.ts';
import { startFleet } from './fleet.ts';
import { type ChattyClient, createSocketClient, emptySocketTally, type SocketTally } from './socket-clients.ts';
import { keepLogs } from './world.ts';

const SIMULATOR = join(import.meta.dirname, '..', '..', 'src', 'testing', 'simulator', 'main.ts');
/** Connections with which each worker is warmed up before its memory is measured. */
const WARM_UP = 50;
/** Unit of the times in `/proc/PID/stat`, in milliseconds. */
const TICK_MS = 10;

export interface RollingOptions {
  seed: number;
  clients: number;
  workers: number;
  restarts: number;
  /** Mean time of a client between two turns of its user, in milliseconds. */
  thinkMs: number;
  databaseUrl: string;
  /** Called with a line of progress. */
  log?(line: string): void;
}

export interface RollingReport extends SocketTally {
  restarts: number;
  /** Processor time of all workers while the clients worked, in milliseconds. */
  cpuMs: number;
  seconds: number;
  /** Resident memory of the workers for one idle connection of a client, in bytes. */
  idleBytes: number;
  /** Violations of the run's own conditions. */
  broken: string[];
}

/** Processor time in milliseconds and resident memory in bytes of a process; null when it is gone. */
async function usageOf(pid: number): Promise<{ cpuMs: number; resident: number } | null> {
  try {
    const [stat, status] = await Promise.all([
      readFile(`/proc/${pid}/stat`, 'utf8'),
      readFile(`/proc/${pid}/status`, 'utf8'),
    ]);
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const resident = Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024;
    return { cpuMs: (Number(fields[11]) + Number(fields[12])) * TICK_MS, resident };
  } catch {
    return null;
  }
}

/** Restarts the workers in turn under clients on WebSockets, behind a balancer that only looks at `/ready`. */
export async function runRolling(options: RollingOptions): Promise<RollingReport> {
  const { seed, clients: count, workers, restarts, thinkMs, databaseUrl, log = () => {} } = options;
  const random = seeded(seed);
  const tally = emptySocketTally();
  const broken: string[] = [];
  const simulator = spawn(
    process.execPath,
    [SIMULATOR, '--seed', String(seed), '--event-gap-ms', '15', '--exit-with-stdin'],
    { stdio: ['pipe', 'pipe', 'ignore'] },
  );
  const [upstreamUrl] = (await once(createInterface(simulator.stdout), 'line')) as [string];
  const fleet = await startFleet({ workers, databaseUrl, upstreamUrl });
  const balancer = await startBalancer(fleet.workers);
  const cpu = new Map<number, number>();
  const measure = async () => {
    const used = await Promise.all(
      fleet.workers.map(async ({ pid }) => (pid === null ? null : ([pid, await usageOf(pid)] as const))),
    );
    let resident = 0;
    for (const each of used) {
      if (!each?.[1]) continue;
      cpu.set(each[0], each[1].cpuMs);
      resident += each[1].resident;
    }
    return resident;
  };
  const cpuMs = () => [...cpu.values()].reduce((sum, ms) => sum + ms, 0);
  const talkers: ChattyClient[] = Array.from({ length: count }, (_, id) =>
    createSocketClient({ seed, id, url: balancer.url, tally }),
  );
  try {
    const warm = await Promise.all(
      fleet.workers.flatMap(({ url }) => Array.from({ length: WARM_UP }, () => connectSocket(url))),
    );
    for (const socket of warm) socket.close();
    await Promise.all(warm.map(({ closed }) => closed));
    await pause(1_000);
    const before = await measure();
    for (let from = 0; from < count; from += 50) {
      await Promise.all(talkers.slice(from, from + 50).map((talker) => talker.connect()));
    }
    await pause(1_000);
    const idleBytes = ((await measure()) - before) / count;
    const cpuBefore = cpuMs();
    log(`${count} clients are connected, ${(idleBytes / 1024).toFixed(1)} KiB each`);

    const startedAt = performance.now();
    let ended = false;
    const sampling = (async () => {
      while (!ended) {
        await measure();
        await pause(500);
      }
    })();
    const load = Promise.all(
      talkers.map(async (talker) => {
        await pause(thinkMs * random());
        while (!ended) {
          await talker.turn();
          if (!ended) await pause(thinkMs * (0.5 + random()));
        }
      }),
    );
    // Every client has had its first turn before the first restart.
    await pause(1.5 * thinkMs);
    for (let restart = 0; restart < restarts; restart += 1) {
      const worker = fleet.workers[restart % workers]!;
      const code = await worker.stop();
      if (code !== 0) broken.push(`worker ${worker.name} ended with ${code}`);
      await worker.start();
      await balancer.look();
      log(
        `restart ${restart + 1} of ${restarts}: ${tally.turns} turns, ${tally.failed.length} failed, ${tally.wrong} wrong`,
      );
    }
    await pause(thinkMs);
    ended = true;
    await Promise.all([load, sampling]);
    await measure();
    const seconds = (performance.now() - startedAt) / 1_000;
    return { ...tally, restarts, cpuMs: cpuMs() - cpuBefore, seconds, idleBytes, broken };
  } finally {
    for (const talker of talkers) talker.close();
    await balancer.close();
    await keepLogs(fleet.workers);
    await fleet.close();
    simulator.kill('SIGKILL');
  }
}

const at = (sorted: readonly number[], p: number) =>
  sorted.length === 0 ? 0 : Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * p))]!);

/** Prints a report as a table, with the causes of failures and repetitions below it. */
export function printRolling({ clients, workers, seed }: RollingOptions, report: RollingReport): void {
  const { turns, wrong, failed, repeats, reconnects, crossed, fellBack, totals, restarts, cpuMs, seconds } = report;
  const sorted = totals.toSorted((a, b) => a - b);
  console.table([
    {
      clients,
      workers,
      restarts,
      turns,
      wrong,
      failed: failed.length,
      reconnects,
      'crossed a close': crossed,
      'fell back to HTTP': fellBack,
      'turn p50 / p99 / worst ms': `${at(sorted, 0.5)} / ${at(sorted, 0.99)} / ${at(sorted, 1)}`,
      'worker CPU': `${(cpuMs / 1_000).toFixed(1)} s, ${(cpuMs / Math.max(1, turns)).toFixed(1)} ms a turn`,
      'idle client socket': `${(report.idleBytes / 1024).toFixed(1)} KiB`,
      seconds: Math.round(seconds),
      seed,
    },
  ]);
  for (const [why, times] of Object.entries(repeats).sort(([, a], [, b]) => b - a))
    console.log(`repeated ${times} times: ${why}`);
  for (const line of failed.slice(0, 20)) console.log(`failed: ${line}`);
  for (const line of report.broken) console.log(`broken: ${line}`);
}
