import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { judgeRows } from '../chaos/scenarios.ts';
import { createTalker } from '../chaos/talker.ts';
import { inWorld } from '../chaos/world.ts';
import { missingPrograms, startCluster } from './cluster.ts';

/**
 * `npm run test:failover -- [--failovers N] [--seed N] [--workers N] [--conversations N]`: runs load on a real cluster
 * whose primary is alternately killed and switched over. Prints a table and exits with 1 when anything was lost.
 */
const { values } = parseArgs({
  options: {
    failovers: { type: 'string', default: '20' },
    seed: { type: 'string' },
    workers: { type: 'string', default: '3' },
    conversations: { type: 'string', default: '12' },
  },
});

if (missingPrograms.length > 0) {
  console.log(
    `not run: ${missingPrograms.join(', ')} missing; apt-get install patroni etcd-server haproxy postgresql-15`,
  );
  process.exit(2);
}

const [failovers, workers, conversations] = [values.failovers, values.workers, values.conversations].map(Number) as [
  number,
  number,
  number,
];
const seed = Number(values.seed ?? Math.floor(Math.random() * 1e9));

/** Maximum time to retry one turn, in milliseconds: an outage after a crash lasts about the `ttl` of the cluster. */
const PATIENCE_MS = 300_000;
/** Duration of load before the first failover and between two, in milliseconds. */
const BETWEEN_MS = 3_000;

const log = (text: string) => console.log(`${new Date().toISOString()} ${text}`);
log(`seed ${seed}: ${failovers} failovers, ${workers} workers, ${conversations} conversations`);

const cluster = await startCluster(log);
/** Ids of responses that clients received as completed. */
const acknowledged: string[] = [];
const broken: string[] = [];
const outages: { kind: string; ms: number }[] = [];

async function query<Row extends object>(text: string, parameters: unknown[] = []): Promise<Row[]> {
  const client = new pg.Client({ connectionString: cluster.url });
  await client.connect();
  try {
    await client.query('set search_path = holdfast');
    return (await client.query(text, parameters)).rows as Row[];
  } finally {
    await client.end();
  }
}

try {
  const world = await inWorld(
    // A request that arrives during the outage waits for longer than an outage lasts.
    { seed, databaseUrl: cluster.url, workers, conversations: 0 },
    async (made) => {
      const talkers = Array.from({ length: conversations }, (_, id) =>
        createTalker({
          seed,
          id,
          tally: made.tally,
          patienceMs: PATIENCE_MS,
          pick: () => made.pick(),
          onCompleted: (responseId) => acknowledged.push(responseId),
        }),
      );
      let ended = false;
      const load = Promise.all(
        talkers.map(async (talker) => {
          while (!ended) {
            await talker.turn();
            await pause(50);
          }
        }),
      );
      try {
        for (let count = 0; count < failovers; count += 1) {
          await pause(BETWEEN_MS);
          await cluster.whole();
          const kind = count % 2 === 0 ? 'crash' : 'switchover';
          const before = made.tally.turns;
          const startedAt = performance.now();
          await cluster[kind]();
          const from = made.tally.turns;
          while (made.tally.turns < from + conversations) await pause(50);
          outages.push({ kind, ms: performance.now() - startedAt });
          log(
            `${kind} ${count + 1}: ${await cluster.leader()} leads, ${from - before} turns meanwhile, ` +
              `every conversation goes on after ${Math.round(outages.at(-1)!.ms)} ms`,
          );
        }
      } finally {
        ended = true;
        await load;
      }
      // A session that cannot take another turn would be permanently stuck.
      await made.talk(2, talkers);
      await cluster.whole();
      const known = await query<{ id: string }>(
        `select response_id as id from turn where response_id = any($1) and state in ('completed', 'incomplete')`,
        [acknowledged],
      );
      const kept = new Set(known.map(({ id }) => id));
      const missing = acknowledged.filter((id) => !kept.has(id));
      if (missing.length > 0) broken.push(`${missing.length} acknowledged turns are not recorded`);
      await judgeRows(cluster.url, broken);
      const [open] = await query<{ busy: number; lost: number }>(
        `select (select count(*)::int from bridge_session where active_turn_id is not null) as busy,
                (select count(*)::int from turn where state = 'lost') as lost`,
      );
      if (open!.busy > 0) broken.push(`${open!.busy} sessions are still busy`);
      log(`${open!.lost} turns were recorded as lost`);
    },
  );
  const { tally } = world;
  if (tally.wrong > 0) broken.push(`${tally.wrong} wrong continuations`);
  if (tally.badTerminals > 0) broken.push(`${tally.badTerminals} bad terminals`);
  broken.push(...tally.lost.map((line) => `wedged: ${line}`));
  const longest = (kind: string) =>
    Math.round(Math.max(0, ...outages.filter((each) => each.kind === kind).map(({ ms }) => ms)));
  console.table([
    {
      failovers: outages.length,
      turns: tally.turns,
      requests: tally.requests,
      'wrong continuations': tally.wrong,
      'bad terminals': tally.badTerminals,
      wedges: tally.lost.length,
      'acknowledged, not recorded': broken.some((line) => line.includes('not recorded')) ? 'yes' : 0,
      'longest ms, crash': longest('crash'),
      'longest ms, switchover': longest('switchover'),
      verdict: broken.length === 0 ? 'held' : 'BROKEN',
    },
  ]);
  console.log(tally.outcomes, tally.refused);
  for (const line of broken) console.log(line);
} finally {
  await cluster.close();
}
process.exit(broken.length === 0 ? 0 : 1);
