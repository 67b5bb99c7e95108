import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { startEmbeddedPostgres } from '../src/store/embedded/index.ts';
import type { TurnResult, TurnStart } from '../src/store/port.ts';
import { type Purged, purgeKinds } from '../src/store/port.ts';
import { openPostgresStore, storeOver } from '../src/store/postgres/index.ts';
import { fillDatabase } from '../test/support/data-set.ts';
import { pagesOf, type RunPlan, shapeOf, watchPlans } from '../test/support/plans.ts';
import { percentile, show, thisMachine } from './machine.ts';

/**
 * Measures the SQL statements at size: what a turn writes (WAL), what each statement of a turn reads (pages), and what
 * the janitor deletes. The database holds BENCH_SESSIONS sessions and about BENCH_TURNS turns, on the embedded server
 * with its shipped configuration.
 */
const SESSIONS = Number(process.env.BENCH_SESSIONS ?? 100_000);
const TURNS = Number(process.env.BENCH_TURNS ?? 1_000_000);
const MEASURED_TURNS = Number(process.env.BENCH_MEASURED_TURNS ?? 2_000);
/** Database that an earlier run has filled. If unset, a temporary one is created and removed at the end. */
const FILLED = process.env.BENCH_DATABASE_URL;
const parts = new Map([
  ['turns', turns],
  ['statements', statements],
  ['steps', steps],
  ['janitor', janitor],
]);
const wanted = process.env.BENCH_PARTS?.split(',') ?? [...parts.keys()];

/** Rows that a sweep should have deleted but did not, found by queries that are slow and obviously correct. */
const UNUSED = {
  sessions: `select count(*) from bridge_session s
              where s.updated_at < now() - interval '24 hours'
                and (s.active_turn_id is null or not exists (
                  select from worker w where w.id = s.owner_worker_id and w.state <> 'dead'
                                         and w.heartbeat_expires_at >= now() - interval '24 hours'))
                and not exists (select from turn mine join any_turn child on child.parent_turn_id = mine.id
                                 where mine.session_id = s.id and child.session_id <> s.id)
                and not exists (select from turn mine join bridge_session other on other.head_turn_id = mine.id
                                 where mine.session_id = s.id and other.id <> s.id)`,
  turns: `select count(*) from turn t
           where t.state <> 'active' and t.ended_at < now() - interval '24 hours'
             and not exists (select from any_turn child where child.parent_turn_id = t.id)
             and not exists (select from bridge_session s where s.head_turn_id = t.id and s.state <> 'closed')`,
  workers: `select count(*) from worker w where w.heartbeat_expires_at < now() - interval '24 hours'
               and not exists (select from bridge_session s where s.owner_worker_id = w.id)`,
  shared: `select count(*) from shared_item i
            where not exists (select from turn_shared_item n where n.scope = i.scope and n.hash = i.hash)`,
  objects: `select count(*) from provider_object where kind = 'responses' and created_at < now() - interval '24 hours'`,
};

const dataDir = await mkdtemp(join(tmpdir(), 'hf-bench-'));
const server = FILLED === undefined ? await startEmbeddedPostgres({ dataDir, settings: ['max_wal_size=4GB'] }) : null;
const url = FILLED ?? server!.url;
const client = new pg.Client({ connectionString: url });
try {
  await client.connect();
  console.log(thisMachine());
  if (server) await fill();
  for (const part of wanted) await parts.get(part)?.();
} finally {
  await client.end();
  await server?.stop();
  await rm(dataDir, { recursive: true, force: true });
}

async function fill(): Promise<void> {
  await (await openPostgresStore({ url })).shutdown();
  const began = performance.now();
  const size = { sessions: SESSIONS, turnsPerSession: TURNS / SESSIONS, longEvery: 5_001, longTurns: 2_000 };
  await fillDatabase(client, size);
  console.log(`filled in ${((performance.now() - began) / 1_000).toFixed(0)} s`);
  const { rows } = await client.query(
    `select relname as name, reltuples::bigint as rows, pg_size_pretty(pg_table_size(oid)) as heap,
            pg_size_pretty(pg_indexes_size(oid)) as indexes
       from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace
      order by pg_total_relation_size(oid) desc`,
  );
  console.table(rows);
}

