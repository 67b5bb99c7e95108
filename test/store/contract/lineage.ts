import { randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import { arrayText } from '../../../src/json.ts';
import { MOST_REPEATED, type SessionStore } from '../../../src/store/port.ts';
import { bare, busyLane, completed, idleLane, type Lane, newWorker, turnStart } from '../calls.ts';
import type { Subject } from '../contract.ts';

async function oneMoreTurn(store: SessionStore, lane: Lane, head: string, text: string): Promise<string> {
  const call = lane.start({ expectedHead: head, turn: turnStart({ parentTurnId: head }) });
  await store.start(call);
  const items = { input: [JSON.stringify(`${text} in`)], output: [JSON.stringify(`${text} out`)] };
  await store.settle(lane.settle(call.turn.id, completed({ items, forms: `${text} forms` })));
  return call.turn.id;
}

export function lineages(given: () => Subject): void {
  test('A lineage has a turn and its ancestors, root first, across the sessions of a fork', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const origin = await idleLane(store, me);
    const second = await oneMoreTurn(store, origin, origin.firstTurn.id, 'second');
    await oneMoreTurn(store, origin, second, 'third');
    const fork = await busyLane(store, me, { headTurnId: second, turn: turnStart({ parentTurnId: second }) });
    const line = await store.lineage('local', fork.firstTurn.id);
    expect(line.map(({ turn }) => turn.id)).toEqual([origin.firstTurn.id, second, fork.firstTurn.id]);
    expect(line[1]).toEqual({
      turn: await store.turn(origin.scope, second),
      input: '["second in"]',
      output: '["second out"]',
    });
    expect(line[2]).toMatchObject({ input: null, output: null });
    expect(await store.line('local', fork.firstTurn.id)).toEqual([
      { id: origin.firstTurn.id, parentTurnId: null, forms: 'forms' },
      { id: second, parentTurnId: origin.firstTurn.id, forms: 'second forms' },
      { id: fork.firstTurn.id, parentTurnId: second, forms: null },
    ]);
  });

  test('A lineage whose ancestors are gone starts late, and names the missing turn', async () => {
    const { store } = given();
    const missing = randomUUID();
    const lane = await idleLane(store, await newWorker(store), { turn: turnStart({ parentTurnId: missing }) });
    const second = await oneMoreTurn(store, lane, lane.firstTurn.id, 'second');
    expect((await store.lineage('local', second)).map(({ turn }) => turn.parentTurnId)).toEqual([
      missing,
      lane.firstTurn.id,
    ]);
    expect(await store.line('local', second)).toEqual([
      { id: lane.firstTurn.id, parentTurnId: missing, forms: 'forms' },
      { id: second, parentTurnId: lane.firstTurn.id, forms: 'second forms' },
    ]);
  });

  test('Turns that name each other as parents are each returned once, and the lineage ends', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const [one, two] = [randomUUID(), randomUUID()];
    await idleLane(store, me, { turn: turnStart({ id: one, parentTurnId: two }) });
    await idleLane(store, me, { turn: turnStart({ id: two, parentTurnId: one }) });
    expect((await store.line('local', one)).map(({ id }) => id)).toEqual([two, one]);
    expect((await store.lineage('local', one)).map(({ turn }) => turn.id)).toEqual([two, one]);
  });

  test('Items are found by the ids that later requests may refer to, in the newest turns of the scope', async () => {
    const { store } = given();
    const scope = `tenant-${randomUUID()}`;
    const me = await newWorker(store);
    const holding = async (itemIds: readonly string[], over = {}, inScope = scope) => {
      const lane = await busyLane(store, me, { scope: inScope, turn: turnStart(over) });
      const call = lane.settle(lane.firstTurn.id, completed({ itemIds }));
      expect((await store.settle(call)).verdict).toBe('ok');
      return lane.firstTurn.id;
    };
    const old = await holding(['a', 'b', 'a'], { storedUpstream: true, credentialFp: 'old' });
    const fresh = await holding(['c', 'a']);
    await holding(['a', 'd'], {}, `tenant-${randomUUID()}`);
    const row = (itemId: string, turnId: string) =>
      turnId === old
        ? { itemId, turnId, storedUpstream: true, credentialFp: 'old' }
        : { itemId, turnId, storedUpstream: false, credentialFp: 'credential' };
    expect(await store.references(scope, ['b', 'a', 'd', 'a', 'c'])).toEqual([
      row('a', fresh),
      row('c', fresh),
      row('b', old),
      row('a', old),
    ]);
    expect(await store.references(scope, ['d', '', 'x\u0000\ud800'])).toEqual([]);
    expect(await store.references(scope, [])).toEqual([]);
    const newest: string[] = [];
    for (let nth = 0; nth < 6; nth += 1) newest.unshift(await holding(['shared']));
    const found = (await store.references(scope, ['shared'])).map(({ turnId }) => turnId);
    expect(found.length).toBeGreaterThan(1);
    expect(found).toEqual(newest.slice(0, found.length));
    expect(found.length).toBeLessThan(newest.length);
    const many = [...Array.from({ length: 5_000 }, (_, nth) => `none ${nth}`), 'a'];
    expect(await store.references(scope, many)).toEqual([]);
    expect(await store.references(scope, many.reverse())).toHaveLength(2);
  });

  test('Items are returned byte for byte, whatever their content and size', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    const input = [`{"b":1,"a":"\\u0000 \\ud800 \u{1f600}", "n": 1.0 }`];
    const output = Array.from({ length: 40_000 }, (_, n) => JSON.stringify({ n, text: randomUUID() }));
    expect((await store.settle(busy.settle(busy.firstTurn.id, completed({ items: { input, output } })))).verdict).toBe(
      'ok',
    );
    const [only] = await store.lineage('local', busy.firstTurn.id);
    expect(only?.input).toBe(arrayText(input));
    expect(only?.output === arrayText(output)).toBe(true);
  });

  test('Large items are returned byte for byte and in place, beside items of any other kind', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    const large = { type: 'message', role: 'user', content: `${'large \u0000 \ud800 '.repeat(20_000)}` };
    const texts = (items: unknown[]) => items.map((item) => JSON.stringify(item));
    const input = texts([null, { $shared: 'no' }, large, { __proto__x: -0, 3: 1, a: 2 }, large]);
    const output = texts([large]);
    const call = busy.settle(busy.firstTurn.id, completed({ items: { input, output } }));
    expect((await store.settle(call)).verdict).toBe('ok');
    expect((await store.settle(call)).verdict).toBe('already');
    const [only] = await store.lineage('local', busy.firstTurn.id);
    expect(only?.input === arrayText(input)).toBe(true);
    expect(only?.output === arrayText(output)).toBe(true);
    expect(await store.lineage('other', busy.firstTurn.id)).toEqual([]);
  });

  test('A turn whose items were erased stays in the lineage', async () => {
    const { store, eraseItems } = given();
    const lane = await idleLane(store, await newWorker(store));
    const second = await oneMoreTurn(store, lane, lane.firstTurn.id, 'second');
    await eraseItems(lane.scope, lane.firstTurn.id);
    const line = await store.lineage('local', second);
    expect(line.map(({ input }) => input)).toEqual([null, '["second in"]']);
    expect(line[0]?.turn.state).toBe('completed');
  });

  test('The lineage of a turn that is unknown, or known in another scope, is empty', async () => {
    const { store } = given();
    const lane = await idleLane(store, await newWorker(store), { scope: 'tenant-a' });
    expect(await store.lineage('tenant-a', lane.firstTurn.id)).toHaveLength(1);
    expect(await store.lineage('tenant-b', lane.firstTurn.id)).toEqual([]);
    expect(await store.line('tenant-a', lane.firstTurn.id)).toHaveLength(1);
    expect(await store.line('tenant-b', lane.firstTurn.id)).toEqual([]);
    expect(await store.line('tenant-a', `${randomUUID()}\u0000`)).toEqual([]);
    expect(await store.lineage('tenant-a', randomUUID())).toEqual([]);
  });

  test('A lineage never leaves its scope', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const foreign = await idleLane(store, me, { scope: 'tenant-a' });
    const lane = await busyLane(store, me, {
      scope: 'tenant-b',
      turn: turnStart({ parentTurnId: foreign.firstTurn.id }),
    });
    const line = await store.lineage('tenant-b', lane.firstTurn.id);
    expect(line.map(({ turn }) => turn.id)).toEqual([lane.firstTurn.id]);
    expect((await store.line('tenant-b', lane.firstTurn.id)).map(({ id }) => id)).toEqual([lane.firstTurn.id]);
  });

  test('Turns of a session are returned newest first, up to the limit', async () => {
    const { store } = given();
    const lane = await idleLane(store, await newWorker(store));
    const second = await oneMoreTurn(store, lane, lane.firstTurn.id, 'second');
    const third = await oneMoreTurn(store, lane, second, 'third');
    expect((await store.turnsOf(lane.sessionId, 10)).map(({ id }) => id)).toEqual([third, second, lane.firstTurn.id]);
    expect((await store.turnsOf(lane.sessionId, 1)).map(({ id }) => id)).toEqual([third]);
    expect(await store.turnsOf(randomUUID(), 10)).toEqual([]);
  });

  test('Turns of the same request are those of the scope that run or recently ended well, with their workers', async () => {
    const { store } = given();
    const [me, other] = [await newWorker(store), await newWorker(store)];
    const requestFp = `asked ${randomUUID()}`;
    const turn = () => turnStart({ requestFp });
    const ended = await busyLane(store, me, { turn: turn() });
    await store.settle(ended.settle(ended.firstTurn.id, completed()));
    const failed = await busyLane(store, me, { turn: turn() });
    await store.settle(failed.settle(failed.firstTurn.id, bare('failed')));
    await busyLane(store, me, { scope: 'tenant-b', turn: turn() });
    await busyLane(store, me, { turn: turnStart() });
    const running = await busyLane(store, other, { turn: turn() });
    const found = await store.repeated('local', requestFp, 60_000);
    expect(found.map(({ turn: { id, state }, author }) => [id, state, author.id])).toEqual([
      [running.firstTurn.id, 'active', other],
      [ended.firstTurn.id, 'completed', me],
    ]);
    expect(found[0]!.turn).toEqual(await store.turn(running.scope, running.firstTurn.id));
    const { leaseLeftMs: _, leaseUntilMs: __, ...row } = (await store.workers()).find(({ id }) => id === other)!;
    expect(found[0]!.author).toMatchObject(row);
    expect((await store.repeated('local', requestFp, 0)).map((each) => each.turn.id)).toEqual([running.firstTurn.id]);
    expect(await store.repeated('nowhere', requestFp, 60_000)).toEqual([]);
  });

  test('Only the newest turns of the same request are examined', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const requestFp = `asked ${randomUUID()}`;
    const oldest = await busyLane(store, me, { turn: turnStart({ requestFp }) });
    for (let more = 0; more < MOST_REPEATED; more += 1) await busyLane(store, me, { turn: turnStart({ requestFp }) });
    const found = await store.repeated('local', requestFp, 60_000);
    expect(found).toHaveLength(MOST_REPEATED);
    expect(found.map((each) => each.turn.id)).not.toContain(oldest.firstTurn.id);
  });

  test('Sessions are returned newest first, up to the limit', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const older = await idleLane(store, me);
    const newer = await idleLane(store, me);
    expect((await store.sessions(2)).map(({ id }) => id)).toEqual([newer.sessionId, older.sessionId]);
    expect((await store.sessions(1))[0]).toEqual(await store.session(newer.scope, newer.sessionId));
  });

  test('The pepper is long and constant', async () => {
    const { store, another } = given();
    const second = await another();
    expect(await store.pepper()).toMatch(/^[0-9a-f]{64}$/);
    expect(await second.pepper()).toBe(await store.pepper());
    await second.shutdown();
  });
}
