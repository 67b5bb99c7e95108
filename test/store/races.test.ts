import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { SHARED_ABOVE } from '../../src/store/items.ts';
import { type PurgeKind, RESPONSE_KIND, type SessionStore } from '../../src/store/port.ts';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { freshDatabase } from '../support/database.ts';
import { bare, busyLane, completed, EXPIRED_MS, idleLane, key, type Lane, LEASE_MS, lane, newWorker } from './calls.ts';
import { type SecondConnection, secondConnection, waiting } from './second-connection.ts';

let database: Awaited<ReturnType<typeof freshDatabase>>;
let store: SessionStore;
/** Holds the transaction that goes first. */
let first: SecondConnection;
let observer: SecondConnection;

beforeAll(async () => {
  database = await freshDatabase();
  store = await openPostgresStore({ url: database.url, poolSize: 6 });
  [first, observer] = await Promise.all([secondConnection(database.url), secondConnection(database.url)]);
});
afterAll(async () => {
  await Promise.all([first.end(), observer.end(), store.shutdown()]);
  await database.drop();
});

/** Starts `late` while `first` holds its transaction, waits until it is blocked, then commits. */
async function race<T>(late: () => Promise<T>, meanwhile: () => Promise<unknown> = async () => undefined): Promise<T> {
  const answer = late();
  await waiting(observer, 1, answer);
  await meanwhile();
  await first.commit();
  return answer;
}

const claimOf = ({ scope, sessionId }: Lane, me: string, revisionRead: number) => ({
  scope,
  sessionId,
  me,
  nonce: randomUUID(),
  epochRead: 1,
  revisionRead,
});

describe('a turn id that is used twice concurrently', () => {
  test.each(['start', 'create'] as const)(
    'A %s that waits for another use of its turn id is refused, though the other turn has ended',
    async (how) => {
      const me = await newWorker(store);
      const elsewhere = lane(me);
      const idle = await idleLane(store, me);
      const turn = elsewhere.firstTurn;
      await first.begin();
      await first.fence.create(elsewhere.create);
      const answer = await race<{ verdict: string }>(
        () =>
          how === 'create'
            ? store.create(lane(me, { turn }).create)
            : store.start(idle.start({ expectedHead: idle.firstTurn.id, turn })),
        () => first.fence.settle(elsewhere.settle(turn.id)),
      );
      expect(answer.verdict).toBe('rejected');
      expect(await store.turn(elsewhere.scope, turn.id)).toMatchObject({
        sessionId: elsewhere.sessionId,
        state: 'completed',
      });
      expect(await store.session(idle.scope, idle.sessionId)).toMatchObject({ activeTurnId: null });
    },
  );
});

test('A session whose active turn row is gone can still be claimed', async () => {
  const busy = await busyLane(store, await newWorker(store));
  await observer.query('delete from active_turn where id = $1', [busy.firstTurn.id]);
  await store.declareDead(busy.me);
  const claimed = await store.claim(claimOf(busy, await newWorker(store), 1));
  expect(claimed).toMatchObject({ verdict: 'row', lostTurnId: busy.firstTurn.id });
  expect(await store.turn(busy.scope, busy.firstTurn.id)).toBeNull();
});

test('A worker that is declared dead meanwhile cannot claim the session of its own running turn', async () => {
  // As many at once as there are connections: their calls then overlap in every order, on a loaded machine too.
  for (let round = 0; round < 250; round += 1) {
    const lanes = await Promise.all([1, 2, 3].map(async () => busyLane(store, await newWorker(store))));
    const answers = lanes.map(async (busy) => {
      const claimed = store.claim(claimOf(busy, busy.me, 1));
      await store.declareDead(busy.me);
      return claimed;
    });
    for (const { verdict } of await Promise.all(answers)) expect(['busy', 'fenced']).toContain(verdict);
  }
});