/** Measures what turns write, for sessions spread over the whole database. */
async function turns(): Promise<void> {
  const { rows } = await client.query<{ id: string; epoch: string; head: string; scope: string }>(
    `select id, epoch, head_turn_id as head, scope from bridge_session where active_turn_id is null and owner_worker_id = 'w1'
      order by md5(id) limit ${MEASURED_TURNS / 4}`,
  );
  const measured = [];
  for (const fullPages of [true, false]) {
    await client.query(`alter system set full_page_writes = ${fullPages ? 'on' : 'off'}`);
    await client.query('select pg_reload_conf()');
    await client.query('checkpoint');
    const before = await counters();
    const store = await openPostgresStore({ url, statementTimeoutMs: 60_000 });
    let made = 0;
    for (const { scope, id, epoch, head } of rows) {
      const nonce = (
        await client.query(`select owner_nonce as nonce, head_turn_id as head from bridge_session where id = $1`, [id])
      ).rows[0];
      let parent = nonce.head ?? head;
      for (let nth = 0; nth < MEASURED_TURNS / rows.length; nth += 1) {
        const turn = { ...startOf(parent), id: randomUUID() };
        const me = { me: 'w1', nonce: nonce.nonce, scope, sessionId: id, epoch: Number(epoch) };
        const saved = {
          state: 'live' as const,
          snapshot: { value: { live: 'idle' }, context: { creates: 1, generation: 1 } },
          machineVersion: 1,
        };
        const started = await store.start({ ...me, expectedHead: parent, turn, saved });
        if (started.verdict !== 'ok') throw new Error(JSON.stringify(started));
        const settled = await store.settle({ ...me, turnId: turn.id, saved, result: result() });
        if (settled.verdict !== 'ok') throw new Error(JSON.stringify(settled));
        parent = turn.id;
        made += 1;
      }
    }
    // PostgreSQL publishes the counters of a connection when the connection ends.
    await store.shutdown();
    const after = await counters();
    measured.push({
      'full pages in the log': fullPages,
      'WAL bytes a turn': Math.round((after.wal - before.wal) / made),
      'WAL records a turn': ((after.records - before.records) / made).toFixed(1),
      ...Object.fromEntries(
        [...after.tables].flatMap(([name, now]) => {
          const then = before.tables.get(name) ?? { ins: 0, upd: 0, hot: 0, del: 0 };
          const per = (key: 'ins' | 'upd' | 'hot' | 'del') => (now[key] - then[key]) / made;
          if (per('ins') + per('upd') + per('del') === 0) return [];
          const hot = now.upd === then.upd ? '' : ` (${Math.round((100 * per('hot')) / per('upd'))} % HOT)`;
          return [[name, `+${per('ins').toFixed(2)} ~${per('upd').toFixed(2)}${hot} -${per('del').toFixed(2)}`]];
        }),
      ),
    });
  }
  await client.query('alter system reset full_page_writes');
  await client.query('select pg_reload_conf()');
  console.log(`${MEASURED_TURNS} turns of ${rows.length} sessions: rows inserted, updated, deleted a turn`);
  for (const each of measured) console.table(each);
}

async function counters() {
  await client.query('select pg_stat_clear_snapshot()');
  const [{ wal, records }] = (
    await client.query(
      `select pg_current_wal_insert_lsn() - '0/0'::pg_lsn as wal, wal_records as records from pg_stat_wal`,
    )
  ).rows as [{ wal: string; records: string }];
  const { rows } = await client.query(
    `select relname, n_tup_ins as ins, n_tup_upd as upd, n_tup_hot_upd as hot, n_tup_del as del from pg_stat_user_tables`,
  );
  return {
    wal: Number(wal),
    records: Number(records),
    tables: new Map(
      rows.map(({ relname, ...counts }) => [
        relname as string,
        { ins: Number(counts.ins), upd: Number(counts.upd), hot: Number(counts.hot), del: Number(counts.del) },
      ]),
    ),
  };
}

