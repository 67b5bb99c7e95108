import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { storeOver } from '../../src/store/postgres/index.ts';
import { fillDatabase } from '../support/data-set.ts';
import { type FreshDatabase, freshDatabase } from '../support/database.ts';
import { nodesOf, type RunPlan, type WatchedConnection, watchPlans } from '../support/plans.ts';
import { orphanedClaim, readOne, turnSteps } from './turn-steps.ts';

// Every database that the imported files open is partitioned, and their tests are run here once more.
process.env.TEST_PARTITIONED = 'yes';
process.env.DIFFERENTIAL_RUNS ??= '3';

describe('over tables that are partitioned by scope', async () => {
  await import('./postgres.test.ts');
  await import('./races.test.ts');
  await import('./shared-items.test.ts');
  await import('./differential.test.ts');
});

/** Returns the partitions that these statements read, as they were run. */
const partitionsIn = (plans: readonly RunPlan[]) =>
  new Set(
    plans
      .flatMap(({ plan }) => nodesOf(plan))
      .filter((node) => node['Actual Loops'] > 0)
      .flatMap((node) => /_p\d$/.exec(node['Relation Name'] ?? '')?.[0] ?? []),
  );

// Both ways to plan a prepared statement: for its current values, and for any values.
describe.each(['force_custom_plan', 'force_generic_plan'])('with %s', (mode) => {
  let database: FreshDatabase;
  let watched: WatchedConnection;
  beforeAll(async () => {
    database = await freshDatabase();
    watched = await watchPlans(database.url);
    const size = { sessions: 700, turnsPerSession: 3, longEvery: 0, longTurns: 0 };
    await watched.quietly(() => fillDatabase(watched.client, size));
    await watched.client.query(`set plan_cache_mode = ${mode}`);
    watched.taken();
  });
  afterAll(async () => {
    await watched?.end();
    await database?.drop();
  });

  /** Returns the partition with the sessions of a scope. */
  const homeOf = async (scope: string) => {
    const sql = `select tableoid::regclass::text as name from bridge_session where scope = '${scope}' limit 1`;
    return /_p\d$/.exec((await readOne<{ name: string }>(watched, sql)).name)![0];
  };

  test('A turn touches one partition, the same of every table', async () => {
    const called = new Set<string>();
    const store = new Proxy(storeOver(watched.executor), {
      get(all, name) {
        called.add(String(name));
        return Reflect.get(all, name);
      },
    });
    const { steps, scope } = await turnSteps(watched, store);
    const home = await homeOf(scope);
    const untouched: string[] = [];
    for (const [name, perform] of steps) {
      const answer = await perform();
      expect({ name, answer }).not.toMatchObject({ answer: { verdict: expect.stringMatching(/rejected|unknown/) } });
      const partitions = [...partitionsIn(watched.taken())];
      if (partitions.length === 0) untouched.push(name);
      else expect({ name, partitions }).toEqual({ name, partitions: [home] });
    }
    // Of an insert, a plan does not show where the rows go.
    expect(untouched).toEqual(['heartbeat', 'expiry', 'workers', 'keep an object']);
    const { call, lost } = await orphanedClaim(watched);
    const away = await homeOf(call.scope);
    expect(await store.claim(call)).toMatchObject({ verdict: 'row', lostTurnId: lost });
    expect([...partitionsIn(watched.taken())]).toEqual([away]);

    // What is left belongs to operators and the janitor, who know no scope, and to no tenant.
    const left = Object.keys(store).filter((name) => !called.has(name));
    expect(left.sort()).toEqual(
      [
        ...['declareDead', 'pepper', 'register'],
        ...['dropAnchor', 'forksOf', 'idsBeginning', 'keepStory', 'keysOf', 'listSessions', 'operatorClose'],
        ...['operatorRelease', 'ownedSessions', 'purge', 'sessionById', 'sessions', 'story', 'turnDetails'],
        ...['turnsEnded', 'turnsOf'],
      ].sort(),
    );
  });
});
