import { isDeepStrictEqual } from 'node:util';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { SessionStore } from '../../src/store/port.ts';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { systemClock } from '../../src/system.ts';
import { createMemoryDatabase, createMemoryStore, type MemoryDatabase } from '../../src/testing/memory-store/index.ts';
import { freshDatabase } from '../support/database.ts';
import { createRandom } from '../support/random.ts';
import { LEASE_MS, sweepAll } from './calls.ts';
import { type Command, commandOf, type Universe, universeOf } from './differential/commands.ts';
import { dump, orders, perform } from './differential/compare.ts';

const SEED = Number(process.env.DIFFERENTIAL_SEED ?? Math.floor(Math.random() * 2 ** 31));
const RUNS = Number(process.env.DIFFERENTIAL_RUNS ?? 25);
const COMMANDS = 30;
const BATCHES = 12;

let database: Awaited<ReturnType<typeof freshDatabase>>;
let real: SessionStore;
let admin: pg.Client;
beforeAll(async () => {
  database = await freshDatabase();
  // A long deadline, because a busy machine must not turn a verdict into a timeout.
  real = await openPostgresStore({ url: database.url, poolSize: 6, statementTimeoutMs: 20_000 });
  admin = new pg.Client({ connectionString: database.url });
  await admin.connect();
});
afterAll(async () => {
  await admin?.end();
  await real?.shutdown();
  await database?.drop();
});

const storeOf = (rows: MemoryDatabase) => createMemoryStore({ clock: systemClock, database: rows });
const told = (commands: readonly Command[]) =>
  commands.map(({ name, args }) => `${name} ${JSON.stringify(args).replace(/x{9,}/, 'x…')}`).join('\n');

/** Applies an event that the port cannot cause: a failover loses a worker's row, or time passes. */
async function happens(
  what: 'failover' | 'age',
  universe: Universe,
  rows: MemoryDatabase,
  workerId: string,
): Promise<void> {
  if (what === 'failover') {
    rows.workers.delete(workerId);
    await admin.query('delete from worker where id = $1', [workerId]);
    return;
  }
  const ms = 30 * 3_600_000;
  for (const session of rows.sessions.values()) session.updatedAt -= ms;
  for (const turn of rows.turns.values()) if (turn.endedAt !== null) turn.endedAt -= ms;
  for (const worker of rows.workers.values()) worker.heartbeatExpiresAt -= ms;
  const older = "interval '30 hours'";
  const own = [universe.sessions];
  await admin.query(`update bridge_session set updated_at = updated_at - ${older} where id = any($1)`, own);
  await admin.query(`update turn set ended_at = ended_at - ${older} where session_id = any($1)`, own);
  await admin.query(`update worker set heartbeat_expires_at = heartbeat_expires_at - ${older} where id = any($1)`, [
    universe.workers,
  ]);
}

/** Registers every worker. */
async function begin(universe: Universe, rows: MemoryDatabase): Promise<void> {
  for (const id of universe.workers) {
    const row = { id, internalUrl: 'http://a', livenessPath: null, version: 'v', leaseMs: LEASE_MS };
    for (const store of [storeOf(rows), real]) await perform(store, { name: 'register', args: [row] });
  }
}

test(`Both stores answer and store the same when calls are made one after the other (seed ${SEED}, ${RUNS} runs)`, async () => {
  for (let run = 0; run < RUNS; run += 1) {
    const random = createRandom(SEED, `serial ${run}`);
    const universe = universeOf(`${SEED}-${run}`);
    const rows = createMemoryDatabase('0'.repeat(64));
    const memory = storeOf(rows);
    if (random.chance(0.8)) await begin(universe, rows);
    const made: Command[] = [];
    for (let nth = 0; nth < COMMANDS; nth += 1) {
      if (random.chance(0.03)) await happens('failover', universe, rows, random.pick(universe.workers));
      const command = random.chance(0.02) && nth > COMMANDS / 2 ? null : commandOf(random, universe, rows);
      if (command === null) {
        await happens('age', universe, rows, '');
        for (const store of [memory, real]) await sweepAll(store, 1_000);
        made.push({ name: 'purge', args: [{ kind: 'sessions', olderThanHours: 24, limit: 1_000, after: null }] });
      } else made.push(command);
      const [expected, answer] = [await perform(memory, made.at(-1)!), await perform(real, made.at(-1)!)];
      expect(answer, `run ${run}:\n${told(made)}`).toEqual(expected);
    }
    const [expected, kept] = [await dump(memory, universe, true), await dump(real, universe, true)];
    expect(kept, `rows of run ${run}:\n${told(made)}`).toEqual(expected);
  }
}, 3_600_000);

test(`Concurrent calls are answered as in some serial order of them (seed ${SEED}, ${RUNS} runs)`, async () => {
  let reordered = 0;
  for (let run = 0; run < RUNS; run += 1) {
    const random = createRandom(SEED, `at once ${run}`);
    const universe = universeOf(`${SEED}-c${run}`);
    let rows = createMemoryDatabase('0'.repeat(64));
    await begin(universe, rows);
    for (let nth = 0; nth < BATCHES; nth += 1) {
      const batch = Array.from({ length: random.integer(1, 4) }, () => commandOf(random, universe, rows));
      const answers = await Promise.all(batch.map((command) => perform(real, command)));
      const kept = await dump(real, universe, false);
      let found: MemoryDatabase | null = null;
      /** Rows that an order with the same answers would have left behind. */
      let nearly: unknown = 'nothing';
      for (const order of orders(batch.length)) {
        const tried = structuredClone(rows);
        const store = storeOf(tried);
        const said: unknown[] = [];
        for (const at of order) said[at] = await perform(store, batch[at]!);
        if (!isDeepStrictEqual(said, answers)) continue;
        nearly = await dump(store, universe, false);
        if (!isDeepStrictEqual(nearly, kept)) continue;
        found = tried;
        if (order.some((at, place) => at !== place)) reordered += 1;
        break;
      }
      const what = `run ${run}, no order explains\n${told(batch)}\n${JSON.stringify(answers)}`;
      if (nearly === 'nothing') throw new Error(what);
      if (found === null) expect(kept, what).toEqual(nearly);
      rows = found!;
    }
  }
  console.log({ seed: SEED, runs: RUNS, reordered });
}, 3_600_000);
