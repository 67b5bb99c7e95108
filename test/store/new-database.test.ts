import { afterAll, beforeAll, expect, test } from 'vitest';
import { storeOver } from '../../src/store/postgres/index.ts';
import { type FreshDatabase, freshDatabase } from '../support/database.ts';
import { nodesOf, shapeOf, type WatchedConnection, watchPlans } from '../support/plans.ts';
import { completed, key, LEASE_MS, lane, turnStart } from './calls.ts';
import { turnSteps } from './turn-steps.ts';

/** Number of turns after which each statement is planned for good, and a look-up through a wrong index would show. */
const TURNS = 100;
/** Number of other turns that run meanwhile. */
const RUNNING = 30;
/** Maximum number of rows that a statement may read and discard. */
const FEW = 3;

let database: FreshDatabase;
let watched: WatchedConnection;
let store: ReturnType<typeof storeOver>;

beforeAll(async () => {
  database = await freshDatabase();
  watched = await watchPlans(database.url);
  // Without `analyze`, as in the first minutes of an installation.
  const { rows } = await watched.client.query<{ name: string }>(
    "select c.oid::regclass::text as name from pg_class c where relkind = 'r' and relnamespace = 'holdfast'::regnamespace",
  );
  for (const { name } of rows) await watched.client.query(`alter table ${name} set (autovacuum_enabled = off)`);
  store = storeOver(watched.executor);
});
afterAll(async () => {
  await watched?.end();
  await database?.drop();
});

test('In a database that was never analysed, no statement of a turn reads rows that it does not need', async () => {
  await watched.quietly(async () => {
    await store.register({ id: 'w1', internalUrl: 'http://a', livenessPath: null, version: 'v', leaseMs: LEASE_MS });
    const session = lane('w1', { keys: [key()] });
    expect(await store.create(session.create)).toMatchObject({ verdict: 'ok' });
    let { id } = session.firstTurn;
    const end = () => store.settle(session.settle(id, completed({ itemIds: [`item ${id}`] })));
    expect(await end()).toMatchObject({ verdict: 'ok' });
    for (let nth = 1; nth < TURNS; nth += 1) {
      const turn = turnStart({ parentTurnId: id });
      expect(await store.start(session.start({ expectedHead: id, turn }))).toMatchObject({ verdict: 'ok' });
      id = turn.id;
      expect(await end()).toMatchObject({ verdict: 'ok' });
    }
    const running = Array.from({ length: RUNNING }, () => lane('w1', { keys: [key()] }));
    for (const { create } of running) expect(await store.create(create)).toMatchObject({ verdict: 'ok' });
    const { steps } = await turnSteps(watched, store);
    for (const [, step] of steps) await step();
  });
  for (const [name, step] of (await turnSteps(watched, store)).steps) {
    await step();
    const wasteful = watched.taken().flatMap(({ query, plan }) =>
      nodesOf(plan)
        .filter((node) => (node['Rows Removed by Filter'] ?? 0) > FEW)
        .map((node) => `throws ${node['Rows Removed by Filter']} rows away: ${shapeOf(plan)}\n${query}`),
    );
    expect({ name, wasteful }).toEqual({ name, wasteful: [] });
  }
});