/** Prints the statements that ran since the last call; identical ones are grouped. */
function showPlans(title: string, plans: readonly RunPlan[], ms: number): void {
  const alike = Map.groupBy(
    plans,
    ({ query, plan }) => `${query.replace(/\s+/g, ' ').trim().slice(0, 70)}\n${shapeOf(plan)}`,
  );
  console.log(`\n${title}: ${ms.toFixed(1)} ms, ${plans.length} statements`);
  for (const [name, runs] of alike) {
    const pages = runs.map(pagesOf);
    const [query, shape] = name.split('\n') as [string, string];
    console.log(
      `  ${runs.length} x, ${Math.max(...pages)} pages at most, ${pages.reduce((a, b) => a + b, 0)} in all: ${query}\n      ${shape}`,
    );
  }
}

/** Shows what each statement of a turn, and each query of an operator, reads. */
async function statements(): Promise<void> {
  const watched = await watchPlans(url);
  const store = storeOver(watched.executor);
  const { rows } = await client.query(
    `select s.id, s.scope, s.epoch, s.owner_nonce as nonce, s.owner_worker_id as owner, t.id as head, t.response_id as response,
            t.transcript_fp as place, (select hash from session_key k where k.session_id = s.id) as hash,
            (select item_id from turn_item i where i.turn_id = t.id or i.turn_id = t.parent_turn_id limit 1) as item
       from bridge_session s join turn t on t.id = s.head_turn_id
      where s.active_turn_id is null and s.owner_worker_id in ('w1', 'w2', 'w3') and s.state = 'live'
        and exists (select from session_key k where k.session_id = s.id)
      order by s.id limit 1`,
  );
  const { id, scope, epoch, nonce, owner, head, response, place, hash, item } = rows[0];
  const nothing = { scope, anchor: null, tokenSessionId: null, hardKey: null };
  const me = {
    me: owner,
    nonce,
    scope,
    sessionId: id,
    epoch: Number(epoch),
    saved: { state: 'live' as const, snapshot: {}, machineVersion: 1 },
  };
  const turn = { ...startOf(head), id: randomUUID() };
  const dead = (
    await client.query(
      `select scope, id, epoch, revision from bridge_session where active_turn_id is not null and owner_worker_id not in ('w1', 'w2', 'w3') limit 1`,
    )
  ).rows[0];
  const { updatedAt, id: lastId } = (await store.listSessions({ limit: 50 })).rows.at(-1)!;
  const steps: [string, () => Promise<unknown>][] = [
    ['look-up by anchor', () => store.lookup({ ...nothing, anchor: response })],
    [
      'look-up by token and key',
      () => store.lookup({ ...nothing, tokenSessionId: id, hardKey: { kind: 'thread', hash } }),
    ],
    ['look-up by places', () => store.lookup({ ...nothing, places: [place, 'nowhere', 'else'] })],
    ['references', () => store.references(scope, [item ?? 'none', 'unknown'])],
    ['line', () => store.line(scope, head)],
    ['lineage', () => store.lineage(scope, head)],
    ['start', () => store.start({ ...me, expectedHead: head, turn })],
    ['settle', () => store.settle({ ...me, turnId: turn.id, result: result() })],
    [
      'claim of a session whose owner died',
      () =>
        store.claim({
          me: 'w1',
          nonce: 'n',
          scope: dead.scope,
          sessionId: dead.id,
          epochRead: Number(dead.epoch),
          revisionRead: Number(dead.revision),
        }),
    ],
    ['heartbeat', () => store.heartbeat(owner, 'serving', 10_000_000)],
    ['expiry', () => store.declareExpired(owner)],
    ['list, first page', () => store.listSessions({ limit: 50 })],
    ['list, later page', () => store.listSessions({ limit: 50, before: { updatedAt, id: lastId } })],
    ['list, of an owner', () => store.listSessions({ limit: 50, ownerWorkerId: owner })],
    ['list, running', () => store.listSessions({ limit: 50, busy: true })],
    ['list, of a state that few have', () => store.listSessions({ limit: 50, state: 'reconnecting' })],
    ['explain, by response id', () => store.listSessions({ limit: 1, search: response })],
    ['explain, by key', () => store.listSessions({ limit: 1, search: hash })],
    ['details', () => store.turnDetails(id, 100)],
    ['forks', () => store.forksOf(id, 20)],
    ['sessions by owner', () => store.ownedSessions()],
    ['erasure', () => store.eraseResponse(scope, response)],
  ];
  for (const [name, step] of steps) {
    watched.taken();
    const began = performance.now();
    const answer = (await step()) as { verdict?: string } | undefined;
    const ms = performance.now() - began;
    showPlans(`${name}${answer?.verdict ? ` (${answer.verdict})` : ''}`, watched.taken(), ms);
  }
  await watched.end();
}

