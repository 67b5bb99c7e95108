import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { startEmbeddedPostgres } from '../src/store/embedded/index.ts';
import { fillDatabase } from '../test/support/data-set.ts';
import { percentile, thisMachine } from './machine.ts';
import { closeClient, shortConversations, shortScript } from './peers/load.ts';
import { type Around, holdfast, type Peer, startUpstream } from './peers/proxies.ts';
import { pinned, processorTime } from './peers/system.ts';

/**
 * Measures what one turn costs at saturation, as functions of the number of workers and of the rows in the database: processor
 * time of the workers, of PostgreSQL, and of the client with the upstream; bytes of the log, and flushes. From the costs follows
 * how many turns a second fit on a processor, which is printed beside the turns that were made.
 */
const { values: options } = parseArgs({
  options: {
    workers: { type: 'string', default: '1,2,4' },
    /** Sessions in the database, with ten turns each. */
    sessions: { type: 'string', default: '1000,10000,100000' },
    turns: { type: 'string', default: '3000' },
    warm: { type: 'string', default: '4000' },
    rounds: { type: 'string', default: '3' },
  },
});
const numbers = (text: string) => text.split(',').filter(Boolean).map(Number);
const TURNS = Number(options.turns);
const WARM_TURNS = Number(options.warm);
const ROUNDS = Number(options.rounds);
const STREAMS = 32;
/** Milliseconds after which every process of PostgreSQL has published its counters. */
const PUBLISHED_MS = 2_500;

// Most rows of the data set are old: the janitor would remove them while the turns run.
process.env.HOLDFAST_RETENTION_HOURS = '100000';

interface Counters {
  bytes: number;
  flushes: number;
}

const home = await mkdtemp(join(tmpdir(), 'hf-capacity-'));
const postgres = await startEmbeddedPostgres({
  dataDir: join(home, 'database'),
  settings: ['max_connections=300', 'max_wal_size=8GB', 'checkpoint_timeout=1h'],
});
const upstream = await startUpstream();
const around: Around = { upstream: upstream.port, postgres: postgres.url, home };

async function withDatabase<T>(name: string, use: (client: pg.Client) => Promise<T>): Promise<T> {
  const url = new URL(postgres.url);
  url.pathname = `/${name}`;
  const client = new pg.Client({ connectionString: url.href });
  await client.connect();
  try {
    return await use(client);
  } finally {
    await client.end();
  }
}

async function counters(): Promise<Counters> {
  await pause(PUBLISHED_MS);
  return withDatabase('postgres', async (client) => {
    const { rows } = await client.query<Record<keyof Counters, string>>(
      `select (select wal_bytes from pg_stat_wal)::text as bytes,
              (select coalesce(sum(fsyncs), 0) from pg_stat_io where object = 'wal')::text as flushes`,
    );
    return { bytes: Number(rows[0]!.bytes), flushes: Number(rows[0]!.flushes) };
  });
}

/** Runs turns through a peer, in as many conversations as there are streams. */
async function run(peer: Peer, turns: number): Promise<void> {
  const turn = shortConversations(peer, STREAMS);
  let left = turns;
  const streams = Array.from({ length: STREAMS }, async (_, stream) => {
    while (left > 0) {
      left -= 1;
      await turn(stream);
    }
  });
  await Promise.all(streams);
}

async function measure(workers: number, sessions: number) {
  const name = `workers ${workers} sessions ${sessions}`;
  const peer = await holdfast(around, name, workers).start();
  try {
    if (sessions > 0) {
      await withDatabase(`bench_${name.replaceAll(' ', '_')}`, async (client) => {
        const { rows } = await client.query<{ schema: string }>(
          "select schemaname as schema from pg_tables where tablename = 'bridge_session'",
        );
        await client.query(`set search_path = ${rows[0]!.schema}`);
        await fillDatabase(client, { sessions, turnsPerSession: 10, longEvery: 0, longTurns: 0 });
        // Otherwise the server would do it while the turns run.
        await client.query('vacuum analyze');
        await client.query('checkpoint');
      });
    }
    await run(peer, WARM_TURNS);
    const rounds: Record<'perSecond' | 'workers' | 'postgres' | 'around' | 'bytes' | 'flushes', number>[] = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      const before = await counters();
      const spent = processorTime(peer.pid);
      const other = processorTime(upstream.pid);
      const own = process.cpuUsage();
      const startedAt = performance.now();
      await run(peer, TURNS);
      const seconds = (performance.now() - startedAt) / 1_000;
      const { user, system } = process.cpuUsage(own);
      const { own: ofWorkers, postgres: ofPostgres } = spent();
      const outside = (user + system) / 1_000 + other().own;
      const after = await counters();
      rounds.push({
        perSecond: TURNS / seconds,
        workers: ofWorkers / TURNS,
        postgres: ofPostgres / TURNS,
        around: outside / TURNS,
        bytes: (after.bytes - before.bytes) / TURNS,
        flushes: (after.flushes - before.flushes) / TURNS,
      });
    }
    const of = (key: keyof (typeof rounds)[number]) =>
      percentile(
        rounds.map((each) => each[key]),
        0.5,
      );
    const [perSecond, worker, postgres] = [of('perSecond'), of('workers'), of('postgres')];
    return {
      workers,
      sessions,
      perSecond,
      worker,
      postgres,
      around: of('around'),
      bytes: of('bytes'),
      flushes: of('flushes'),
    };
  } finally {
    await peer.stop();
  }
}

type Measured = Awaited<ReturnType<typeof measure>>;

/** Prints the costs, and the turns a second that they leave room for on the fuller one of the two processors. */
function print(measured: readonly Measured[]): void {
  console.table(
    measured.map(({ workers, sessions, perSecond, worker, postgres, around, bytes, flushes }) => ({
      workers,
      'sessions stored': sessions,
      'turns/s': Math.round(perSecond),
      'workers, CPU ms a turn': worker.toFixed(2),
      'PostgreSQL, CPU ms a turn': postgres.toFixed(2),
      'client and upstream, CPU ms a turn': around.toFixed(2),
      'log bytes a turn': Math.round(bytes),
      'flushes a turn': flushes.toFixed(2),
      ...(pinned
        ? {
            'turns/s of the processor of the workers': Math.round(1_000 / worker),
            'turns/s of the other processor': Math.round(1_000 / (postgres + around)),
          }
        : {}),
    })),
  );
}

try {
  await fetch(`http://127.0.0.1:${upstream.port}/__script`, { method: 'POST', body: JSON.stringify(shortScript) });
  console.log(`${thisMachine()}; short turns, ${STREAMS} at once; medians of ${ROUNDS} rounds of ${TURNS} turns`);
  const measured: Measured[] = [];
  for (const workers of numbers(options.workers)) measured.push(await measure(workers, 0));
  if (measured.length > 0) print(measured);
  const [one, ...more] = measured;
  if (one?.workers === 1 && more.length > 0) {
    // A turn that arrives at another worker than its owner is forwarded once: with n workers, (n - 1) of n turns.
    for (const { workers, worker } of more) {
      const hop = ((worker - one.worker) * workers) / (workers - 1);
      console.log(
        `${workers} workers: a forwarded turn costs ${hop.toFixed(2)} ms more than one that its owner receives`,
      );
    }
  }
  const sizes: Measured[] = [];
  for (const sessions of numbers(options.sessions)) sizes.push(await measure(1, sessions));
  if (sizes.length > 0) print(sizes);
} finally {
  await closeClient();
  await upstream.stop();
  await postgres.stop();
  await rm(home, { recursive: true, force: true });
}
