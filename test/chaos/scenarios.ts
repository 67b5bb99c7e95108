import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { startBalancer } from './balancer.ts';
import type { FleetWorker } from './fleet.ts';
import { runRolling } from './rolling.ts';
import { starve } from './starved.ts';
import { createTalker, emptyTally, type Tally } from './talker.ts';
import { inWorld, ownDatabase, type World } from './world.ts';

/** The faults that one scenario injected, and its results. */
export interface Report {
  name: string;
  faults: number;
  tally: Tally;
  /** Violations of the scenario's own conditions, beside wrong and lost turns; one sentence each. */
  broken: string[];
  /** Measurements; one sentence each. */
  figures: string[];
}

export interface ScenarioContext {
  seed: number;
  /** Returns the URL of a database server that lives as long as the campaign. */
  databaseUrl(): Promise<string>;
  /** `short` in the test suite, `full` on demand. */
  size: 'short' | 'full';
  /** Restarts of the scenarios that restart workers in turn; null: the default of the chosen size. */
  restarts: number | null;
  verbose: boolean;
}

export interface Scenario {
  name: string;
  /** True if the scenario is part of the short form. */
  short: boolean;
  run(context: ScenarioContext): Promise<Report>;
}

async function query<T extends object>(databaseUrl: string, text: string, values: unknown[] = []): Promise<T[]> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    await client.query('set search_path = holdfast, public');
    return (await client.query(text, values)).rows as T[];
  } finally {
    await client.end();
  }
}

/** Measures a worker's heartbeats over the next ten seconds: number of calls, and milliseconds each. */
async function heartbeatCost(url: string): Promise<string> {
  const read = async () => {
    const text = await (await fetch(`${url}/metrics`)).text();
    // A call that was never made has no line in the metrics yet.
    const value = (part: string) =>
      Number(
        new RegExp(`^holdfast_store_call_milliseconds_${part}\\{[^}]*call="heartbeat".*\\} (.+)$`, 'm').exec(
          text,
        )?.[1] ?? 0,
      );
    return { calls: value('count'), ms: value('sum') };
  };
  const before = await read();
  await pause(10_000);
  const after = await read();
  const calls = after.calls - before.calls;
  return `${calls} heartbeats in 10 s, ${((after.ms - before.ms) / calls).toFixed(1)} ms each`;
}

/** Checks what must hold in the rows after any scenario. */
export async function judgeRows(databaseUrl: string, broken: string[]): Promise<void> {
  const [heads] = await query<{ wrong: number }>(
    databaseUrl,
    `select count(*)::int as wrong from bridge_session s join any_turn t on t.id = s.head_turn_id
      where t.state not in ('completed', 'incomplete') or (t.branched and t.session_id = s.id)`,
  );
  if (heads!.wrong > 0) broken.push(`${heads!.wrong} heads are no proper turns`);
  const [forked] = await query<{ wrong: number }>(
    databaseUrl,
    `select count(*)::int as wrong
       from any_turn a join any_turn b on b.session_id = a.session_id and b.started_at > a.started_at
      where not a.branched and not b.branched and coalesce(a.ended_at, 'infinity') > b.started_at`,
  );
  if (forked!.wrong > 0) broken.push(`${forked!.wrong} times two turns of one session ran at once under the fence`);
}

/** Returns the worker whose row owns the most sessions. */
async function owner(databaseUrl: string, fleet: World['fleet']): Promise<FleetWorker> {
  const rows = await query<{ internal_url: string | null }>(
    databaseUrl,
    `select w.internal_url from bridge_session s join worker w on w.id = s.owner_worker_id and w.state <> 'dead'
      group by w.internal_url order by count(*) desc`,
  );
  const found = fleet.workers.find(
    ({ peers, running }) => running && rows.some(({ internal_url: url }) => url?.endsWith(`:${peers.port}`)),
  );
  return found ?? fleet.workers[0]!;
}

function scenario(
  name: string,
  options: {
    short?: boolean;
    workers?: number;
    conversations?: [short: number, full: number];
    webSocket?: boolean;
    env?: Record<string, string>;
  },
  act: (world: World, context: ScenarioContext & { url: string; rounds: number }, report: Report) => Promise<void>,
): Scenario {
  return {
    name,
    short: options.short ?? false,
    async run(context) {
      const url = await context.databaseUrl();
      const [few, many] = options.conversations ?? [8, 24];
      const report: Report = { name, faults: 0, tally: null as never, broken: [], figures: [] };
      const world = await inWorld(
        {
          seed: context.seed,
          databaseUrl: url,
          workers: options.workers ?? 3,
          conversations: context.size === 'short' ? few : many,
          env: options.env ?? {},
          webSocket: options.webSocket ?? false,
          verbose: context.verbose,
        },
        async (made) => {
          report.tally = made.tally;
          await act(made, { ...context, url, rounds: context.size === 'short' ? 1 : 5 }, report);
          await judgeRows(url, report.broken);
        },
      );
      report.tally = world.tally;
      return report;
    },
  };
}