describe('the janitor', () => {
  const step = (kind: PurgeKind) => store.purge({ kind, olderThanHours: 24, limit: 1_000, after: null });
  const older = async (id: string) => {
    await observer.query(`update bridge_session set updated_at = updated_at - interval '2 days' where id = $1`, [id]);
    await observer.query(`update turn set ended_at = ended_at - interval '2 days' where session_id = $1`, [id]);
  };
  const count = async (sql: string, id: string) => (await observer.query<{ n: string }>(sql, [id]))[0]!.n;

  test('The janitor does not wait for a locked row, and deletes it once it is free', async () => {
    const unused = await idleLane(store, await newWorker(store));
    await older(unused.sessionId);
    const used = await idleLane(store, await newWorker(store));
    const failed = used.start({ expectedHead: used.firstTurn.id });
    await store.start(failed);
    await store.settle(used.settle(failed.turn.id, bare('failed')));
    await observer.query(`update turn set ended_at = ended_at - interval '2 days' where id = $1`, [failed.turn.id]);
    const silent = await newWorker(store);
    await observer.query(`update worker set heartbeat_expires_at = now() - interval '2 days' where id = $1`, [silent]);
    const hash = randomUUID();
    await observer.query(`insert into shared_item (scope, hash, data) values ('held', $1, '\\x00')`, [hash]);
    const response = randomUUID();
    await store.keepObjects('held', RESPONSE_KIND, [response]);
    await observer.query(`update provider_object set created_at = now() - interval '2 days' where object_id = $1`, [
      response,
    ]);
    const held: [PurgeKind, string, string][] = [
      ['sessions', 'bridge_session where id =', unused.sessionId],
      ['turns', 'turn where id =', failed.turn.id],
      ['workers', 'worker where id =', silent],
      ['shared', 'shared_item where hash =', hash],
      ['objects', 'provider_object where object_id =', response],
    ];
    await first.begin();
    for (const [, from, id] of held) await first.query(`select from ${from} $1 for update`, [id]);
    for (const [kind, from, id] of held) {
      await step(kind);
      expect([kind, await count(`select count(*) as n from ${from} $1`, id)]).toEqual([kind, '1']);
    }
    await first.rollback();
    for (const [kind, from, id] of held) {
      await step(kind);
      expect([kind, await count(`select count(*) as n from ${from} $1`, id)]).toEqual([kind, '0']);
    }
    expect(await store.turn(used.scope, used.firstTurn.id)).not.toBeNull();
  });

  test('The janitor deletes large items that no turn needs any more, and no others', async () => {
    const large = (n: number) => JSON.stringify({ n, text: 'x'.repeat(SHARED_ABOVE) });
    const made = async (n: number) => {
      const busy = await busyLane(store, await newWorker(store), { scope: 'large' });
      await store.settle(busy.settle(busy.firstTurn.id, completed({ items: { input: [large(n)], output: [] } })));
      return busy;
    };
    const [gone, kept] = [await made(1), await made(2)];
    await older(gone.sessionId);
    await step('sessions');
    const items = () => count('select count(*) as n from shared_item where scope = $1', 'large');
    expect(await items()).toBe('2');
    await step('shared');
    expect(await items()).toBe('1');
    expect((await store.lineage('large', kept.firstTurn.id))[0]!.input).toBe(`[${large(2)}]`);
  });

  test('The janitor returns where it stopped, and continues after that', async () => {
    const hashes = ['1', '2', '3'].map((nth) => `${nth}${randomUUID()}`);
    for (const hash of hashes)
      await observer.query(`insert into shared_item (scope, hash, data) values ('zz', $1, '\\x00')`, [hash]);
    const from = (after: readonly string[]) => store.purge({ kind: 'shared', olderThanHours: 24, limit: 2, after });
    const one = await from(['zz', '']);
    expect(one).toEqual({ removed: { shared: 2 }, after: ['zz', hashes[1]], more: true });
    expect(await from(one.after)).toEqual({ removed: { shared: 1 }, after: ['zz', hashes[2]], more: false });
    expect(await from(['zz', hashes[2]!])).toEqual({ removed: { shared: 0 }, after: ['zz', hashes[2]], more: false });
  });
});

