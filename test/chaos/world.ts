import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/store/embedded/index.ts';
import { type Simulator, startSimulator } from '../../src/testing/index.ts';
import { seeded } from '../support/random.ts';
import { type Fleet, type FleetWorker, startFleet } from './fleet.ts';
import { createTalker, emptyTally, type Talker, type Tally } from './talker.ts';

/** Workers, database and upstream of one scenario, and the conversations that run through them. */
export interface World {
  fleet: Fleet;
  simulator: Simulator;
  tally: Tally;
  talkers: Talker[];
  /** Returns the URL of a running worker, chosen by the scenario's own rule. */
  pick: () => string;
  /** Lets every conversation take `turns` more turns, all conversations at once. */
  talk(turns: number, which?: readonly Talker[]): Promise<void>;
  /** Returns the next random number in [0, 1), from the seed of the scenario. */
  random: () => number;
  log(text: string): void;
}

export interface WorldOptions {
  seed: number;
  databaseUrl: string;
  workers: number;
  conversations: number;
  patienceMs?: number;
  env?: Record<string, string>;
  /** The conversations run on WebSockets. */
  webSocket?: boolean;
  verbose?: boolean;
}

/** Runs a scenario in its own world, and tears the world down even when it fails. */
export async function inWorld(options: WorldOptions, scenario: (world: World) => Promise<void>): Promise<World> {
  const { seed, databaseUrl } = options;
  const random = seeded(seed);
  const simulator = await startSimulator({ seed, journalBodies: false, eventGapMs: 15 });
  const fleet = await startFleet({
    workers: options.workers,
    databaseUrl,
    upstreamUrl: simulator.url,
    env: options.env ?? {},
  });
  const tally = emptyTally();
  const world: World = {
    fleet,
    simulator,
    tally,
    random,
    pick: () => anyRunning(fleet.workers, random).url,
    talkers: [],
    talk: async (turns, which = world.talkers) => {
      await Promise.all(
        which.map(async (talker) => {
          for (let turn = 0; turn < turns; turn += 1) await talker.turn();
        }),
      );
    },
    log: (text) => options.verbose && console.log(`    ${text}`),
  };
  const { patienceMs = 60_000 } = options;
  world.talkers = Array.from({ length: options.conversations }, (_, id) =>
    createTalker({ seed, id, tally, patienceMs, webSocket: options.webSocket ?? false, pick: () => world.pick() }),
  );
  try {
    await scenario(world);
  } catch (error) {
    for (const worker of fleet.workers) console.error(`--- ${worker.name}\n${worker.output().slice(-3_000)}`);
    throw error;
  } finally {
    await keepLogs(fleet.workers);
    await fleet.close();
    await simulator.close();
  }
  return world;
}

/** Writes the logs of the workers to the folder that `CHAOS_LOGS` names. */
export async function keepLogs(workers: readonly FleetWorker[]): Promise<void> {
  const dir = process.env.CHAOS_LOGS;
  if (!dir) return;
  await mkdir(dir, { recursive: true });
  for (const { name, output } of workers) await writeFile(join(dir, `${name}.log`), output());
}

export function anyRunning(workers: readonly FleetWorker[], random: () => number): FleetWorker {
  const running = workers.filter((worker) => worker.running);
  return running[Math.floor(random() * running.length)]!;
}

/** Starts a database server of the campaign, which may be killed. */
export async function ownDatabase(): Promise<{
  server: () => EmbeddedPostgres;
  dataDir: string;
  again(): Promise<string>;
  close(): Promise<void>;
}> {
  const dataDir = await mkdtemp(join(tmpdir(), 'hf-chaos-'));
  let server = await startEmbeddedPostgres({ dataDir, settings: ['max_connections=300'] });
  return {
    server: () => server,
    dataDir,
    async again() {
      // The server may be gone, but its lock belongs to this process: release it first.
      await server.stop();
      server = await startEmbeddedPostgres({ dataDir, settings: ['max_connections=300'] });
      return server.url;
    },
    async close() {
      await server.stop();
      await rm(dataDir, { recursive: true, force: true });
    },
  };
}
