import { randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import { bare, busyLane, claimNow, idleLane, newWorker, saved, turnStart } from '../calls.ts';
import type { Subject } from '../contract.ts';

export function starts(given: () => Subject): void {
  test('A start on an idle session at the expected head activates the turn, and changes no other session', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    const other = await idleLane(store, idle.me);
    const row = await store.session(other.scope, other.sessionId);
    const head = idle.firstTurn.id;
    const call = idle.start({ expectedHead: head, turn: turnStart({ parentTurnId: head, shape: 'delta' }) });
    expect(await store.start(call)).toEqual({ verdict: 'ok', revision: 3, leaseLeftMs: expect.any(Number) });
    expect(await store.session(idle.scope, idle.sessionId)).toMatchObject({
      activeTurnId: call.turn.id,
      headTurnId: head,
      revision: 3,
      epoch: 1,
    });
    expect(await store.turn(call.scope, call.turn.id)).toMatchObject({
      state: 'active',
      parentTurnId: head,
      shape: 'delta',
    });
    expect(await store.session(other.scope, other.sessionId)).toEqual(row);
  });

  test('The row shows the saved state of the start', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    const shown = { ...saved('reconnecting'), machineVersion: 7 };
    await store.start(idle.start({ expectedHead: idle.firstTurn.id, saved: shown }));
    expect(await store.session(idle.scope, idle.sessionId)).toMatchObject(shown);
  });

  test('A start that is repeated after a lost answer is the same start', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    const call = idle.start({ expectedHead: idle.firstTurn.id });
    await store.start(call);
    expect(await store.start(call)).toEqual({ verdict: 'already', revision: 3, leaseLeftMs: expect.any(Number) });
    expect((await store.session(idle.scope, idle.sessionId))?.revision).toBe(3);
  });

  test('A late copy of a start never reactivates an ended turn', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    const call = idle.start({ expectedHead: idle.firstTurn.id });
    await store.start(call);
    await store.settle(idle.settle(call.turn.id, bare('cancelled')));
    const before = await store.session(idle.scope, idle.sessionId);
    expect(await store.start(call)).toEqual({ verdict: 'ended' });
    expect(await store.session(idle.scope, idle.sessionId)).toEqual(before);
    expect((await store.turn(call.scope, call.turn.id))?.state).toBe('cancelled');
  });

  test('A session runs one turn at a time', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    const call = busy.start();
    expect(await store.start(call)).toEqual({ verdict: 'busy' });
    expect(await store.turn(call.scope, call.turn.id)).toBeNull();
  });

  test('A start at a head other than the expected one gets `head_moved`', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    for (const expectedHead of [null, randomUUID()]) {
      const call = idle.start({ expectedHead });
      expect(await store.start(call)).toEqual({ verdict: 'head_moved' });
      expect(await store.turn(call.scope, call.turn.id)).toBeNull();
    }
  });

  test('A start by another worker, nonce or epoch is fenced, and so is one of an unknown session', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    const expectedHead = idle.firstTurn.id;
    for (const over of [
      { me: await newWorker(store) },
      { nonce: randomUUID() },
      { epoch: 0 },
      { epoch: 2 },
      { sessionId: randomUUID() },
    ]) {
      const call = idle.start({ expectedHead, ...over });
      expect(await store.start(call)).toEqual({ verdict: 'fenced' });
      expect(await store.turn(call.scope, call.turn.id)).toBeNull();
    }
  });

  test('A dead worker cannot start, though it still owns the session', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    await store.declareDead(idle.me);
    const call = idle.start({ expectedHead: idle.firstTurn.id });
    expect(await store.start(call)).toEqual({ verdict: 'fenced' });
  });

  test('A worker without a row cannot start', async () => {
    const { store, forgetWorker } = given();
    const idle = await idleLane(store, await newWorker(store));
    await forgetWorker(idle.me);
    expect(await store.start(idle.start({ expectedHead: idle.firstTurn.id }))).toEqual({ verdict: 'fenced' });
  });

  test('After a claim the old owner is fenced even with its own turn id', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    await claimNow(store, idle.sessionId, await newWorker(store));
    expect(await store.start(idle.start({ expectedHead: idle.firstTurn.id }))).toEqual({ verdict: 'fenced' });
  });
}