describe('a claim that waits for the row', () => {
  test('A waiting claim does not take the session of an owner whose heartbeat arrived in the meantime', async () => {
    const owner = await newWorker(store);
    const busy = await busyLane(store, owner);
    await store.heartbeat(owner, 'serving', EXPIRED_MS);
    const me = await newWorker(store);
    await first.begin();
    await first.lockSession(busy.sessionId);
    const answer = await race(
      () => store.claim(claimOf(busy, me, 1)),
      () => store.heartbeat(owner, 'serving', LEASE_MS),
    );
    expect(answer).toEqual({ verdict: 'busy' });
    expect(await store.session(busy.scope, busy.sessionId)).toMatchObject({ epoch: 1, ownerWorkerId: owner });
  });

  test('A waiting claim sees a death that was recorded in the meantime', async () => {
    const owner = await newWorker(store);
    const busy = await busyLane(store, owner);
    await store.heartbeat(owner, 'serving', EXPIRED_MS);
    const me = await newWorker(store);
    await first.begin();
    await first.lockSession(busy.sessionId);
    const answer = await race(
      () => store.claim(claimOf(busy, me, 1)),
      () => store.declareExpired(owner),
    );
    expect(answer).toMatchObject({ verdict: 'row', lostTurnId: busy.firstTurn.id });
  });

  test('A waiting claim loses against a start, and marks the started turn as lost when it is repeated', async () => {
    const owner = await newWorker(store);
    const idle = await idleLane(store, owner);
    const me = await newWorker(store);
    const call = idle.start({ expectedHead: idle.firstTurn.id });
    await first.begin();
    expect((await first.fence.start(call)).verdict).toBe('ok');
    expect(await race(() => store.claim(claimOf(idle, me, 2)))).toEqual({ verdict: 'lost_race' });
    await store.declareDead(owner);
    expect(await store.claim(claimOf(idle, me, 3))).toMatchObject({
      verdict: 'row',
      lostTurnId: call.turn.id,
    });
    expect((await store.turn(call.scope, call.turn.id))?.state).toBe('lost');
  });

  test('A waiting claim loses against another claim', async () => {
    const idle = await idleLane(store, await newWorker(store));
    const [winner, loser] = [await newWorker(store), await newWorker(store)];
    await first.begin();
    expect((await first.fence.claim(claimOf(idle, winner, 2))).verdict).toBe('row');
    expect(await race(() => store.claim(claimOf(idle, loser, 2)))).toEqual({ verdict: 'lost_race' });
    expect(await store.session(idle.scope, idle.sessionId)).toMatchObject({ epoch: 2, ownerWorkerId: winner });
  });

  test('A waiting claim wins against another claim that was rolled back', async () => {
    const idle = await idleLane(store, await newWorker(store));
    const me = await newWorker(store);
    await first.begin();
    await first.fence.claim(claimOf(idle, await newWorker(store), 2));
    const answer = store.claim(claimOf(idle, me, 2));
    await waiting(observer);
    await first.rollback();
    expect(await answer).toMatchObject({ verdict: 'row', row: { ownerWorkerId: me, epoch: 2 } });
  });
});

describe('an old owner that waits for the row', () => {
  test('A waiting start of the old owner is fenced by a claim', async () => {
    const idle = await idleLane(store, await newWorker(store));
    await first.begin();
    await first.fence.claim(claimOf(idle, await newWorker(store), 2));
    const call = idle.start({ expectedHead: idle.firstTurn.id });
    expect(await race(() => store.start(call))).toEqual({ verdict: 'fenced' });
    expect(await store.turn(call.scope, call.turn.id)).toBeNull();
  });

  test('A waiting settle of the old owner is recorded as a branch when a claim marked the turn as lost first', async () => {
    const busy = await busyLane(store, await newWorker(store));
    await store.declareDead(busy.me);
    await first.begin();
    await first.fence.claim(claimOf(busy, await newWorker(store), 1));
    expect(await race(() => store.settle(busy.settle(busy.firstTurn.id)))).toEqual({ verdict: 'branch' });
    expect((await store.turn(busy.scope, busy.firstTurn.id))?.state).toBe('completed');
    expect((await store.session(busy.scope, busy.sessionId))?.headTurnId).toBeNull();
  });

  test('A waiting claim keeps the head that the old owner’s settle moved before it', async () => {
    const busy = await busyLane(store, await newWorker(store));
    await store.declareDead(busy.me);
    const me = await newWorker(store);
    await first.begin();
    expect((await first.fence.settle(busy.settle(busy.firstTurn.id))).verdict).toBe('ok');
    expect(await race(() => store.claim(claimOf(busy, me, 1)))).toEqual({ verdict: 'lost_race' });
    expect(await store.claim(claimOf(busy, me, 2))).toMatchObject({
      verdict: 'row',
      lostTurnId: null,
      row: { headTurnId: busy.firstTurn.id },
    });
  });

  test('A waiting late release does not undo a claim', async () => {
    const idle = await idleLane(store, await newWorker(store));
    const me = await newWorker(store);
    await first.begin();
    await first.fence.claim(claimOf(idle, me, 2));
    expect(await race(() => store.release(idle.hold()))).toEqual({ verdict: 'fenced' });
    expect((await store.session(idle.scope, idle.sessionId))?.ownerWorkerId).toBe(me);
  });
});

