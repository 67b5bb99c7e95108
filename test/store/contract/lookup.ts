import { randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import type { Lookup } from '../../../src/store/port.ts';
import { busyLane, claimNow, completed, idleLane, key, newWorker, turnStart } from '../calls.ts';
import type { Subject } from '../contract.ts';

const nothing = { anchor: null, token: null, keyed: null, prefix: null, heads: new Map(), owners: new Map() };
const query = (over: Partial<Lookup>): Lookup => ({
  scope: 'local',
  anchor: null,
  tokenSessionId: null,
  hardKey: null,
  ...over,
});

export function lookups(given: () => Subject): void {
  test('without evidence nothing is found', async () => {
    expect(await given().store.lookup(query({}))).toEqual(nothing);
  });

  test('anchor, token and key each find their own session, with heads and owners', async () => {
    const { store } = given();
    const workers = await Promise.all([newWorker(store), newWorker(store), newWorker(store)]);
    const hard = key();
    const responseId = `resp_${randomUUID()}`;
    const anchored = await busyLane(store, workers[0]!);
    await store.settle(anchored.settle(anchored.firstTurn.id, completed({ responseId })));
    const tokened = await idleLane(store, workers[1]!);
    const keyed = await busyLane(store, workers[2]!, { keys: [hard] });

    const found = await store.lookup(query({ anchor: responseId, tokenSessionId: tokened.sessionId, hardKey: hard }));
    expect(found.anchor?.turn).toEqual(await store.turn(anchored.firstTurn.id));
    expect(found.anchor?.session).toEqual(await store.session(anchored.sessionId));
    expect(found.token).toEqual(await store.session(tokened.sessionId));
    expect(found.keyed).toEqual(await store.session(keyed.sessionId));
    expect([...found.heads.keys()].sort()).toEqual([anchored.firstTurn.id, tokened.firstTurn.id].sort());
    expect(found.heads.get(tokened.firstTurn.id)).toEqual(await store.turn(tokened.firstTurn.id));
    expect([...found.owners.keys()].sort()).toEqual([...workers].sort());
    expect(found.owners.get(workers[0]!)).toMatchObject({ state: 'serving', leaseLeftMs: expect.any(Number) });
  });

  test('an older turn is found as anchor while another turn is the head', async () => {
    const { store } = given();
    const responseId = `resp_${randomUUID()}`;
    const lane = await busyLane(store, await newWorker(store));
    await store.settle(lane.settle(lane.firstTurn.id, completed({ responseId })));
    const next = lane.start({ expectedHead: lane.firstTurn.id, turn: turnStart({ parentTurnId: lane.firstTurn.id }) });
    await store.start(next);
    await store.settle(lane.settle(next.turn.id));
    const found = await store.lookup(query({ anchor: responseId }));
    expect(found.anchor?.turn.id).toBe(lane.firstTurn.id);
    expect([...found.heads.keys()]).toEqual([next.turn.id]);
  });

  test('nothing crosses scopes', async () => {
    const { store } = given();
    const hard = key();
    const responseId = `resp_${randomUUID()}`;
    const lane = await busyLane(store, await newWorker(store), { scope: 'tenant-a', keys: [hard] });
    await store.settle(lane.settle(lane.firstTurn.id, completed({ responseId })));
    const evidence = { anchor: responseId, tokenSessionId: lane.sessionId, hardKey: hard };
    expect(await store.lookup(query({ scope: 'tenant-b', ...evidence }))).toEqual(nothing);
    const own = await store.lookup(query({ scope: 'tenant-a', ...evidence }));
    expect([own.anchor?.session?.id, own.token?.id, own.keyed?.id]).toEqual(Array(3).fill(lane.sessionId));
  });

  test('a closed session is unknown; the turn it ran is not', async () => {
    const { store } = given();
    const hard = key();
    const responseId = `resp_${randomUUID()}`;
    const lane = await busyLane(store, await newWorker(store), { keys: [hard] });
    await store.settle(lane.settle(lane.firstTurn.id, completed({ responseId })));
    await store.close(lane.hold());
    const found = await store.lookup(query({ anchor: responseId, tokenSessionId: lane.sessionId, hardKey: hard }));
    expect(found).toEqual({ ...nothing, anchor: { turn: await store.turn(lane.firstTurn.id), session: null } });
  });

  test('an unowned session has no owner, a session whose owner has no row has none either', async () => {
    const { store, forgetWorker } = given();
    const released = await idleLane(store, await newWorker(store));
    await store.release(released.hold());
    expect((await store.lookup(query({ tokenSessionId: released.sessionId }))).owners.size).toBe(0);
    const orphan = await idleLane(store, await newWorker(store));
    await forgetWorker(orphan.me);
    const found = await store.lookup(query({ tokenSessionId: orphan.sessionId }));
    expect(found.token?.ownerWorkerId).toBe(orphan.me);
    expect(found.owners.size).toBe(0);
  });

  test('the longest prefix that is a turn’s transcript is found, of equals the newest, never an unfinished turn', async () => {
    const { store } = given();
    const scope = `tenant-${randomUUID()}`;
    const lane = await busyLane(store, await newWorker(store), { scope });
    await store.settle(lane.settle(lane.firstTurn.id, completed({ transcriptFp: 'f2', itemCount: 2 })));
    const twin = await busyLane(store, await newWorker(store), { scope });
    await store.settle(twin.settle(twin.firstTurn.id, completed({ transcriptFp: 'f2', itemCount: 2 })));
    const next = lane.start({ expectedHead: lane.firstTurn.id, turn: turnStart({ parentTurnId: lane.firstTurn.id }) });
    await store.start(next);
    const prefixes = [
      { itemCount: 1, transcriptFp: 'f1' },
      { itemCount: 2, transcriptFp: 'f2' },
      { itemCount: 4, transcriptFp: 'f4' },
    ];
    const short = await store.lookup(query({ scope, prefixes }));
    expect(short.prefix?.turn.id).toBe(twin.firstTurn.id);
    expect(short.prefix?.session?.id).toBe(twin.sessionId);
    expect(short.owners.has(twin.me)).toBe(true);
    expect(short.heads.has(twin.firstTurn.id)).toBe(true);
    await store.settle(lane.settle(next.turn.id, completed({ transcriptFp: 'f4', itemCount: 4 })));
    expect((await store.lookup(query({ scope, prefixes }))).prefix?.turn.id).toBe(next.turn.id);
    expect((await store.lookup(query({ scope: 'other', prefixes }))).prefix).toBeNull();
    const wrongCount = [{ itemCount: 3, transcriptFp: 'f4' }];
    expect((await store.lookup(query({ scope, prefixes: wrongCount }))).prefix).toBeNull();
  });

  test('text that no database would take is simply not found', async () => {
    const { store } = given();
    const odd = { anchor: 'a\u0000b', tokenSessionId: 'not a uuid \u0000\ud800' };
    expect(await store.lookup(query(odd))).toEqual(nothing);
    expect(await store.session('x\u0000')).toBeNull();
    expect(await store.turn("'; drop table turn; --")).toBeNull();
  });

  test('what was read does not change under the reader', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    const row = await store.session(idle.sessionId);
    const turn = await store.turn(idle.firstTurn.id);
    const copy = structuredClone({ row, turn });
    await claimNow(store, idle.sessionId, await newWorker(store));
    await store.settle(idle.settle(idle.firstTurn.id));
    expect({ row, turn }).toEqual(copy);
  });
}
