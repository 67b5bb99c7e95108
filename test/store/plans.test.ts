import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { KeyRef } from '../../src/store/port.ts';
import { type PurgeKind, purgeKinds } from '../../src/store/port.ts';
import { openPostgresStore, storeOver } from '../../src/store/postgres/index.ts';
import { fillDatabase, RETENTION_HOURS } from '../support/data-set.ts';
import { type FreshDatabase, freshDatabase } from '../support/database.ts';
import { nodesOf, type RunPlan, shapeOf, type WatchedConnection, watchPlans } from '../support/plans.ts';
import { completed, saved, turnStart } from './calls.ts';

const always = { withinMs: 1e13 };
const SESSIONS = 2_000;
const TURNS_PER_SESSION = 10;
/** Tables that must never be read whole. Others may be, while they are small. */
const LARGE = new Set(['turn', 'turn_items', 'turn_item', 'bridge_session', 'session_key', 'provider_object']);
/** Maximum number of rows that a statement may sort, or read and discard. */
const FEW = 500;

let database: FreshDatabase;
let watched: WatchedConnection;
let store: ReturnType<typeof storeOver>;

beforeAll(async () => {
  database = await freshDatabase();
  await (await openPostgresStore({ url: database.url, poolSize: 1 })).shutdown();
  watched = await watchPlans(database.url);
  await watched.client.query('set auto_explain.log_min_duration = -1');
  const size = { sessions: SESSIONS, turnsPerSession: TURNS_PER_SESSION, longEvery: 501, longTurns: 700 };
  await fillDatabase(watched.client, size);
  await watched.client.query('set auto_explain.log_min_duration = 0');
  store = storeOver(watched.executor);
}, 600_000);
afterAll(async () => {
  await watched?.end();
  await database?.drop();
});

/** Returns the parts of plans whose cost grows with the number of rows. */
function faults(plans: readonly RunPlan[]): string[] {
  return plans.flatMap(({ query, plan }) =>
    nodesOf(plan).flatMap((node) => {
      const [type, table] = [node['Node Type'], node['Relation Name'] ?? ''];
      const dropped = node['Rows Removed by Filter'] ?? 0;
      const rows = node['Actual Rows'];
      const whole = type === 'Seq Scan' && (LARGE.has(table) || rows + dropped > FEW) ? `reads all of ${table}` : null;
      const sorts = /Sort/.test(type) && rows > FEW ? `sorts ${rows} rows` : null;
      const wasteful = dropped > FEW ? `throws ${dropped} rows away` : null;
      return [whole, sorts, wasteful]
        .filter((fault) => fault !== null)
        .map((fault) => `${fault}: ${shapeOf(plan)}\n${query}`);
    }),
  );
}

const one = async <Row>(sql: string): Promise<Row> => {
  const row = (await watched.client.query(sql)).rows[0] as Row;
  watched.taken();
  return row;
};

interface Idle {
  id: string;
  scope: string;
  epoch: string;
  revision: string;
  nonce: string;
  owner: string;
  head: string;
}
/** Returns the idle session with the longest line whose owner is alive. */
const idle = () =>
  one<Idle>(
    `select s.id, s.scope, s.epoch, s.revision, owner_nonce as nonce, owner_worker_id as owner, head_turn_id as head
       from bridge_session s
      where active_turn_id is null and owner_worker_id in ('w1', 'w2', 'w3') and state = 'live'
      order by (select count(*) from turn t where t.session_id = s.id) desc limit 1`,
  );

