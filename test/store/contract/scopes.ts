import { randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import { busyLane, completed, idleLane, key, newWorker, turnStart } from '../calls.ts';
import type { Subject } from '../contract.ts';

export function scopes(given: () => Subject): void {
  test('A call that names another scope finds nothing of a session, and changes nothing', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const [idle, busy] = [await idleLane(store, me, { keys: [key()] }), await busyLane(store, me)];
    const rows = () => Promise.all([idle, busy].map(({ scope, sessionId }) => store.session(scope, sessionId)));
    const before = await rows();
    const scope = randomUUID();
    const expectedHead = idle.firstTurn.id;
    expect(await store.start({ ...idle.start({ expectedHead }), scope })).toEqual({ verdict: 'fenced' });
    expect(await store.settle({ ...busy.settle(busy.firstTurn.id), scope })).toEqual({ verdict: 'branch' });
    const { sessionId } = idle;
    const claim = { scope, sessionId, me, nonce: randomUUID(), epochRead: 1, revisionRead: 2 };
    expect(await store.claim(claim)).toEqual({ verdict: 'lost_race' });
    expect(await store.release({ ...idle.hold(), scope })).toEqual({ verdict: 'fenced' });
    expect(await store.close({ ...idle.hold(), scope })).toEqual({ verdict: 'fenced' });
    expect(await store.session(scope, sessionId)).toBeNull();
    expect(await store.turn(scope, busy.firstTurn.id)).toBeNull();
    expect(await rows()).toEqual(before);
    expect(await store.turn(busy.scope, busy.firstTurn.id)).toMatchObject({ state: 'active' });
    expect(await store.keysOf(sessionId)).toHaveLength(1);
  });

  test('The same ids in two scopes are different sessions, turns and responses', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const [sessionId, turn, responseId] = [randomUUID(), turnStart(), `resp_${randomUUID()}`];
    const same = { sessionId, turn, keys: [key()] };
    const one = await busyLane(store, me, { ...same, scope: randomUUID() });
    const other = await busyLane(store, me, { ...same, scope: randomUUID() });
    await store.settle(one.settle(turn.id, completed({ responseId, itemIds: [responseId] })));
    expect(await store.turn(one.scope, turn.id)).toMatchObject({ state: 'completed', scope: one.scope });
    expect(await store.turn(other.scope, turn.id)).toMatchObject({ state: 'active', scope: other.scope });
    expect(await store.session(other.scope, sessionId)).toMatchObject({ activeTurnId: turn.id, revision: 1 });
    await store.settle(other.settle(turn.id, completed({ responseId, itemIds: [responseId] })));
    expect(await store.eraseResponse(one.scope, responseId)).toBe(true);
    const inputs = async (scope: string) => (await store.lineage(scope, turn.id)).map(({ input }) => input !== null);
    expect([await inputs(one.scope), await inputs(other.scope)]).toEqual([[false], [true]]);
    expect(await store.references(one.scope, [responseId])).toEqual([]);
    expect(await store.references(other.scope, [responseId])).toHaveLength(1);
    await store.close(one.hold());
    expect(await store.session(one.scope, sessionId)).toMatchObject({ state: 'closed' });
    expect(await store.session(other.scope, sessionId)).toMatchObject({ state: 'live' });
    const query = { anchor: null, tokenSessionId: null, hardKey: same.keys[0]! };
    expect((await store.lookup({ ...query, scope: one.scope })).keyed).toBeNull();
    expect((await store.lookup({ ...query, scope: other.scope })).keyed?.id).toBe(sessionId);
  });
}