async function counted() {
  await client.query(`set work_mem = '256MB'`);
  const counts: Record<string, number> = {};
  for (const [kind, query] of Object.entries(UNUSED)) counts[kind] = Number((await client.query(query)).rows[0].count);
  for (const table of ['bridge_session', 'turn', 'active_turn', 'turn_items', 'worker', 'shared_item'])
    counts[`rows of ${table}`] = Number((await client.query(`select count(*) from ${table}`)).rows[0].count);
  return counts;
}

/** Shows what one step of the janitor reads for each kind of row. Deletes nothing. */
async function steps(): Promise<void> {
  const watched = await watchPlans(url);
  const watching = storeOver(watched.executor);
  for (const kind of purgeKinds) {
    watched.taken();
    const began = performance.now();
    await watched.client.query('begin');
    await watching.purge({ kind, olderThanHours: 24, limit: 500, after: null });
    await watched.client.query('rollback');
    showPlans(`a step with ${kind}`, watched.taken(), performance.now() - began);
  }
  await watched.end();
}

/** Runs the statements of the janitor until a pass over all kinds deletes nothing more. */
async function janitor(): Promise<void> {
  const store = await openPostgresStore({ url, statementTimeoutMs: 120_000 });
  const before = await counted();
  for (let pass = 1; ; pass += 1) {
    let took = 0;
    const table = [];
    for (const kind of purgeKinds) {
      const times: number[] = [];
      const removed: Record<string, number> = {};
      let after: readonly string[] | null = null;
      for (let more = true; more; ) {
        const began = performance.now();
        const step: Purged = await store.purge({ kind, olderThanHours: 24, limit: 500, after });
        times.push(performance.now() - began);
        for (const [each, rows] of Object.entries(step.removed)) removed[each] = (removed[each] ?? 0) + rows;
        ({ after, more } = step);
      }
      took += Object.values(removed).reduce((sum, rows) => sum + rows, 0);
      const seconds = times.reduce((sum, ms) => sum + ms, 0) / 1_000;
      table.push({
        kind,
        steps: times.length,
        removed: JSON.stringify(removed),
        seconds: seconds.toFixed(1),
        'step p50': show(percentile(times, 0.5)),
        p99: show(percentile(times, 0.99)),
        longest: show(Math.max(...times)),
      });
    }
    console.log(`\npass ${pass}`);
    console.table(table);
    if (took === 0) break;
  }
  console.log('unused, and rows, before and after');
  const after = await counted();
  console.table(
    Object.fromEntries(Object.keys(before).map((name) => [name, { before: before[name], after: after[name] }])),
  );
  await store.shutdown();
}

function startOf(parentTurnId: string): Omit<TurnStart, 'id'> {
  return {
    ...{ parentTurnId, shape: 'delta', requestFp: 'f'.repeat(64), contextFp: 'c'.repeat(64) },
    ...{ storedUpstream: false, credentialFp: 'c'.repeat(64), clientTurnId: null },
  };
}

function result(): TurnResult {
  return {
    ...{ state: 'completed', responseId: `resp_${randomUUID()}`, replay: 'exact', error: null },
    items: {
      input: [JSON.stringify({ type: 'message', role: 'user', content: randomUUID() })],
      output: [JSON.stringify({ id: randomUUID(), content: randomUUID().repeat(4) })],
    },
    ...{ transcriptFp: randomUUID().repeat(2), clientFp: randomUUID().repeat(2), secondFp: null, thirdFp: null },
    ...{ forms: 'f'.repeat(64), itemIds: [`msg_${randomUUID()}`] },
    usage: { input_tokens: 1234, output_tokens: 321, total_tokens: 1555 },
    facts: {
      ...{ outcome: 'live_reuse', form: 'delta', bytesFromClient: 900, bytesSent: 400, creates: 1, fault: null },
      ...{ upstreamStatus: null, heldMs: 3, firstEventMs: 400, totalMs: 1900 },
    },
  };
}
