import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import type { TurnResult } from '../src/store/port.ts';
import { openPostgresStore } from '../src/store/postgres/index.ts';
import { ownDatabase } from '../test/chaos/world.ts';
import { completed, idleLane, newWorker, turnStart } from '../test/store/calls.ts';
import { percentile, show, thisMachine } from './machine.ts';

/**
 * Measures what the two commits of a turn cost: the time of each, and the processor time of this process and of PostgreSQL
 * for both. For comparison: a bare update that stores the bytes of the same turn, and a write of one page with fdatasync,
 * both on the same disk. Processor times can be compared between runs; the other figures vary with the disk and the load.
 */
const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 4_000);
const AT_ONCE = [1, 16];
const SESSIONS = Math.max(...AT_ONCE);
const FLUSHES = 200;
/** Output of a tool: some source text. */
const OUTPUT = readFileSync(import.meta.filename, 'utf8').slice(0, 1_000);

/** Returns the end of a turn of an agent: a tool's output, encrypted reasoning and a call of a tool. */
function agentTurn(): TurnResult {
  const id = () => randomBytes(24).toString('hex');
  const reasoning = {
    type: 'reasoning',
    id: `rs_${id()}`,
    summary: [],
    encrypted_content: randomBytes(600).toString('base64'),
  };
  const call = {
    type: 'function_call',
    id: `fc_${id()}`,
    call_id: `call_${id()}`,
    name: 'shell',
    arguments: '{"cmd":"ls"}',
  };
  return completed({
    items: {
      input: [JSON.stringify({ type: 'function_call_output', call_id: `call_${id()}`, output: OUTPUT })],
      output: [JSON.stringify(reasoning), JSON.stringify(call)],
    },
    transcriptFp: id(),
    clientFp: id(),
    secondFp: id(),
    forms: id().repeat(4),
    itemIds: [reasoning.id, call.id, call.call_id],
    usage: {
      input_tokens: 12_345,
      input_tokens_details: { cached_tokens: 12_000 },
      output_tokens: 234,
      total_tokens: 12_579,
    },
    facts: {
      outcome: 'live_reuse',
      form: 'delta',
      bytesFromClient: 100_000,
      bytesSent: 1_500,
      creates: 1,
      fault: null,
      upstreamStatus: null,
      placedMs: 1,
      begunMs: 1,
      readyMs: 1,
      startedMs: 2,
      heldMs: 2,
      ownMs: 1.5,
      firstEventMs: 300,
      totalMs: 2_500,
    },
  });
}

interface Measured {
  /** Times of the calls in milliseconds, by their names. */
  times: Map<string, number[]>;
  /** Rounds per second. */
  rate: number;
  /** Processor time of one round, in microseconds. */
  own: number;
  postgres: number;
}

const database = await ownDatabase();
const { url } = database.server();
const observer = new pg.Client({ connectionString: url });

