import pg from 'pg';
import { setup } from 'xstate';
import { defineProgram, startActor } from '../src/runtime/index.ts';
import { openPostgresStore } from '../src/store/postgres/index.ts';
import { systemClock } from '../src/system.ts';
import { ownDatabase } from '../test/chaos/world.ts';
import { completed, idleLane, newWorker, turnStart } from '../test/store/calls.ts';
import { thisMachine } from './machine.ts';

/**
 * Measures the throughput of the runtime: transitions per second of one actor without store access, and durable commits
 * per second over 64 sessions. Bare one-row updates on as many connections run in the same run for comparison, because
 * the database alone varies by half between runs.
 */
const STEPS = Number(process.env.BENCH_STEPS ?? 400_000);
const SECONDS = Number(process.env.BENCH_SECONDS ?? 5);
const SESSIONS = 64;
const CONNECTIONS = 8;

const lamp = setup({ types: { events: {} as { type: 'press' } }, actions: { shine: () => {} } }).createMachine({
  id: 'lamp',
  initial: 'off',
  states: { off: { on: { press: { target: 'on', actions: 'shine' } } }, on: { on: { press: 'off' } } },
});

async function transitionsPerSecond(): Promise<number> {
  let shone = 0;
  const actor = startActor(defineProgram(lamp, { commits: [], version: 1 }), {
    id: 'lamp',
    input: undefined,
    clock: systemClock,
    durations: () => Number.POSITIVE_INFINITY,
    perform: () => {
      shone += 1;
    },
    commit: () => Promise.reject(new Error('this machine commits nothing')),
    onError: (error) => {
      throw error;
    },
  });
  const run = (steps: number) => {
    for (let step = 0; step < steps; step += 1) actor.send({ type: 'press' });
  };
  run(STEPS / 10);
  const startedAt = performance.now();
  run(STEPS);
  await new Promise((drained) => setImmediate(drained));
  const seconds = (performance.now() - startedAt) / 1_000;
  if (shone < STEPS / 2) throw new Error('steps were lost');
  return STEPS / seconds;
}

/** Calls `step` on all lanes concurrently and repeatedly for SECONDS; returns calls per second. */
async function rate(lanes: number, step: (lane: number) => Promise<number>): Promise<number> {
  const until = performance.now() + SECONDS * 1_000;
  const counts = await Promise.all(
    Array.from({ length: lanes }, async (_, lane) => {
      let count = 0;
      while (performance.now() < until) count += await step(lane);
      return count;
    }),
  );
  return counts.reduce((sum, count) => sum + count, 0) / SECONDS;
}

async function commitsPerSecond(url: string): Promise<{ commits: number; updates: number }> {
  const store = await openPostgresStore({ url, poolSize: CONNECTIONS });
  const me = await newWorker(store);
  const lanes = await Promise.all(
    Array.from({ length: SESSIONS }, async () => {
      const lane = await idleLane(store, me);
      return { lane, head: lane.firstTurn.id };
    }),
  );
  const turn = async (index: number) => {
    const each = lanes[index]!;
    const call = each.lane.start({ expectedHead: each.head, turn: turnStart({ parentTurnId: each.head }) });
    const started = await store.start(call);
    const settled = await store.settle(each.lane.settle(call.turn.id, completed()));
    if (started.verdict !== 'ok' || settled.verdict !== 'ok') throw new Error(`${started.verdict} ${settled.verdict}`);
    each.head = call.turn.id;
    return 2;
  };
  const commits = await rate(SESSIONS, turn);
  await store.shutdown();

  const pool = new pg.Pool({ connectionString: url, max: CONNECTIONS });
  await pool.query('create table bare (id integer primary key, n integer not null) with (fillfactor = 70)');
  await pool.query('insert into bare select n, 0 from generate_series(0, $1::integer - 1) n', [SESSIONS]);
  const update = { name: 'bare', text: 'update bare set n = n + 1 where id = $1' };
  const updates = await rate(SESSIONS, async (id) => {
    await pool.query({ ...update, values: [id] });
    return 1;
  });
  await pool.end();
  return { commits, updates };
}

const database = await ownDatabase();
try {
  const transitions = await transitionsPerSecond();
  const { commits, updates } = await commitsPerSecond(database.server().url);
  console.log(`${thisMachine()}; ${SESSIONS} sessions, ${CONNECTIONS} connections, ${SECONDS} s each`);
  console.table([
    { figure: 'transitions that touch no store', 'a second': Math.round(transitions), 'of a bare update': '' },
    {
      figure: 'durable commits (start, settle)',
      'a second': Math.round(commits),
      'of a bare update': `${Math.round((commits / updates) * 100)} %`,
    },
    { figure: 'bare one-row updates', 'a second': Math.round(updates), 'of a bare update': '100 %' },
  ]);
} finally {
  await database.close();
}