// Both ways to plan a prepared statement: for its current values, and for any values.
describe.each(['force_custom_plan', 'force_generic_plan'])('statement plans with %s', (mode) => {
  beforeAll(async () => {
    await watched.client.query(`set plan_cache_mode = ${mode}`);
    watched.taken();
  });

  test('A turn reads and writes only by index, from its look-up to its end', async () => {
    const { id, scope, epoch, nonce, owner, head } = await idle();
    const row = await one<{ response: string; place: string; hash: string; item: string }>(
      `select t.response_id as response, t.transcript_fp as place,
              (select hash from session_key where scope = t.scope limit 1) as hash,
              (select item_id from turn_item i where i.scope = t.scope limit 1) as item
         from turn t where id = '${head}'`,
    );
    const key: KeyRef = { kind: 'thread', hash: row.hash };
    const nothing = { scope, anchor: null, tokenSessionId: null, hardKey: null };
    const me = { me: owner, nonce, sessionId: id, epoch: Number(epoch) };
    const turn = turnStart({ parentTurnId: head, shape: 'delta' });
    const fresh = { me: owner, nonce, sessionId: randomUUID(), saved: saved() };
    const forked = turnStart({ parentTurnId: head });
    const steps: [string, () => Promise<unknown>][] = [
      ['anchor', () => store.lookup({ ...nothing, anchor: row.response })],
      ['token and key', () => store.lookup({ ...nothing, tokenSessionId: id, hardKey: key })],
      ['places', () => store.lookup({ ...nothing, places: [row.place, 'nowhere', 'else'], besides: ['none'] })],
      ['references', () => store.references(scope, [row.item, 'unknown'])],
      ['line', () => store.line(scope, head)],
      ['lineage', () => store.lineage(scope, head)],
      ['start', () => store.start({ ...me, expectedHead: head, turn, saved: saved() })],
      ['running', () => store.turn(turn.id)],
      ['settle', () => store.settle({ ...me, turnId: turn.id, saved: saved(), result: completed({ itemIds: ['i'] }) })],
      [
        'create',
        () =>
          store.create({
            ...{ ...fresh, scope, keys: [{ kind: 'thread', hash: randomUUID() }], upstreamId: 'u', model: null },
            ...{ headTurnId: head, turn: forked },
          }),
      ],
      ['settle a first turn', () => store.settle({ ...fresh, epoch: 1, turnId: forked.id, result: completed() })],
      ['release', () => store.release({ ...fresh, epoch: 1, saved: saved('stale') })],
      [
        'claim',
        async () => {
          const { epoch: epochRead, revision: revisionRead } = (await store.session(fresh.sessionId))!;
          const claimed = await store.claim({ ...fresh, epochRead, revisionRead });
          return store.close({ ...fresh, epoch: epochRead + 1, ...(claimed && {}) });
        },
      ],
      ['heartbeat', () => store.heartbeat(owner, 'serving', 600_000)],
      ['expiry', () => store.declareExpired(owner)],
      ['workers', () => store.workers()],
      ['keep an object', () => store.keepObjects(scope, 'files', ['file_1', 'file_2'])],
      ['own objects', () => store.ownObjects(scope, ['file_1', 'unknown'])],
      ['list objects', () => store.listObjects({ scope, kind: 'files', limit: 2, order: 'desc', after: 'file_2' })],
      ['drop an object', () => store.dropObject(scope, 'file_1')],
    ];
    for (const [name, step] of steps) {
      const answer = await step();
      const plans = watched.taken();
      expect({ name, faults: faults(plans) }).toEqual({ name, faults: [] });
      expect({ name, answer }).not.toMatchObject({ answer: { verdict: expect.stringMatching(/rejected|unknown/) } });
      expect(plans.length, name).toBeGreaterThan(0);
    }
    expect((await store.session(id))!.headTurnId).toBe(turn.id);
    expect((await store.session(fresh.sessionId))!.state).toBe('closed');
  });

  test('The claim of a session whose owner died during a turn reads and writes only by index', async () => {
    const busy = await one<{ id: string; epoch: string; revision: string; lost: string }>(
      `select id, epoch, revision, active_turn_id as lost from bridge_session s
        where active_turn_id is not null
          and exists (select from worker w where w.id = s.owner_worker_id and w.state = 'dead') limit 1`,
    );
    const [epochRead, revisionRead] = [Number(busy.epoch), Number(busy.revision)];
    const claimed = await store.claim({ me: 'w1', nonce: 'n', sessionId: busy.id, epochRead, revisionRead });
    expect(claimed).toMatchObject({ verdict: 'row', lostTurnId: busy.lost });
    expect(faults(watched.taken())).toEqual([]);
  });

  test('Queries of operators are answered by index, in pages', async () => {
    const { id, scope, owner, head } = await idle();
    const { response } = await one<{ response: string }>(
      `select response_id as response from turn where id = '${head}'`,
    );
    const { hash } = await one<{ hash: string }>('select hash from session_key limit 1');
    const { rows } = await store.listSessions({ limit: 50 });
    const last = rows.at(-1)!;
    const steps: [string, () => Promise<unknown>][] = [
      ['the first page', () => store.listSessions({ limit: 50 })],
      ['a later page', () => store.listSessions({ limit: 50, before: { updatedAt: last.updatedAt, id: last.id } })],
      ...[id, head, response, hash].map((search): [string, () => Promise<unknown>] => [
        `a search for ${search}`,
        () => store.listSessions({ limit: 50, search }),
      ]),
      ['running', () => store.listSessions({ limit: 50, busy: true })],
      ['those of an owner', () => store.listSessions({ limit: 50, ownerWorkerId: owner })],
      ['running at an owner', () => store.listSessions({ limit: 50, ownerWorkerId: owner, busy: true })],
      ['details', () => store.turnDetails(id, 100)],
      ['turns', () => store.turnsOf(id, 100)],
      ['sessions', () => store.sessions(100)],
      ['keys', () => store.keysOf(id)],
      ['forks', () => store.forksOf(id, 20)],
      ...[id, head, response].map((whole): [string, () => Promise<unknown>] => [
        `ids that begin with ${whole.slice(0, -2)}`,
        () => store.idsBeginning(whole.slice(0, -2), 5),
      ]),
      ...[id, head, hash].map((search): [string, () => Promise<unknown>] => [
        `a search for a prefix of ${search}`,
        () => store.listSessions({ limit: 50, search: search.slice(0, 8) }),
      ]),
      ['ended turns', () => store.turnsEnded({ ...always, limit: 200 })],
      ['ended turns of a worker', () => store.turnsEnded({ ...always, limit: 200, authors: [owner] })],
      ['story', () => store.story(id)],
      ['a story kept', () => store.keepStory(id, randomUUID(), {})],
      ['an erasure', () => store.eraseResponse(scope, response)],
      ['a dropped anchor', () => store.dropAnchor(id)],
      ['a closed session', () => store.operatorClose(id)],
    ];
    watched.taken();
    for (const [name, step] of steps) {
      await step();
      const plans = watched.taken();
      // The count is bounded: it reads the first rows up to the limit, whichever they are.
      const counting = /^reads all of bridge_session: Result \(Aggregate \(Limit \(Seq Scan bridge_session\)/;
      const found = faults(plans).filter((fault) => !counting.test(fault));
      expect({ name, faults: found }).toEqual({ name, faults: [] });
      expect(plans.length, name).toBeGreaterThan(0);
    }
  });

  test.each<PurgeKind>([...purgeKinds])('The janitor finds its %s by index', async (kind) => {
    let after: readonly string[] | null = null;
    for (let nth = 0; nth < 3; nth += 1) {
      ({ after } = await store.purge({ kind, olderThanHours: RETENTION_HOURS, limit: 50, after }));
      const plans = watched.taken();
      expect(faults(plans)).toEqual([]);
      expect(plans.length).toBeGreaterThan(0);
    }
  });
});