/** Returns the processor time in nanoseconds of every process of the server, by process; only Linux shows it. */
async function serverTimes(): Promise<Map<number, number>> {
  const { rows } = await observer.query<{ pid: number }>(
    'select pid from pg_stat_activity where pid <> pg_backend_pid()',
  );
  const timeOf = (pid: number) => Number(readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ')[0]);
  return new Map(rows.map(({ pid }) => [pid, process.platform === 'linux' ? timeOf(pid) : Number.NaN]));
}

/** Makes ROUNDS rounds on all lanes together, after a warm-up of a quarter of them. */
async function measure(
  lanes: number,
  round: (lane: number, timed: <T>(name: string, call: Promise<T>) => Promise<T>) => Promise<void>,
): Promise<Measured> {
  const times = new Map<string, number[]>();
  const timed = async <T>(name: string, call: Promise<T>) => {
    const startedAt = performance.now();
    const answer = await call;
    const of = times.get(name) ?? [];
    times.set(name, of);
    of.push(performance.now() - startedAt);
    return answer;
  };
  const make = async (rounds: number) => {
    let left = rounds;
    const run = async (lane: number) => {
      while (left > 0) {
        left -= 1;
        await round(lane, timed);
      }
    };
    await Promise.all(Array.from({ length: lanes }, (_, lane) => run(lane)));
  };
  await make(ROUNDS / 4);
  times.clear();
  const before = await serverTimes();
  const own = process.cpuUsage();
  const startedAt = performance.now();
  await make(ROUNDS);
  const rate = (ROUNDS / (performance.now() - startedAt)) * 1_000;
  const { user, system } = process.cpuUsage(own);
  const after = await serverTimes();
  const served = [...after].reduce((sum, [pid, ns]) => sum + ns - (before.get(pid) ?? 0), 0);
  return { times, rate, own: (user + system) / ROUNDS, postgres: served / 1_000 / ROUNDS };
}

async function turns(lanes: number): Promise<Measured> {
  const store = await openPostgresStore({ url });
  const me = await newWorker(store);
  const held = await Promise.all(Array.from({ length: SESSIONS }, () => idleLane(store, me)));
  const heads = held.map(({ firstTurn }) => firstTurn.id);
  const measured = await measure(lanes, async (index, timed) => {
    const lane = held[index]!;
    const expectedHead = heads[index]!;
    const turn = turnStart({ parentTurnId: expectedHead });
    const started = await timed('start', store.start(lane.start({ expectedHead, turn })));
    const settled = await timed('settle', store.settle(lane.settle(turn.id, agentTurn())));
    if (started.verdict !== 'ok' || settled.verdict !== 'ok') throw new Error(`${started.verdict} ${settled.verdict}`);
    heads[index] = turn.id;
  });
  await store.shutdown();
  return measured;
}

async function updates(lanes: number): Promise<Measured> {
  const pool = new pg.Pool({ connectionString: url });
  await pool.query('drop table if exists bare');
  await pool.query('create table bare (id integer primary key, payload text not null) with (fillfactor = 20)');
  await pool.query("insert into bare select n, '' from generate_series(0, $1::integer - 1) n", [SESSIONS]);
  const measured = await measure(lanes, async (id, timed) => {
    const values = [id, JSON.stringify(agentTurn())];
    await timed('update', pool.query({ name: 'bare', text: 'update bare set payload = $2 where id = $1', values }));
  });
  await pool.end();
  return measured;
}

/** Returns the times in milliseconds of writing one page at the same place and flushing it. */
async function flushes(): Promise<number[]> {
  const path = join(database.dataDir, 'flushed');
  const file = await open(path, 'w');
  const page = randomBytes(8_192);
  const times: number[] = [];
  for (let at = 0; at < FLUSHES; at += 1) {
    const startedAt = performance.now();
    await file.write(page, 0, page.length, 0);
    await file.datasync();
    times.push(performance.now() - startedAt);
  }
  await file.close();
  await rm(path);
  return times;
}

try {
  await observer.connect();
  console.log(`${thisMachine()}; ${ROUNDS} rounds each`);
  const rows: object[] = [];
  for (const [what, of] of Object.entries({ turns, updates })) {
    for (const lanes of AT_ONCE) {
      const { times, rate, own, postgres } = await of(lanes);
      for (const [call, took] of times) {
        const first = call === [...times.keys()][0];
        rows.push({
          what: `${what}, ${lanes} at once`,
          call,
          p50: show(percentile(took, 0.5)),
          p99: show(percentile(took, 0.99)),
          'a second': first ? Math.round(rate) : '',
          'own processor': first ? `${Math.round(own)} µs` : '',
          PostgreSQL: first ? `${Math.round(postgres)} µs` : '',
        });
      }
    }
  }
  rows.push({ what: 'fdatasync of 8 KB', p50: show(percentile(await flushes(), 0.5)) });
  console.table(rows);
} finally {
  await observer.end();
  await database.close();
}