describe('a close that waits for the row', () => {
  const started = async () => {
    const idle = await idleLane(store, await newWorker(store));
    await first.begin();
    const call = idle.start({ expectedHead: idle.firstTurn.id });
    expect((await first.fence.start(call)).verdict).toBe('ok');
    return { idle, call };
  };

  test('A waiting close leaves a turn running that started in the meantime', async () => {
    const { idle, call } = await started();
    expect(await race(() => store.close(idle.hold('closed')))).toEqual({ verdict: 'busy' });
    expect((await store.session(idle.scope, idle.sessionId))?.activeTurnId).toBe(call.turn.id);
  });

  test('A waiting close does not close a session that another worker claimed in the meantime', async () => {
    const idle = await idleLane(store, await newWorker(store));
    const me = await newWorker(store);
    await first.begin();
    await first.fence.claim(claimOf(idle, me, 2));
    expect(await race(() => store.close(idle.hold('closed')))).toEqual({ verdict: 'fenced' });
    expect(await store.session(idle.scope, idle.sessionId)).toMatchObject({ ownerWorkerId: me, epoch: 2 });
  });

  test('A waiting close of an operator leaves a turn running that started in the meantime', async () => {
    const { idle, call } = await started();
    expect(await race(() => store.dropAnchor(idle.sessionId))).toBe('busy');
    expect(await store.session(idle.scope, idle.sessionId)).toMatchObject({ epoch: 1, activeTurnId: call.turn.id });
  });
});

describe('a start that waits for the row', () => {
  test('A waiting start continues from the head that a settle moved in the meantime', async () => {
    const busy = await busyLane(store, await newWorker(store));
    await first.begin();
    await first.fence.settle(busy.settle(busy.firstTurn.id));
    const call = busy.start({ expectedHead: busy.firstTurn.id });
    expect((await race(() => store.start(call))).verdict).toBe('ok');
  });

  test('A waiting start does not continue from the previous head', async () => {
    const busy = await busyLane(store, await newWorker(store));
    await first.begin();
    await first.fence.settle(busy.settle(busy.firstTurn.id));
    expect(await race(() => store.start(busy.start({ expectedHead: null })))).toEqual({ verdict: 'head_moved' });
  });

  test('A waiting start is its own repeat when the original was committed in the meantime', async () => {
    const idle = await idleLane(store, await newWorker(store));
    const call = idle.start({ expectedHead: idle.firstTurn.id });
    await first.begin();
    await first.fence.start(call);
    expect((await race(() => store.start(call))).verdict).toBe('already');
    expect((await store.session(idle.scope, idle.sessionId))?.revision).toBe(3);
  });

  test('A waiting start gets `ended` when its turn was started and cancelled in the meantime', async () => {
    const idle = await idleLane(store, await newWorker(store));
    const call = idle.start({ expectedHead: idle.firstTurn.id });
    await first.begin();
    await first.fence.start(call);
    await first.fence.settle(idle.settle(call.turn.id, bare('cancelled')));
    expect(await race(() => store.start(call))).toEqual({ verdict: 'ended' });
  });

  test('A waiting start is fenced when its worker was declared dead in the meantime', async () => {
    const idle = await idleLane(store, await newWorker(store));
    await first.begin();
    await first.lockSession(idle.sessionId);
    const answer = await race(
      () => store.start(idle.start({ expectedHead: idle.firstTurn.id })),
      () => store.declareDead(idle.me),
    );
    expect(answer).toEqual({ verdict: 'fenced' });
  });
});

