import { randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import {
  bare,
  busyLane,
  claimedLane,
  claimNow,
  completed,
  EXPIRED_MS,
  idleLane,
  LEASE_MS,
  newWorker,
} from '../calls.ts';
import type { Subject } from '../contract.ts';

export function claims(given: () => Subject): void {
  test('An idle session can be claimed at any time, also from a live owner', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    const me = await newWorker(store);
    const nonce = randomUUID();
    const answer = await store.claim({
      scope: idle.scope,
      sessionId: idle.sessionId,
      me,
      nonce,
      epochRead: 1,
      revisionRead: 2,
    });
    expect(answer).toMatchObject({
      verdict: 'row',
      lostTurnId: null,
      row: {
        epoch: 2,
        revision: 3,
        ownerWorkerId: me,
        ownerNonce: nonce,
        headTurnId: idle.firstTurn.id,
        snapshot: { value: 'live' },
        state: 'stale',
      },
    });
    if (answer.verdict === 'row') expect(await store.session(idle.scope, idle.sessionId)).toEqual(answer.row);
  });

  test('After a claim the new owner continues from the head and the old one is fenced', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    const me = await newWorker(store);
    const nonce = randomUUID();
    await claimNow(store, idle.sessionId, me, nonce);
    const next = claimedLane(idle, me, nonce, 2);
    expect((await store.start(next.start({ expectedHead: idle.firstTurn.id }))).verdict).toBe('ok');
    expect((await store.start(idle.start({ expectedHead: idle.firstTurn.id }))).verdict).toBe('fenced');
    expect((await store.release(idle.hold())).verdict).toBe('fenced');
    expect((await store.close(idle.hold())).verdict).toBe('fenced');
  });

  test('A claim that is repeated after a lost answer is the same claim', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    await store.declareDead(busy.me);
    const call = {
      scope: busy.scope,
      sessionId: busy.sessionId,
      me: await newWorker(store),
      nonce: randomUUID(),
      epochRead: 1,
      revisionRead: 1,
    };
    const first = await store.claim(call);
    expect(first).toMatchObject({ verdict: 'row', lostTurnId: busy.firstTurn.id });
    expect(await store.claim(call)).toEqual(first);
    for (const other of [{ nonce: randomUUID() }, { epochRead: 0 }, { epochRead: 2 }])
      expect(await store.claim({ ...call, ...other })).toEqual({ verdict: 'lost_race' });
  });

  test('A claim loses when the row was written since it was read', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    const base = { scope: idle.scope, sessionId: idle.sessionId, me: await newWorker(store), nonce: randomUUID() };
    for (const [epochRead, revisionRead] of [
      [1, 1],
      [1, 3],
      [0, 2],
      [2, 2],
    ] as const) {
      expect(await store.claim({ ...base, epochRead, revisionRead })).toEqual({ verdict: 'lost_race' });
    }
    expect((await store.session(idle.scope, idle.sessionId))?.epoch).toBe(1);
  });

  test('A busy session can be claimed only after the recorded death of its owner, however long ago the lease expired', async () => {
    const { store } = given();
    const owner = await newWorker(store);
    const busy = await busyLane(store, owner);
    await store.heartbeat(owner, 'serving', EXPIRED_MS);
    const me = await newWorker(store);
    expect(await claimNow(store, busy.sessionId, me)).toEqual({ verdict: 'busy' });
    expect(await store.declareExpired(owner)).toEqual({ verdict: 'dead' });
    expect(await claimNow(store, busy.sessionId, me)).toMatchObject({
      verdict: 'row',
      lostTurnId: busy.firstTurn.id,
      row: { activeTurnId: null, epoch: 2 },
    });
    expect((await store.turn(busy.scope, busy.firstTurn.id))?.state).toBe('lost');
  });

  test('A draining owner still owns its sessions', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    await store.heartbeat(busy.me, 'draining', LEASE_MS);
    expect(await claimNow(store, busy.sessionId, await newWorker(store))).toEqual({ verdict: 'busy' });
  });

  test('A worker reclaims its own session only after it has ended the orphaned turn', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    expect(await claimNow(store, busy.sessionId, busy.me)).toEqual({ verdict: 'busy' });
    await store.settle(busy.settle(busy.firstTurn.id, bare('lost')));
    expect(await claimNow(store, busy.sessionId, busy.me)).toMatchObject({ verdict: 'row', lostTurnId: null });
    expect((await store.settle(busy.settle(busy.firstTurn.id))).verdict).toBe('branch');
  });

  test('An owner without a row gets one with a full lease, and is then judged like any other', async () => {
    const { store, forgetWorker } = given();
    const busy = await busyLane(store, await newWorker(store));
    await forgetWorker(busy.me);
    const me = await newWorker(store);
    expect(await claimNow(store, busy.sessionId, me)).toEqual({ verdict: 'busy' });
    const made = (await store.workers()).find(({ id }) => id === busy.me);
    expect(made).toMatchObject({ state: 'serving', internalUrl: null, version: 'unknown' });
    expect(made!.leaseLeftMs).toBeGreaterThan(5000);
    expect(made!.leaseLeftMs).toBeLessThanOrEqual(10_000);
    expect(await store.declareExpired(busy.me)).toEqual({ verdict: 'alive' });
    await store.declareDead(busy.me);
    expect((await claimNow(store, busy.sessionId, me)).verdict).toBe('row');
  });

  test('A dead or unknown worker cannot claim', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    const dead = await newWorker(store);
    await store.declareDead(dead);
    for (const me of [dead, randomUUID()]) {
      expect(await claimNow(store, idle.sessionId, me)).toEqual({ verdict: 'fenced' });
    }
  });

  test('A closed or unknown session cannot be claimed', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    await store.close(idle.hold());
    const me = await newWorker(store);
    expect(await claimNow(store, idle.sessionId, me)).toEqual({ verdict: 'lost_race' });
    const call = { scope: idle.scope, sessionId: randomUUID(), me, nonce: randomUUID(), epochRead: 1, revisionRead: 1 };
    expect(await store.claim(call)).toEqual({ verdict: 'lost_race' });
  });

  test('Exactly one of many claims based on one read wins', async () => {
    const { store } = given();
    const claimers = await Promise.all(Array.from({ length: 6 }, () => newWorker(store)));
    for (let round = 0; round < 10; round += 1) {
      const idle = await idleLane(store, claimers[0]!);
      const read = { scope: idle.scope, sessionId: idle.sessionId, epochRead: 1, revisionRead: 2 };
      const answers = await Promise.all(claimers.map((me) => store.claim({ ...read, me, nonce: randomUUID() })));
      expect(answers.filter(({ verdict }) => verdict === 'row')).toHaveLength(1);
      expect((await store.session(idle.scope, idle.sessionId))?.epoch).toBe(2);
    }
  });

  test('Concurrent starts of the old and the new owner run one turn: one lineage in any interleaving', async () => {
    const { store } = given();
    const [old, next] = [await newWorker(store), await newWorker(store)];
    for (let round = 0; round < 10; round += 1) {
      const idle = await idleLane(store, old);
      const started = idle.start({ expectedHead: idle.firstTurn.id });
      const [start, claim] = await Promise.all([
        store.start(started),
        store.claim({
          scope: idle.scope,
          sessionId: idle.sessionId,
          me: next,
          nonce: randomUUID(),
          epochRead: 1,
          revisionRead: 2,
        }),
      ]);
      const verdicts = `${start.verdict} ${claim.verdict}`;
      expect(['ok lost_race', 'fenced row']).toContain(verdicts);
      if (start.verdict === 'ok') await store.settle(idle.settle(started.turn.id, completed()));
    }
  });

  test('A claim marks as lost only a turn of its own session', async () => {
    const { store } = given();
    const [dead, alive] = [await newWorker(store), await newWorker(store)];
    const [taken, other] = [await busyLane(store, dead), await busyLane(store, alive)];
    await store.declareDead(dead);
    expect((await claimNow(store, taken.sessionId, alive)).verdict).toBe('row');
    expect((await store.turn(taken.scope, taken.firstTurn.id))?.state).toBe('lost');
    expect((await store.turn(other.scope, other.firstTurn.id))?.state).toBe('active');
  });
}
