import { afterEach, expect, test } from 'vitest';
import { storeOver } from '../../src/store/postgres/index.ts';
import { freshDatabase } from '../support/database.ts';
import { nodesOf, shapeOf, watchPlans } from '../support/plans.ts';
import { completed, key, LEASE_MS, lane, turnStart } from './calls.ts';
import { turnSteps } from './turn-steps.ts';

/** Number of turns after which each statement is planned for good, and a look-up through a wrong index would show. */
const TURNS = 100;
/** Number of other turns that run meanwhile. */
const RUNNING = 30;
/** Maximum number of rows that a statement may read and discard. */
const FEW = 3;

const cleanUps: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  while (cleanUps.length > 0) await cleanUps.pop()!();
});

/** Opens a new database that is analysed only by this test; returns what fills it, and what finds wasteful statements. */
async function opened() {
  const database = await freshDatabase();
  cleanUps.push(() => database.drop());
  const watched = await watchPlans(database.url);
  cleanUps.push(() => watched.end());
  const { rows } = await watched.client.query<{ name: string }>(
    "select c.oid::regclass::text as name from pg_class c where relkind = 'r' and relnamespace = 'holdfast'::regnamespace",
  );
  for (const { name } of rows) await watched.client.query(`alter table ${name} set (autovacuum_enabled = off)`);
  const store = storeOver(watched.executor);

  /** Stores a session with so many turns, and returns what adds others. */
  async function conversation(owner: string, scope: string, turns: number) {
    const session = lane(owner, { scope, keys: [key()] });
    expect(await store.create(session.create)).toMatchObject({ verdict: 'ok' });
    let { id } = session.firstTurn;
    const end = async () =>
      expect(await store.settle(session.settle(id, completed({ itemIds: [`item ${id}`] })))).toMatchObject({
        verdict: 'ok',
      });
    await end();
    const more = async (count: number) => {
      for (let nth = 0; nth < count; nth += 1) {
        const turn = turnStart({ parentTurnId: id });
        expect(await store.start(session.start({ expectedHead: id, turn }))).toMatchObject({ verdict: 'ok' });
        id = turn.id;
        await end();
      }
    };
    await more(turns - 1);
    return { more };
  }

  return {
    analyse: () => watched.client.query('vacuum analyze'),
    conversation,
    quietly: watched.quietly,
    register: (id: string) =>
      store.register({ id, internalUrl: 'http://a', livenessPath: null, version: 'v', leaseMs: LEASE_MS }),
    async run() {
      const running = Array.from({ length: RUNNING }, () => lane('w1', { keys: [key()] }));
      for (const { create } of running) expect(await store.create(create)).toMatchObject({ verdict: 'ok' });
    },
    /** Performs every statement of a turn twice; of the second time, returns those that read rows without need. */
    async wasteful(wholeTables: 'may be read' | null = null) {
      await watched.quietly(async () => {
        for (const [, step] of (await turnSteps(watched, store)).steps) await step();
      });
      const found: string[] = [];
      for (const [name, step] of (await turnSteps(watched, store)).steps) {
        await step();
        for (const { query, plan } of watched.taken())
          for (const node of nodesOf(plan)) {
            // A table of a page or two is rightly read whole. It is the wrong index that must not be used.
            if (wholeTables === 'may be read' && node['Node Type'] === 'Seq Scan') continue;
            const removed = node['Rows Removed by Filter'] ?? 0;
            if (removed > FEW) found.push(`${name} throws ${removed} rows away: ${shapeOf(node)}\n${query}`);
          }
      }
      return found;
    },
  };
}

test('In a database that was never analysed, no statement of a turn reads rows that it does not need', async () => {
  const { conversation, quietly, register, run, wasteful } = await opened();
  await quietly(async () => {
    await register('w1');
    await conversation('w1', 'local', TURNS);
    await run();
  });
  expect(await wasteful()).toEqual([]);
});

test('In a database that was analysed while it was small, no statement of a turn reads rows that it does not need', async () => {
  const { analyse, conversation, quietly, register, run, wasteful } = await opened();
  await quietly(async () => {
    await register('w1');
    const conversations = [];
    for (let nth = 0; nth < 5; nth += 1) conversations.push(await conversation('w1', 'local', 10));
    await run();
    await analyse();
    for (const { more } of conversations) await more(TURNS);
  });
  expect(await wasteful('may be read')).toEqual([]);
});

test('For a scope that is new since the last analyze, no statement of a turn reads rows that it does not need', async () => {
  const { analyse, conversation, quietly, register, run, wasteful } = await opened();
  await quietly(async () => {
    await register('other');
    for (let nth = 0; nth < 40; nth += 1) await conversation('other', 'other', 10);
    await analyse();
    await register('w1');
    await conversation('w1', 'local', TURNS);
    await run();
  });
  expect(await wasteful('may be read')).toEqual([]);
});