test('A waiting copy of a create is fenced when its turn ended in the meantime', async () => {
  const busy = await busyLane(store, await newWorker(store));
  await first.begin();
  await first.fence.settle(busy.settle(busy.firstTurn.id));
  expect(await race(() => store.create(busy.create))).toEqual({ verdict: 'fenced' });
});

test('A create whose turn is running in another session is refused with the reason', async () => {
  const me = await newWorker(store);
  const { firstTurn: turn } = await busyLane(store, me);
  const refused = await store.create(lane(me, { turn }).create);
  expect(refused).toMatchObject({ verdict: 'rejected', reason: expect.stringContaining('active_turn') });
});

describe('two creates for one key', () => {
  test('A second create finds the key taken once the first commits', async () => {
    const me = await newWorker(store);
    const [winner, loser] = [lane(me, { keys: [key('same')] }), lane(me, { keys: [key('same')] })];
    await first.begin();
    expect((await first.fence.create(winner.create)).verdict).toBe('ok');
    expect(await race(() => store.create(loser.create))).toEqual({ verdict: 'key_taken' });
    expect(await store.session(loser.scope, loser.sessionId)).toBeNull();
    expect(await store.turn(loser.scope, loser.firstTurn.id)).toBeNull();
  });

  test('A second create gets the key when the first is rolled back', async () => {
    const me = await newWorker(store);
    const hard = key();
    await first.begin();
    await first.fence.create(lane(me, { keys: [hard] }).create);
    const answer = store.create(lane(me, { keys: [hard] }).create);
    await waiting(observer);
    await first.rollback();
    expect((await answer).verdict).toBe('ok');
  });

  test('A waiting copy of a create returns the session of the original', async () => {
    const made = lane(await newWorker(store), { keys: [key()] });
    await first.begin();
    await first.fence.create(made.create);
    expect((await race(() => store.create(made.create))).verdict).toBe('already');
  });

  test('A waiting copy of a create does not mistake its own keys for those of another session', async () => {
    const made = lane(await newWorker(store), { keys: [key()] });
    await first.begin();
    await first.fence.create(made.create);
    // The copy has looked for the session without success when it waits here; the keys exist when it continues.
    await first.query('lock table session_key in access exclusive mode');
    expect((await race(() => store.create(made.create))).verdict).toBe('already');
  });
});

describe('declaring a worker dead', () => {
  test('A heartbeat that commits first prevents the death', async () => {
    const id = await newWorker(store, EXPIRED_MS);
    await first.begin();
    await first.query(`select holdfast_heartbeat($1, 'serving', 10000, null, null, null)`, [id]);
    expect(await race(() => store.declareExpired(id))).toEqual({ verdict: 'alive' });
    expect(await store.heartbeat(id, 'serving', LEASE_MS)).toEqual({ verdict: 'ok' });
  });

  test('A heartbeat that restores a row takes over one that another worker is just inserting', async () => {
    const id = randomUUID();
    await first.begin();
    await first.query('select holdfast_declare_expired($1)', [id]);
    const registration = { internalUrl: 'http://a', livenessPath: null, version: '1' };
    const answer = await race(() => store.heartbeat(id, 'draining', LEASE_MS, registration));
    expect(answer).toEqual({ verdict: 'ok', restored: true });
    const found = (await store.workers()).find((worker) => worker.id === id);
    expect(found).toMatchObject({ state: 'draining', ...registration });
    expect(found!.leaseLeftMs).toBeGreaterThan(LEASE_MS / 2);
  });

  test('A lease counts up to the instant at which it ends', async () => {
    const id = await newWorker(store);
    await first.begin();
    await first.query('update worker set heartbeat_expires_at = now() where id = $1', [id]);
    expect(await first.query('select holdfast_declare_expired($1) as answer', [id])).toEqual([
      { answer: { verdict: 'alive' } },
    ]);
    await first.commit();
    expect(await store.declareExpired(id)).toEqual({ verdict: 'dead' });
  });

  test('A death that commits first is final', async () => {
    const id = await newWorker(store, EXPIRED_MS);
    await first.begin();
    await first.query('select holdfast_declare_expired($1)', [id]);
    const registration = { internalUrl: 'http://a', livenessPath: null, version: '1' };
    expect(await race(() => store.heartbeat(id, 'serving', LEASE_MS, registration))).toEqual({ verdict: 'dead' });
  });
});

