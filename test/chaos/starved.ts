import { type ChildProcess, spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { setTimeout as pause } from 'node:timers/promises';
import type { FleetWorker } from './fleet.ts';
import type { Report } from './scenarios.ts';
import type { World } from './world.ts';

/** Starts processes that keep every core busy. */
export function startBurners(count = availableParallelism()): { stop(): Promise<void> } {
  const burners: ChildProcess[] = Array.from({ length: count }, () =>
    // A burner exits by itself when its parent is gone.
    spawn(process.execPath, ['-e', `while (process.ppid === ${process.pid});`], { stdio: 'ignore' }),
  );
  const kill = () => {
    for (const burner of burners) burner.kill('SIGKILL');
  };
  process.once('exit', kill);
  const gone = burners.map((burner) => new Promise<void>((ended) => burner.once('exit', () => ended())));
  return {
    async stop() {
      kill();
      process.off('exit', kill);
      await Promise.all(gone);
    },
  };
}

/** Message that a worker logs when another worker claimed a session that it runs. */
const TAKEN = 'another worker has claimed a session that runs here';

/** Stops workers for a while, or lets them run only part of the time, until `over`. */
async function slowDown(world: World, workers: () => readonly FleetWorker[], over: () => boolean): Promise<number> {
  let faults = 0;
  while (!over()) {
    await pause(300 + world.random() * 1_500);
    const among = workers();
    const worker = among[Math.floor(world.random() * among.length)];
    if (!worker || over()) continue;
    faults += 1;
    if (world.random() < 0.5) {
      // Shorter than what the lease can absorb together with the heartbeat that was due.
      worker.pause();
      await pause(300 + world.random() * 2_700);
      worker.resume();
      continue;
    }
    const until = performance.now() + 1_000 + world.random() * 3_000;
    while (performance.now() < until && !over()) {
      worker.pause();
      await pause(70);
      worker.resume();
      await pause(30);
    }
  }
  return faults;
}

const at = (sorted: readonly number[], p: number) =>
  sorted.length === 0 ? '-' : `${Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * p))]!)} ms`;

/**
 * Runs rolling restarts of workers that are starved of CPU, stopped and slowed, under conversations whose turns each go
 * to a random running worker. No worker dies, so nothing may be lost: no session is taken from a live owner, no request
 * fails, no turn is generated in vain.
 */
export async function starve(world: World, restarts: number, report: Report): Promise<void> {
  const { workers } = world.fleet;
  const inSet = new Set(workers);
  world.pick = () => [...inSet][Math.floor(world.random() * inSet.size)]!.url;
  const burners = startBurners();
  let ended = false;
  try {
    const load = Promise.all(
      world.talkers.map(async (talker) => {
        while (!ended) {
          await talker.turn();
          await pause(20 + world.random() * 200);
        }
      }),
    );
    const slowed = slowDown(
      world,
      () => [...inSet],
      () => ended,
    );
    for (let restart = 0; restart < restarts; restart += 1) {
      const worker = workers[restart % workers.length]!;
      await pause(1_000);
      inSet.delete(worker);
      await pause(300);
      const code = await worker.stop();
      if (code !== 0) report.broken.push(`worker ${worker.name} ended with ${code}`);
      await worker.start();
      inSet.add(worker);
      report.faults += 1;
      world.log(
        `restart ${restart + 1} of ${restarts}: ${world.tally.turns} turns of ${world.tally.requests} requests`,
      );
    }
    ended = true;
    report.faults += await slowed;
    await load;
  } finally {
    ended = true;
    await burners.stop();
  }
  const { tally, simulator } = world;
  const robbed = workers.reduce((sum, worker) => sum + worker.logged(TAKEN), 0);
  const failed = tally.requests - tally.turns;
  if (robbed > 0) report.broken.push(`${robbed} sessions were taken from live owners`);
  if (failed > 0) {
    report.broken.push(`${failed} of ${tally.requests} requests failed: ${JSON.stringify(tally.refused)}`);
  }
  const generated = simulator.journal.of('create').length;
  if (generated > tally.turns) report.broken.push(`${generated - tally.turns} turns were generated in vain`);
  const sockets = simulator.journal.of('upgrade').length;
  const { created = 0, stale_recovery: recovered = 0 } = tally.outcomes;
  if (sockets > created + recovered) {
    report.broken.push(`${sockets} sockets for ${created} conversations and ${recovered} that changed hands`);
  }
  const total = [...tally.totals].sort((a, b) => a - b);
  report.figures.push(
    `${restarts} restarts, ${failed} failed requests, ${generated - tally.turns} turns in vain, ${robbed} sessions taken from ` +
      `live owners; ${sockets} sockets for ${created} conversations and ${recovered} that changed hands; whole turns p50 ` +
      `${at(total, 0.5)}, p99 ${at(total, 0.99)}, worst ${at(total, 1)}`,
  );
}
