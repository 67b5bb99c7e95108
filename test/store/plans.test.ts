import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type PurgeKind, purgeKinds } from '../../src/store/port.ts';
import { storeOver } from '../../src/store/postgres/index.ts';
import { fillDatabase, RETENTION_HOURS } from '../support/data-set.ts';
import { type FreshDatabase, freshDatabase } from '../support/database.ts';
import { nodesOf, type RunPlan, shapeOf, type WatchedConnection, watchPlans } from '../support/plans.ts';
import { idleSession, orphanedClaim, readOne, turnSteps } from './turn-steps.ts';

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
  watched = await watchPlans(database.url);
  const size = { sessions: SESSIONS, turnsPerSession: TURNS_PER_SESSION, longEvery: 501, longTurns: 700 };
  await watched.quietly(() => fillDatabase(watched.client, size));
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

// Both ways to plan a prepared statement: for its current values, and for any values.
describe.each(['force_custom_plan', 'force_generic_plan'])('statement plans with %s', (mode) => {
  beforeAll(async () => {
    await watched.client.query(`set plan_cache_mode = ${mode}`);
    watched.taken();
  });

  test('A turn reads and writes only by index, from its look-up to its end', async () => {
    const { steps, scope, settled, closed } = await turnSteps(watched, store);
    for (const [name, step] of steps) {
      const answer = await step();
      const plans = watched.taken();
      expect({ name, faults: faults(plans) }).toEqual({ name, faults: [] });
      expect({ name, answer }).not.toMatchObject({ answer: { verdict: expect.stringMatching(/rejected|unknown/) } });
      expect(plans.length, name).toBeGreaterThan(0);
    }
    expect((await store.session(scope, settled.sessionId))!.headTurnId).toBe(settled.turnId);
    expect((await store.session(scope, closed))!.state).toBe('closed');
  });

  test('The claim of a session whose owner died during a turn reads and writes only by index', async () => {
    const { call, lost } = await orphanedClaim(watched);
    expect(await store.claim(call)).toMatchObject({ verdict: 'row', lostTurnId: lost });
    expect(faults(watched.taken())).toEqual([]);
  });

  test('Queries of operators are answered by index, in pages', async () => {
    const { id, scope, owner, head } = await idleSession(watched);
    const { response } = await readOne<{ response: string }>(
      watched,
      `select response_id as response from turn where id = '${head}'`,
    );
    const { hash } = await readOne<{ hash: string }>(watched, 'select hash from session_key limit 1');
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