test('Reads wait for no lock', async () => {
  const idle = await idleLane(store, await newWorker(store));
  await first.begin();
  await first.lockSession(idle.sessionId);
  await first.query('select from turn where session_id = $1 for update', [idle.sessionId]);
  const found = await store.lookup({ scope: 'local', anchor: null, tokenSessionId: idle.sessionId, hardKey: null });
  expect(found.token?.id).toBe(idle.sessionId);
  expect(await store.lineage('local', idle.firstTurn.id)).toHaveLength(1);
  await first.rollback();
});

/**
 * Claims that look right but are wrong: under READ COMMITTED the locked row is read again after the wait, but a joined
 * row, or the snapshot of a sibling, is not. They are kept to show that the race is real.
 */
describe('wrong claims', () => {
  const wrong = {
    'joins the owner': `
      update bridge_session s
         set owner_worker_id = $2, owner_nonce = $3, epoch = s.epoch + 1, active_turn_id = null
        from worker w
       where s.id = $1 and w.id = s.owner_worker_id
         and (s.active_turn_id is null or w.heartbeat_expires_at < now())
      returning s.epoch`,
    'looks for a living owner': `
      update bridge_session s
         set owner_worker_id = $2, owner_nonce = $3, epoch = s.epoch + 1, active_turn_id = null
       where s.id = $1
         and (s.active_turn_id is null or not exists (
           select from worker w where w.id = s.owner_worker_id and w.heartbeat_expires_at > now()))
      returning s.epoch`,
  };

  test.each(Object.entries(wrong))(
    'A claim that %s takes a session from a live owner, in a race in which the real claim is refused',
    async (_, sql) => {
      const robber = await secondConnection(database.url);
      try {
        const owner = await newWorker(store);
        const busy = await busyLane(store, owner);
        await store.heartbeat(owner, 'serving', EXPIRED_MS);
        const thief = await newWorker(store);
        await first.begin();
        // The owner is alive: it settles one turn and starts the next while the claims wait.
        await first.fence.settle(busy.settle(busy.firstTurn.id, completed()));
        const next = busy.start({ expectedHead: busy.firstTurn.id });
        await first.fence.start(next);
        const robbed = robber.query(sql, [busy.sessionId, thief, randomUUID()]);
        await waiting(observer);
        await store.heartbeat(owner, 'serving', LEASE_MS);
        await first.commit();
        expect(await robbed).toHaveLength(1);
        expect((await store.session(busy.scope, busy.sessionId))?.ownerWorkerId).toBe(thief);
        expect((await store.turn(next.scope, next.turn.id))?.state).toBe('active');

        const same = await busyLane(store, owner);
        await store.heartbeat(owner, 'serving', EXPIRED_MS);
        await first.begin();
        await first.lockSession(same.sessionId);
        const refused = await race(
          () => store.claim(claimOf(same, thief, 1)),
          () => store.heartbeat(owner, 'serving', LEASE_MS),
        );
        expect(refused).toEqual({ verdict: 'busy' });
      } finally {
        await robber.end();
      }
    },
  );

  test('A claim that marks the lost turn in a sibling CTE misses a turn that started while it waited', async () => {
    const robber = await secondConnection(database.url);
    try {
      const owner = await newWorker(store);
      const idle = await idleLane(store, owner);
      const me = await newWorker(store);
      await first.begin();
      const call = idle.start({ expectedHead: idle.firstTurn.id });
      await first.fence.start(call);
      const claimed = robber.query(
        `with lost as (
           delete from active_turn
            where id = (select active_turn_id from bridge_session where id = $1) returning id
         )
         update bridge_session
            set owner_worker_id = $2, owner_nonce = $3, epoch = epoch + 1, active_turn_id = null
          where id = $1 and epoch = 1
         returning (select count(*) from lost) as lost`,
        [idle.sessionId, me, randomUUID()],
      );
      await waiting(observer);
      await first.commit();
      expect(await claimed).toEqual([{ lost: '0' }]);
      expect((await store.turn(call.scope, call.turn.id))?.state).toBe('active');
    } finally {
      await robber.end();
    }
  });
});
