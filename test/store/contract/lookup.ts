import { randomUUID } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { type Lookup, MOST_CANDIDATES, type TurnResult } from '../../../src/store/port.ts';
import { busyLane, claimNow, completed, idleLane, key, type Lane, newWorker, turnStart } from '../calls.ts';
import type { Subject } from '../contract.ts';

const nothing = {
  anchor: null,
  token: null,
  keyed: null,
  candidates: [],
  named: new Set(),
  heads: new Map(),
  owners: new Map(),
};
const query = (over: Partial<Lookup>): Lookup => ({
  scope: 'local',
  anchor: null,
  tokenSessionId: null,
  hardKey: null,
  ...over,
});

export function lookups(given: () => Subject): void {
  test('A look-up without evidence finds nothing', async () => {
    expect(await given().store.lookup(query({}))).toEqual(nothing);
  });

  test('A look-up finds a session for each of anchor, token and key, with heads and owners', async () => {
    const { store } = given();
    const workers = await Promise.all([newWorker(store), newWorker(store), newWorker(store)]);
    const hard = key();
    const responseId = `resp_${randomUUID()}`;
    const anchored = await busyLane(store, workers[0]!);
    await store.settle(anchored.settle(anchored.firstTurn.id, completed({ responseId })));
    const tokened = await idleLane(store, workers[1]!);
    const keyed = await busyLane(store, workers[2]!, { keys: [hard] });

    const found = await store.lookup(query({ anchor: responseId, tokenSessionId: tokened.sessionId, hardKey: hard }));
    expect(found.anchor?.turn).toEqual(await store.turn(anchored.scope, anchored.firstTurn.id));
    expect(found.anchor?.session).toEqual(await store.session(anchored.scope, anchored.sessionId));
    expect(found.token).toEqual(await store.session(tokened.scope, tokened.sessionId));
    expect(found.keyed).toEqual(await store.session(keyed.scope, keyed.sessionId));
    expect([...found.heads.keys()].sort()).toEqual([anchored.firstTurn.id, tokened.firstTurn.id].sort());
    expect(found.heads.get(tokened.firstTurn.id)).toEqual(await store.turn(tokened.scope, tokened.firstTurn.id));
    expect([...found.owners.keys()].sort()).toEqual([...workers].sort());
    expect(found.owners.get(workers[0]!)).toMatchObject({ state: 'serving', leaseLeftMs: expect.any(Number) });
  });

  test('A look-up finds an older turn as anchor while another turn is the head', async () => {
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

  test('A look-up never crosses scopes', async () => {
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

  test('A look-up does not find a closed session, but finds the turn it ran', async () => {
    const { store } = given();
    const hard = key();
    const responseId = `resp_${randomUUID()}`;
    const lane = await busyLane(store, await newWorker(store), { keys: [hard] });
    await store.settle(lane.settle(lane.firstTurn.id, completed({ responseId })));
    await store.close(lane.hold());
    const found = await store.lookup(query({ anchor: responseId, tokenSessionId: lane.sessionId, hardKey: hard }));
    expect(found).toEqual({
      ...nothing,
      anchor: { turn: await store.turn(lane.scope, lane.firstTurn.id), session: null },
    });
  });

  test('A look-up returns no owner for an unowned session, nor for an owner without a row', async () => {
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

  describe('by place', () => {
    const ended = async (scope: string, over: Partial<TurnResult>, me?: string): Promise<Lane> => {
      const { store } = given();
      const lane = await busyLane(store, me ?? (await newWorker(store)), { scope });
      const result = completed({ transcriptFp: null, ...over });
      expect((await store.settle(lane.settle(lane.firstTurn.id, result))).verdict).toBe('ok');
      return lane;
    };
    const newScope = () => `tenant-${randomUUID()}`;
    const candidatesOf = async (scope: string, places: readonly string[]) =>
      (await given().store.lookup(query({ scope, places }))).candidates;
    const idsOf = async (scope: string, places: readonly string[]) =>
      (await candidatesOf(scope, places)).map(({ turn }) => turn.id);

    test('A turn is found by its output as streamed, as listed, and by a reference to its last item', async () => {
      const { store } = given();
      const scope = newScope();
      const lane = await ended(scope, { transcriptFp: 'streamed', secondFp: 'listed', thirdFp: 'reference' });
      const turn = await store.turn(lane.scope, lane.firstTurn.id);
      for (const place of ['streamed', 'listed', 'reference']) {
        const found = await store.lookup(query({ scope, places: [place] }));
        expect(found.candidates).toEqual([{ turn, session: await store.session(lane.scope, lane.sessionId) }]);
        expect([...found.heads.keys()]).toEqual([lane.firstTurn.id]);
        expect([...found.owners.keys()]).toEqual([lane.me]);
      }
      expect(await idsOf(scope, ['client', 'forms', ''])).toEqual([]);
      expect(await idsOf(scope, [])).toEqual([]);
    });

    test('The deepest place comes first, then the newest turn, and each turn once at its deepest place', async () => {
      const scope = newScope();
      const me = await newWorker(given().store);
      const shallow = await ended(scope, { transcriptFp: 'p1' }, me);
      const deepOld = await ended(scope, { thirdFp: 'p3' }, me);
      const middle = await ended(scope, { secondFp: 'p2', transcriptFp: 'p1' }, me);
      const deepNew = await ended(scope, { transcriptFp: 'p3', secondFp: 'p2', thirdFp: 'p1' }, me);
      const inOrder = [deepNew, deepOld, middle, shallow].map(({ firstTurn }) => firstTurn.id);
      expect(await idsOf(scope, ['p3', 'unknown', 'p2', 'p1', 'p3'])).toEqual(inOrder);
      expect(await idsOf(scope, ['p1', 'p2', 'p3'])).toEqual(
        [deepNew, middle, shallow, deepOld].map(({ firstTurn }) => firstTurn.id),
      );
    });

    test('The number of candidates is limited, with the newest at a shared place', async () => {
      const scope = newScope();
      const me = await newWorker(given().store);
      const made: string[] = [];
      for (let nth = 0; nth < MOST_CANDIDATES + 3; nth += 1) {
        const fps = { transcriptFp: 'same', secondFp: 'alike', thirdFp: 'also' };
        made.unshift((await ended(scope, nth === 0 ? { transcriptFp: 'deep' } : fps, me)).firstTurn.id);
      }
      expect(await idsOf(scope, ['same'])).toEqual(made.slice(0, MOST_CANDIDATES));
      const deepest = made.at(-1)!;
      expect(await idsOf(scope, ['deep', 'alike', 'same', 'also'])).toEqual([
        deepest,
        ...made.slice(0, MOST_CANDIDATES - 1),
      ]);
      const many = [...Array.from({ length: 254 }, (_, nth) => `none ${nth}`), 'also', 'deep'];
      expect(await idsOf(scope, many)).toEqual(made.slice(0, MOST_CANDIDATES));
    });

    test('Candidates that were already returned are omitted, and others follow', async () => {
      const scope = newScope();
      const me = await newWorker(given().store);
      const made: string[] = [];
      for (let nth = 0; nth < MOST_CANDIDATES + 3; nth += 1) {
        made.unshift((await ended(scope, { transcriptFp: 'same', secondFp: 'alike' }, me)).firstTurn.id);
      }
      const besides = made.slice(0, MOST_CANDIDATES);
      const next = await given().store.lookup(query({ scope, places: ['alike', 'same'], besides }));
      expect(next.candidates.map(({ turn }) => turn.id)).toEqual(made.slice(MOST_CANDIDATES));
      expect((await given().store.lookup(query({ scope, places: ['same'], besides: made }))).candidates).toEqual([]);
    });

    test('A session with a hard key is distinguished from one without', async () => {
      const { store } = given();
      const scope = newScope();
      const me = await newWorker(store);
      const keyed = await busyLane(store, me, { scope, keys: [key()] });
      await store.settle(keyed.settle(keyed.firstTurn.id, completed({ transcriptFp: 'p' })));
      await ended(scope, { transcriptFp: 'p' }, me);
      const found = await store.lookup(query({ scope, places: ['p'] }));
      expect(found.candidates).toHaveLength(2);
      expect([...found.named]).toEqual([keyed.sessionId]);
    });

    test('A turn that runs, failed or was lost is no candidate, and an incomplete one is', async () => {
      const { store } = given();
      const scope = newScope();
      const me = await newWorker(store);
      for (const state of ['failed', 'cancelled', 'lost'] as const) {
        await ended(scope, { transcriptFp: 'p', secondFp: 'p', thirdFp: 'p', state }, me);
      }
      await busyLane(store, me, { scope });
      expect(await idsOf(scope, ['p'])).toEqual([]);
      const incomplete = await ended(scope, { transcriptFp: 'p', state: 'incomplete' }, me);
      expect(await idsOf(scope, ['p'])).toEqual([incomplete.firstTurn.id]);
    });

    test('A turn of a closed session is returned without the session, beside one whose session is open', async () => {
      const { store } = given();
      const scope = newScope();
      const open = await ended(scope, { transcriptFp: 'p' });
      const closed = await ended(scope, { secondFp: 'p' });
      await store.close(closed.hold());
      const found = await store.lookup(query({ scope, places: ['p'] }));
      expect(found.candidates.map(({ turn, session }) => [turn.id, session?.id ?? null])).toEqual([
        [closed.firstTurn.id, null],
        [open.firstTurn.id, open.sessionId],
      ]);
      expect([...found.heads.keys()]).toEqual([open.firstTurn.id]);
      expect([...found.owners.keys()]).toEqual([open.me]);
    });

    test('A look-up by place finds nothing of another scope', async () => {
      const scope = newScope();
      await ended(scope, { transcriptFp: 'p', secondFp: 'q', thirdFp: 'r' });
      expect(await idsOf(scope, ['p', 'q', 'r'])).toHaveLength(1);
      expect(await given().store.lookup(query({ scope: newScope(), places: ['p', 'q', 'r'] }))).toEqual(nothing);
    });

    test('Several turns of one session come with one session row, and beside anchor, token and key', async () => {
      const { store } = given();
      const scope = newScope();
      const hard = key();
      const responseId = `resp_${randomUUID()}`;
      const lane = await busyLane(store, await newWorker(store), { scope, keys: [hard] });
      await store.settle(lane.settle(lane.firstTurn.id, completed({ transcriptFp: 'p1', responseId })));
      const turn = turnStart({ parentTurnId: lane.firstTurn.id });
      await store.start(lane.start({ expectedHead: lane.firstTurn.id, turn }));
      await store.settle(lane.settle(turn.id, completed({ transcriptFp: 'p2' })));
      const evidence = { anchor: responseId, tokenSessionId: lane.sessionId, hardKey: hard };
      const found = await store.lookup(query({ scope, ...evidence, places: ['p2', 'p1'] }));
      const session = await store.session(lane.scope, lane.sessionId);
      expect(found.candidates).toEqual([
        { turn: await store.turn(scope, turn.id), session },
        { turn: await store.turn(lane.scope, lane.firstTurn.id), session },
      ]);
      expect([found.anchor, found.token, found.keyed]).toEqual([
        { turn: await store.turn(lane.scope, lane.firstTurn.id), session },
        session,
        session,
      ]);
    });
  });

  test('Text that no database can store is not found, without an error', async () => {
    const { store } = given();
    const odd = { anchor: 'a\u0000b', tokenSessionId: 'not a uuid \u0000\ud800' };
    expect(await store.lookup(query(odd))).toEqual(nothing);
    expect(await store.session('local', 'x\u0000')).toBeNull();
    expect(await store.turn('local', "'; drop table turn; --")).toBeNull();
  });

  test('The result of a look-up does not change later', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    const row = await store.session(idle.scope, idle.sessionId);
    const turn = await store.turn(idle.scope, idle.firstTurn.id);
    const copy = structuredClone({ row, turn });
    await claimNow(store, idle.sessionId, await newWorker(store));
    await store.settle(idle.settle(idle.firstTurn.id));
    expect({ row, turn }).toEqual(copy);
  });
}