/** Restarts the workers in turn under load, behind a balancer that only looks at `/ready`. No request may fail. */
async function restartInTurn(world: World, { size, restarts: asked }: ScenarioContext, report: Report): Promise<void> {
  const balancer = await startBalancer(world.fleet.workers);
  world.pick = () => balancer.url;
  try {
    let ended = false;
    const load = Promise.all(
      world.talkers.map(async (talker) => {
        while (!ended) {
          await talker.turn();
          await pause(20 * (0.5 + world.random()));
        }
      }),
    );
    const restarts = asked ?? (size === 'short' ? 3 : 20);
    for (let restart = 0; restart < restarts; restart += 1) {
      const worker = world.fleet.workers[restart % world.fleet.workers.length]!;
      const code = await worker.stop();
      if (code !== 0) report.broken.push(`worker ${worker.name} ended with ${code}`);
      await worker.start();
      // The balancer must notice it before the next worker is stopped.
      await pause(1_200);
      report.faults += 1;
    }
    ended = true;
    await load;
    const failed = world.tally.requests - world.tally.turns;
    if (failed > 0) report.broken.push(`${failed} of ${world.tally.requests} requests failed`);
  } finally {
    await balancer.close();
  }
}

/** Kills the worker with the most sessions while turns run, starts it again, and so on. */
async function killOwners(world: World, url: string, rounds: number, report: Report): Promise<void> {
  for (let round = 0; round < rounds; round += 1) {
    await world.talk(1);
    const victim = await owner(url, world.fleet);
    const running = world.talk(2);
    await pause(30 + world.random() * 60);
    await victim.kill();
    report.faults += 1;
    await running;
    await victim.start();
  }
}

