import { expect, test } from 'vitest';
import { StoreUnavailable } from '../../../src/store/port.ts';
import { busyLane, LEASE_MS, lane, newWorker } from '../calls.ts';
import type { Subject } from '../contract.ts';

export function shutdowns(given: () => Subject): void {
  test('A store that was shut down answers unknown, and its reads throw', async () => {
    const { store: first, another } = given();
    const store = await another();
    const me = await newWorker(store);
    const busy = await busyLane(store, me);
    await store.shutdown();
    const made = lane(me);
    for (const answer of [
      store.create(made.create),
      store.start(busy.start()),
      store.settle(busy.settle(busy.firstTurn.id)),
      store.claim({ scope: busy.scope, sessionId: busy.sessionId, me, nonce: 'n', epochRead: 1, revisionRead: 1 }),
      store.release(busy.hold()),
      store.close(busy.hold()),
      store.heartbeat(me, 'serving', LEASE_MS),
      store.declareExpired(me),
      store.declareDead(me),
    ]) {
      expect((await answer).verdict).toBe('unknown');
    }
    await expect(store.session(busy.scope, busy.sessionId)).rejects.toThrow(StoreUnavailable);
    await expect(store.lineage('local', busy.firstTurn.id)).rejects.toThrow(StoreUnavailable);
    expect((await first.session(busy.scope, busy.sessionId))?.activeTurnId).toBe(busy.firstTurn.id);
    expect(await first.session(made.scope, made.sessionId)).toBeNull();
  });
}
