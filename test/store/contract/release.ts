import { randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import { busyLane, claimedLane, claimNow, idleLane, key, lane, newWorker } from '../calls.ts';
import type { Subject } from '../contract.ts';

export function releases(given: () => Subject): void {
  test('A released session has no owner and keeps its head', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    expect(await store.release(idle.hold('stale'))).toEqual({ verdict: 'ok' });
    expect(await store.session(idle.scope, idle.sessionId)).toMatchObject({
      state: 'stale',
      snapshot: { value: 'stale' },
      ownerWorkerId: null,
      ownerNonce: null,
      headTurnId: idle.firstTurn.id,
      epoch: 1,
      revision: 3,
    });
  });

  test('A released session can be claimed by any worker', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    await store.release(idle.hold());
    expect(await claimNow(store, idle.sessionId, await newWorker(store))).toMatchObject({
      verdict: 'row',
      row: { epoch: 2 },
    });
  });

  test('After its release a session accepts no call of its old owner', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    await store.release(idle.hold());
    expect(await store.start(idle.start({ expectedHead: idle.firstTurn.id }))).toEqual({ verdict: 'fenced' });
    expect(await store.close(idle.hold())).toEqual({ verdict: 'fenced' });
  });

  test('A release that is repeated after a lost answer writes nothing more', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    await store.release(idle.hold());
    expect(await store.release(idle.hold())).toEqual({ verdict: 'already' });
    expect((await store.session(idle.scope, idle.sessionId))?.revision).toBe(3);
  });

  test('A session with an active turn cannot be released', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    const row = await store.session(busy.scope, busy.sessionId);
    expect(await store.release(busy.hold())).toEqual({ verdict: 'busy' });
    expect(await store.close(busy.hold())).toEqual({ verdict: 'busy' });
    expect(await store.session(busy.scope, busy.sessionId)).toEqual(row);
  });

  test('Release and close are fenced for every other worker', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    const row = await store.session(idle.scope, idle.sessionId);
    for (const other of [
      claimedLane(idle, await newWorker(store), idle.nonce, 1),
      claimedLane(idle, idle.me, randomUUID(), 1),
      claimedLane(idle, idle.me, idle.nonce, 2),
      lane(idle.me),
    ]) {
      expect(await store.release(other.hold())).toEqual({ verdict: 'fenced' });
      expect(await store.close(other.hold())).toEqual({ verdict: 'fenced' });
    }
    expect(await store.session(idle.scope, idle.sessionId)).toEqual(row);
  });

  test('A late release by the old owner does not undo a claim', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    const me = await newWorker(store);
    await claimNow(store, idle.sessionId, me);
    expect(await store.release(idle.hold())).toEqual({ verdict: 'fenced' });
    expect((await store.session(idle.scope, idle.sessionId))?.ownerWorkerId).toBe(me);
  });

  test('A close frees the keys in the same call', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const hard = key();
    const idle = await idleLane(store, me, { keys: [hard] });
    expect(await store.close(idle.hold('stale'))).toEqual({ verdict: 'ok' });
    expect(await store.session(idle.scope, idle.sessionId)).toMatchObject({
      state: 'closed',
      ownerWorkerId: null,
      revision: 3,
    });
    expect((await store.create(lane(me, { keys: [hard] }).create)).verdict).toBe('ok');
  });

  test('A close leaves the keys of other sessions alone', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const hard = key();
    await idleLane(store, me, { keys: [hard] });
    const other = await idleLane(store, me, { keys: [key()] });
    await store.close(other.hold());
    expect((await store.create(lane(me, { keys: [hard] }).create)).verdict).toBe('key_taken');
  });

  test('A close that is repeated after a lost answer writes nothing more', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    await store.close(idle.hold());
    expect(await store.close(idle.hold())).toEqual({ verdict: 'already' });
    expect((await store.session(idle.scope, idle.sessionId))?.revision).toBe(3);
  });

  test('A saved state written by release, close or settle is the one that is read', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const saved = { state: 'stale' as const, snapshot: { at: 'the end' }, machineVersion: 7 };
    const read = async (id: string) => {
      const row = await store.session('local', id);
      return { snapshot: row?.snapshot, machineVersion: row?.machineVersion };
    };
    const written = { snapshot: saved.snapshot, machineVersion: 7 };
    const [released, closed] = [await idleLane(store, me), await idleLane(store, me)];
    await store.release({ ...released.hold(), saved });
    expect(await read(released.sessionId)).toEqual(written);
    await store.close({ ...closed.hold(), saved: { ...saved, state: 'closed' } });
    expect(await read(closed.sessionId)).toEqual(written);
    const settled = await busyLane(store, me);
    await store.settle({ ...settled.settle(settled.firstTurn.id), saved });
    expect(await read(settled.sessionId)).toEqual(written);
  });

  test('An unknown session is fenced for a worker that starts a turn of it or closes it', async () => {
    const { store } = given();
    const unknown = lane(await newWorker(store));
    expect(await store.close(unknown.hold('closed'))).toEqual({ verdict: 'fenced' });
    expect(await store.start(unknown.start())).toEqual({ verdict: 'fenced' });
  });
}