export const scenarios: readonly Scenario[] = [
  scenario(
    'requests to random workers reach the owner’s warm socket',
    { short: true },
    async (world, { size }, report) => {
      const turns = size === 'short' ? 5 : 20;
      await world.talk(turns);
      const upgrades = world.simulator.journal.of('upgrade').length;
      if (upgrades > world.talkers.length) {
        report.broken.push(`${upgrades} sockets for ${world.talkers.length} conversations`);
      }
      const seen = Object.keys(world.tally.outcomes).filter((outcome) => !['created', 'live_reuse'].includes(outcome));
      if (seen.length > 0) report.broken.push(`outcomes ${seen.join(', ')}`);
    },
  ),

  scenario('owner killed while idle', { short: true }, async (world, { url, rounds }, report) => {
    for (let round = 0; round < rounds; round += 1) {
      await world.talk(2);
      const victim = await owner(url, world.fleet);
      await victim.kill();
      report.faults += 1;
      await world.talk(1);
      await victim.start();
    }
  }),

  scenario('owner killed while its turns run', { short: true }, (world, { url, rounds }, report) =>
    killOwners(world, url, rounds, report),
  ),

  scenario(
    'owner stopped beyond its lease, then continued',
    { short: true },
    async (world, { url, rounds }, report) => {
      for (let round = 0; round < rounds; round += 1) {
        await world.talk(1);
        const victim = await owner(url, world.fleet);
        const others = world.fleet.workers.filter((worker) => worker !== victim);
        const running = world.talk(2);
        await pause(20 + world.random() * 40);
        victim.pause();
        report.faults += 1;
        world.pick = () => others[Math.floor(world.random() * others.length)]!.url;
        await pause(12_500);
        await world.talk(1, world.talkers.slice(0, 0));
        victim.resume();
        await running;
        await world.talk(2);
        await victim.stop();
        await victim.start();
        world.pick = () => world.fleet.workers[Math.floor(world.random() * world.fleet.workers.length)]!.url;
      }
    },
  ),

  scenario('workers cut off from each other', { short: true }, async (world, { url, rounds }, report) => {
    for (let round = 0; round < rounds; round += 1) {
      await world.talk(1);
      const victim = await owner(url, world.fleet);
      const running = world.talk(3);
      await pause(20);
      victim.peers.set(round % 2 === 0 ? 'refuse' : 'blackhole');
      report.faults += 1;
      await running;
      await world.talk(1);
      victim.peers.set('open');
      await world.talk(1);
    }
  }),

  scenario('a worker cut off from the database', { short: false }, async (world, { url, rounds }, report) => {
    for (let round = 0; round < rounds; round += 1) {
      await world.talk(1);
      const victim = await owner(url, world.fleet);
      const running = world.talk(3);
      await pause(20);
      victim.database.set(round % 2 === 0 ? 'refuse' : 'blackhole');
      report.faults += 1;
      await pause(14_000);
      victim.database.set('open');
      await running;
      await world.talk(1);
    }
  }),

  {
    name: 'database restarted, killed, and away for a while, under load',
    short: false,
    async run({ seed, size, verbose }) {
      const database = await ownDatabase();
      const report: Report = { name: this.name, faults: 0, tally: null as never, broken: [], figures: [] };
      try {
        await inWorld(
          {
            seed,
            databaseUrl: database.server().url,
            workers: 3,
            conversations: size === 'short' ? 8 : 24,
            patienceMs: 120_000,
            verbose,
          },
          async (world) => {
            report.tally = world.tally;
            await world.talk(1);
            for (const [signal, awayMs] of [
              ['SIGINT', 0],
              ['SIGKILL', 0],
              ['SIGINT', 30_000],
            ] as const) {
              let ended = false;
              const load = Promise.all(
                world.talkers.map(async (talker) => {
                  while (!ended) await talker.turn();
                }),
              );
              await pause(300);
              process.kill(database.server().pid, signal);
              report.faults += 1;
              await pause(awayMs + 500);
              world.fleet.databaseMoved(await database.again());
              await pause(1_000);
              ended = true;
              await load;
            }
            await world.talk(2);
            await judgeRows(database.server().url, report.broken);
            const [taken] = await query<{ lost: number }>(
              database.server().url,
              `select count(*)::int as lost from turn where state = 'lost'`,
            );
            if (taken!.lost > 0) report.broken.push(`${taken!.lost} turns were taken from live owners`);
          },
        );
      } finally {
        await database.close();
      }
      return report;
    },
  },

  scenario('rolling restarts through a plain balancer', { short: true }, (world, context, report) =>
    restartInTurn(world, context, report),
  ),

  {
    name: 'rolling restarts under clients on WebSockets',
    short: true,
    async run({ seed, size, restarts, databaseUrl }) {
      const url = await databaseUrl();
      const clients = size === 'short' ? 40 : 200;
      const made = await runRolling({
        ...{ seed, clients, workers: 3, restarts: restarts ?? (size === 'short' ? 3 : 20) },
        ...{ thinkMs: 20 * clients, databaseUrl: url },
      });
      const { turns, wrong, failed, repeats, reconnects, crossed, broken } = made;
      const repeated = Object.values(repeats).reduce((sum, times) => sum + times, 0);
      await judgeRows(url, broken);
      return {
        name: this.name,
        faults: made.restarts,
        tally: { ...emptyTally(), turns, requests: turns + repeated, wrong, lost: failed },
        broken,
        figures: [
          `${clients} clients, ${reconnects} reconnects, ${crossed} requests crossed the close of an idle connection`,
        ],
      };
    },
  },

  scenario(
    'workers killed under clients on WebSockets',
    { conversations: [8, 24], webSocket: true },
    (world, { url, rounds }, report) => killOwners(world, url, rounds, report),
  ),

  scenario(
    'workers killed, and upstream sockets lost, where conversations share them',
    { conversations: [16, 48], env: { HOLDFAST_UPSTREAM_LANES: '32' } },
    async (world, { url, rounds }, report) => {
      const { simulator } = world;
      await world.talk(1);
      for (let round = 0; round < rounds; round += 1) {
        const running = world.talk(2);
        await pause(30 + world.random() * 60);
        simulator.dropAll(round % 2 === 0 ? 'reset' : 1001);
        report.faults += 1;
        await running;
      }
      // Before its first answer an upstream may not know lanes, so the first turns have sockets of their own.
      const sockets = simulator.connections.filter(({ open }) => open).length;
      report.figures.push(`${world.talkers.length} conversations on ${sockets} upstream sockets of 3 workers`);
      if (sockets >= world.talkers.length) report.broken.push(`${sockets} sockets: none is shared`);
      await killOwners(world, url, rounds, report);
    },
  ),

  scenario(
    'starved workers, restarted in turn',
    { short: true, conversations: [6, 18] },
    (world, { size, restarts }, report) => starve(world, restarts ?? (size === 'short' ? 2 : 20), report),
  ),

  scenario(
    'ten thousand sessions of one dead worker are taken over on demand',
    { workers: 2, conversations: [4, 4] },
    async (world, { url, seed }, report) => {
      const victim = world.fleet.workers[0]!;
      world.pick = () => victim.url;
      report.figures.push(`without sessions: ${await heartbeatCost(victim.url)}`);
      const many = 10_000;
      const talkers = Array.from({ length: many }, (_, index) =>
        createTalker({ seed, id: 1_000 + index, tally: world.tally, patienceMs: 60_000, pick: () => world.pick() }),
      );
      for (let from = 0; from < many; from += 50) await world.talk(1, talkers.slice(from, from + 50));
      const [before] = await query<{ owned: number }>(
        url,
        `select count(*)::int as owned from bridge_session where owner_worker_id is not null`,
      );
      report.figures.push(`with ${before!.owned} sessions: ${await heartbeatCost(victim.url)}`);
      await victim.kill();
      report.faults += 1;
      world.pick = () => world.fleet.workers[1]!.url;
      const startedAt = performance.now();
      await world.talk(1, talkers.slice(0, 100));
      const ms = Math.round(performance.now() - startedAt);
      report.figures.push(
        `after its death 100 conversations at once were answered by the other worker within ${ms} ms`,
      );
      const [after] = await query<{ taken: number }>(
        url,
        `select count(*)::int as taken from bridge_session where epoch > 1`,
      );
      if (after!.taken > 100) report.broken.push(`${after!.taken} sessions were taken over for 100 requests`);
    },
  ),
];
