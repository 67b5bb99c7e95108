import { createHash, randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import type { TurnMetrics } from '../../../src/store/port.ts';
import { busyLane, claimNow, completed, idleLane, key, type Lane, newWorker, sweepAll, turnStart } from '../calls.ts';
import type { Subject } from '../contract.ts';

export function administration(given: () => Subject): void {
  test('Sessions are listed with the most recently changed first, page by page', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const state = 'reconnecting' as const;
    const { total: others } = await store.listSessions({ limit: 1, state });
    const made: string[] = [];
    for (let index = 0; index < 5; index += 1) {
      const lane = await idleLane(store, me);
      await store.release(lane.hold(state));
      made.unshift(lane.sessionId);
    }
    const seen: string[] = [];
    let before: { updatedAt: string; id: string } | undefined;
    for (;;) {
      const page = await store.listSessions({ limit: 2, state, before });
      expect(page.total).toBe(others + 5);
      seen.push(...page.rows.map(({ id }) => id));
      const last = page.rows.at(-1)!;
      before = { updatedAt: last.updatedAt, id: last.id };
      if (!page.more) break;
    }
    expect(seen.slice(0, 5).toSorted()).toEqual(made.toSorted());
    expect(new Set(seen).size).toBe(others + 5);
  });

  test('A session whose facts hold escapes that database text cannot hold is listed', async () => {
    const { store } = given();
    const lane = await busyLane(store, await newWorker(store));
    const facts = { outcome: 'a\u0000\ud800', form: 'full' } as TurnMetrics;
    await store.settle(lane.settle(lane.firstTurn.id, completed({ facts })));
    const { rows } = await store.listSessions({ limit: 1, search: lane.sessionId });
    expect(rows[0]!.lastTurn).toEqual({ state: 'completed', outcome: facts.outcome, form: 'full' });
  });

  test('The time of a session’s last change is known, whatever changed it', async () => {
    const { store, age } = given();
    const me = await newWorker(store);
    const made = await busyLane(store, me);
    const second = turnStart({ parentTurnId: made.firstTurn.id });
    const released = await idleLane(store, me);
    const closed = await idleLane(store, me);
    const steps: [string, Lane, () => Promise<unknown>][] = [
      ['settle', made, () => store.settle(made.settle(made.firstTurn.id))],
      ['start', made, () => store.start(made.start({ expectedHead: made.firstTurn.id, turn: second }))],
      ['settle again', made, () => store.settle(made.settle(second.id))],
      ['drop anchor', made, () => store.dropAnchor(made.sessionId)],
      ['claim', made, () => claimNow(store, made.sessionId, me)],
      ['operator release', made, () => store.operatorRelease(made.sessionId)],
      ['operator close', made, () => store.operatorClose(made.sessionId)],
      ['release', released, () => store.release(released.hold())],
      ['close', closed, () => store.close(closed.hold('closed'))],
    ];
    for (const [name, { sessionId }, step] of steps) {
      const updatedAt = async () =>
        Date.parse((await store.listSessions({ limit: 1, search: sessionId })).rows[0]!.updatedAt);
      await age(2);
      const before = await updatedAt();
      await step();
      expect([name, (await updatedAt()) - before > 3_600_000]).toEqual([name, true]);
    }
  });

  test('A session is found by its id, a turn, a response or the hash of a key, with its turns and keys', async () => {
    const { store } = given();
    const hard = key();
    const responseId = `resp_${randomUUID()}`;
    const lane = await busyLane(store, await newWorker(store), { keys: [hard] });
    await store.settle(lane.settle(lane.firstTurn.id, completed({ responseId, usage: { input_tokens: 7 } })));
    for (const search of [lane.sessionId, lane.firstTurn.id, responseId, hard.hash]) {
      const { rows, total } = await store.listSessions({ limit: 9, search });
      expect([total, rows.map(({ id }) => id)]).toEqual([1, [lane.sessionId]]);
      expect(rows[0]).toMatchObject({ turnCount: 1, createdAt: expect.any(String), headTurnId: lane.firstTurn.id });
    }
    expect((await store.listSessions({ limit: 9, search: "' or 1=1 \u0000" })).total).toBe(0);
    const [turn] = await store.turnDetails(lane.sessionId, 9);
    expect(turn).toMatchObject({ id: lane.firstTurn.id, responseId, usage: { input_tokens: 7 }, branched: false });
    expect(turn!.inputBytes).toBeGreaterThan(0);
    expect(await store.keysOf(lane.sessionId)).toEqual([hard]);
  });

  test('Ids are found by their beginning, in every kind, and by nothing else', async () => {
    const { store } = given();
    const responseId = `resp_${randomUUID()}`;
    const lane = await busyLane(store, await newWorker(store));
    await store.settle(lane.settle(lane.firstTurn.id, completed({ responseId })));
    const running = await busyLane(store, await newWorker(store));
    for (const { id, sessionId } of [
      { id: lane.sessionId, sessionId: lane.sessionId },
      { id: lane.firstTurn.id, sessionId: lane.sessionId },
      { id: responseId, sessionId: lane.sessionId },
      { id: running.firstTurn.id, sessionId: running.sessionId },
    ]) {
      for (const beginning of [id, id.slice(0, 12), id.slice(0, -1)]) {
        expect(await store.idsBeginning(beginning, 5), beginning).toEqual([{ id, sessionId }]);
      }
    }
    for (const beginning of ['%', '_', `${lane.sessionId}0`, "' or 1=1 \u0000"]) {
      expect(await store.idsBeginning(beginning, 5)).toEqual([]);
    }
  });

  test('A session is found by the key itself, and sessions by their owner', async () => {
    const { store } = given();
    const thread = randomUUID();
    const me = await newWorker(store);
    const lane = await idleLane(store, me, { keys: [key(createHash('sha256').update(thread).digest('hex'))] });
    const other = await idleLane(store, await newWorker(store));
    expect((await store.listSessions({ limit: 9, search: thread })).rows.map(({ id }) => id)).toEqual([lane.sessionId]);
    const owned = await store.listSessions({ limit: 9, ownerWorkerId: other.me });
    expect([owned.total, owned.rows.map(({ id }) => id)]).toEqual([1, [other.sessionId]]);
    const busy = await busyLane(store, other.me);
    const running = await store.listSessions({ limit: 9, ownerWorkerId: other.me, busy: true });
    expect(running.rows.map(({ id }) => id)).toEqual([busy.sessionId]);
    const counts = await store.ownedSessions();
    expect(counts.find(({ workerId }) => workerId === busy.me)).toEqual({ workerId: busy.me, sessions: 2, busy: 1 });
  });

  test('The facts of a turn are stored once, and the list shows the last turn', async () => {
    const { store } = given();
    const lane = await busyLane(store, await newWorker(store));
    const facts: TurnMetrics = {
      ...{ outcome: 'live_reuse', form: 'delta', bytesFromClient: 900, bytesSent: 100, creates: 1, fault: null },
      ...{ upstreamStatus: null, heldMs: 3, firstEventMs: 40, totalMs: 90 },
    };
    const row = async () => (await store.listSessions({ limit: 1, search: lane.sessionId })).rows[0]!;
    expect((await row()).lastTurn).toEqual({ state: 'active', outcome: null, form: null });
    const call = lane.settle(lane.firstTurn.id, completed({ facts }));
    expect((await store.settle(call)).verdict).toBe('ok');
    expect((await store.settle({ ...call, result: { ...call.result, facts: null } })).verdict).toBe('already');
    expect((await store.turnDetails(lane.sessionId, 9))[0]!.facts).toEqual(facts);
    expect((await row()).lastTurn).toEqual({ state: 'completed', outcome: 'live_reuse', form: 'delta' });
  });

  test('A worker that took a session over cannot write facts of its predecessor’s turn', async () => {
    const { store } = given();
    const lane = await busyLane(store, await newWorker(store));
    await store.declareDead(lane.me);
    const me = await newWorker(store);
    await claimNow(store, lane.sessionId, me);
    const foreign = { ...lane.settle(lane.firstTurn.id, completed({ facts: {} as TurnMetrics })), me };
    expect((await store.settle(foreign)).verdict).toBe('branch');
    expect((await store.turnDetails(lane.sessionId, 9))[0]).toMatchObject({ state: 'lost', facts: null });
  });

  test('Ended turns of all sessions are listed, the last one first, by time, author and failure', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const facts = { outcome: 'created', form: 'full' } as TurnMetrics;
    const ended: { id: string; sessionId: string }[] = [];
    for (const state of ['completed', 'failed', 'completed', 'lost'] as const) {
      const lane = await busyLane(store, me);
      await store.settle(lane.settle(lane.firstTurn.id, completed({ state, facts, replay: 'never', items: null })));
      ended.unshift({ id: lane.firstTurn.id, sessionId: lane.sessionId });
    }
    const running = await busyLane(store, me);
    const day = { withinMs: 86_400_000 };
    const mine = { ...day, authors: [me] };
    const all = await store.turnsEnded({ ...mine, limit: 9 });
    expect(new Set(all.map(({ id }) => id))).toEqual(new Set(ended.map(({ id }) => id)));
    expect(all.map(({ id }) => id)).not.toContain(running.firstTurn.id);
    expect(all.map(({ endedAt }) => endedAt)).toEqual(
      all
        .map(({ endedAt }) => endedAt)
        .toSorted()
        .reverse(),
    );
    expect(all.every(({ ageMs }) => ageMs >= 0 && ageMs < 600_000)).toBe(true);
    expect(all[0]).toMatchObject({ authorWorkerId: me, facts, model: expect.anything() });
    const paged: string[] = [];
    for (let before: { endedAt: string; id: string } | undefined; ; ) {
      const page = await store.turnsEnded({ ...mine, limit: 3, before });
      paged.push(...page.map(({ id }) => id));
      if (page.length < 3) break;
      before = page.at(-1)!;
    }
    expect(paged).toEqual(all.map(({ id }) => id));
    const failed = await store.turnsEnded({ ...mine, limit: 9, failed: true });
    expect(failed.map(({ state }) => state).toSorted()).toEqual(['failed', 'lost']);
    expect(await store.turnsEnded({ ...mine, olderMs: 43_200_000, limit: 9 })).toEqual([]);
    expect(await store.turnsEnded({ ...day, authors: ['unknown'], limit: 9 })).toEqual([]);
  });

  test('Sessions are found by a prefix of their id, of a turn’s id and of a key’s hash', async () => {
    const { store } = given();
    const hash = createHash('sha256').update(randomUUID()).digest('hex');
    const lane = await idleLane(store, await newWorker(store), { keys: [key(hash)] });
    const found = async (search: string) => (await store.listSessions({ limit: 99, search })).rows.map(({ id }) => id);
    for (const whole of [lane.sessionId, lane.firstTurn.id, hash]) {
      for (const length of [8, 12, whole.length]) expect(await found(whole.slice(0, length))).toEqual([lane.sessionId]);
      expect(await found(whole.slice(0, 3))).toEqual([]);
    }
  });

  test('Forks of a session are listed with the turns at which they begin', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const lane = await idleLane(store, me);
    const turn = turnStart({ parentTurnId: lane.firstTurn.id });
    const fork = await busyLane(store, me, { headTurnId: lane.firstTurn.id, turn });
    expect(await store.forksOf(lane.sessionId, 9)).toEqual([
      { turnId: turn.id, sessionId: fork.sessionId, parentTurnId: lane.firstTurn.id, state: 'active' },
    ]);
    expect(await store.forksOf(fork.sessionId, 9)).toEqual([]);
  });

  test.each(['operatorRelease', 'operatorClose', 'dropAnchor'] as const)(
    '%s fences the owner of an idle session',
    async (act) => {
      const { store } = given();
      const [hard, others] = [key(), key()];
      const lane = await idleLane(store, await newWorker(store), { keys: [hard] });
      const other = await idleLane(store, lane.me, { keys: [others] });
      const untouched = await store.session(other.scope, other.sessionId);
      expect(await store[act](lane.sessionId)).toBe('ok');
      expect(await store.session(other.scope, other.sessionId)).toEqual(untouched);
      expect(await store.keysOf(other.sessionId)).toEqual([others]);
      const next = lane.start({ expectedHead: lane.firstTurn.id, turn: turnStart() });
      expect((await store.start(next)).verdict).toBe('fenced');
      const row = (await store.session(lane.scope, lane.sessionId))!;
      const state = act === 'operatorClose' ? 'closed' : 'stale';
      expect(row).toMatchObject({ ownerWorkerId: null, epoch: 2, revision: 3, state });
      expect(await store.keysOf(lane.sessionId)).toEqual(act === 'operatorClose' ? [] : [hard]);
      const claimed = await claimNow(store, lane.sessionId, await newWorker(store));
      expect(claimed.verdict).toBe(act === 'operatorClose' ? 'lost_race' : 'row');
      await store.operatorClose(lane.sessionId);
      expect(await store[act](lane.sessionId)).toBe('missing');
    },
  );

  test.each(['operatorRelease', 'operatorClose', 'dropAnchor'] as const)(
    '%s leaves a busy session alone',
    async (act) => {
      const { store } = given();
      const lane = await busyLane(store, await newWorker(store));
      const before = await store.session(lane.scope, lane.sessionId);
      expect(await store[act](lane.sessionId)).toBe('busy');
      expect(await store.session(lane.scope, lane.sessionId)).toEqual(before);
      expect(await store[act](randomUUID())).toBe('missing');
    },
  );

  test('A dropped anchor no longer counts as stored upstream, and no other turn is changed', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const made = () => idleLane(store, me, { turn: turnStart({ storedUpstream: true }) });
    const [dropped, released, other] = [await made(), await made(), await made()];
    await store.dropAnchor(dropped.sessionId);
    await store.operatorRelease(released.sessionId);
    const stored = async (lane: Lane) => (await store.turn(lane.scope, lane.firstTurn.id))!.storedUpstream;
    expect([await stored(dropped), await stored(released), await stored(other)]).toEqual([false, true, true]);
  });

  test('An erased response keeps its id and no content', async () => {
    const { store } = given();
    const responseId = `resp_${randomUUID()}`;
    const lane = await busyLane(store, await newWorker(store));
    const itemIds = [`msg_${randomUUID()}`];
    await store.settle(lane.settle(lane.firstTurn.id, completed({ responseId, itemIds, secondFp: responseId })));
    expect(await store.references('local', itemIds)).toHaveLength(1);
    expect(await store.eraseResponse('other', responseId)).toBe(false);
    expect(await store.eraseResponse('local', responseId)).toBe(true);
    const [only] = await store.lineage('local', lane.firstTurn.id);
    expect(only).toMatchObject({ input: null, output: null });
    expect(only!.turn).toMatchObject({ responseId, replay: 'never' });
    expect(await store.references('local', itemIds)).toEqual([]);
    expect(await store.line('local', lane.firstTurn.id)).toEqual([
      { id: lane.firstTurn.id, parentTurnId: null, forms: null },
    ]);
    const where = { scope: 'local', anchor: null, tokenSessionId: null, hardKey: null, places: [responseId] };
    expect((await store.lookup(where)).candidates.map(({ turn }) => turn.id)).toEqual([lane.firstTurn.id]);
  });

  test('The first story of a turn is kept, and the newest of a session is returned', async () => {
    const { store } = given();
    const lane = await idleLane(store, await newWorker(store));
    expect(await store.story(lane.sessionId)).toBeNull();
    await store.keepStory(lane.sessionId, 'turn-1', { told: 1 });
    await store.keepStory(lane.sessionId, 'turn-1', { told: 'again' });
    expect(await store.story(lane.sessionId)).toEqual({ told: 1 });
    await store.keepStory(lane.sessionId, 'turn-2', { told: 2 });
    expect(await store.story(lane.sessionId)).toEqual({ told: 2 });
    await store.keepStory(randomUUID(), 'turn-3', { told: 3 });
  });

  test('The janitor deletes old rows, keeps ancestors of forks, and keeps active turns until no worker can end them', async () => {
    const { store, age } = given();
    const me = await newWorker(store);
    const itemIds = [`msg_${randomUUID()}`];
    const old = await busyLane(store, me);
    await store.settle(old.settle(old.firstTurn.id, completed({ itemIds, transcriptFp: itemIds[0]! })));
    const origin = await idleLane(store, me);
    const busy = await busyLane(store, me);
    const dead = await newWorker(store);
    const deserted = await busyLane(store, dead);
    await age(48);
    await store.heartbeat(me, 'serving', 10_000);
    await store.declareDead(dead);
    const worker = await newWorker(store);
    const fork = await idleLane(store, worker, {
      headTurnId: origin.firstTurn.id,
      turn: turnStart({ parentTurnId: origin.firstTurn.id }),
    });
    const fresh = await idleLane(store, worker);
    await sweepAll(store);
    const left = async (id: string) => (await store.session('local', id)) !== null;
    expect(await left(old.sessionId)).toBe(false);
    expect(await store.turn(old.scope, old.firstTurn.id)).toBeNull();
    expect(await store.references('local', itemIds)).toEqual([]);
    const where = { scope: 'local', anchor: null, tokenSessionId: null, hardKey: null, places: itemIds };
    expect((await store.lookup(where)).candidates).toEqual([]);
    expect(await left(origin.sessionId)).toBe(true);
    expect(await store.lineage('local', fork.firstTurn.id)).toHaveLength(2);
    expect(await left(busy.sessionId)).toBe(true);
    expect(await left(deserted.sessionId)).toBe(false);
    expect(await left(fresh.sessionId)).toBe(true);
    expect((await store.workers()).some(({ id }) => id === me)).toBe(true);
  });

  test('The janitor deletes old turns without a successor, and not the head of a live session', async () => {
    const { store, age } = given();
    const lane = await idleLane(store, await newWorker(store));
    const failed = lane.start({
      expectedHead: lane.firstTurn.id,
      turn: turnStart({ parentTurnId: lane.firstTurn.id }),
    });
    await store.start(failed);
    await store.settle(
      lane.settle(failed.turn.id, {
        ...completed({ responseId: null, items: null }),
        state: 'failed',
        replay: 'never',
      }),
    );
    await age(48);
    await claimNow(store, lane.sessionId, await newWorker(store));
    await sweepAll(store);
    expect(await store.turn(failed.scope, failed.turn.id)).toBeNull();
    expect(await store.turn(lane.scope, lane.firstTurn.id)).not.toBeNull();
  });

  /** Runs a turn of the lane's session to that end. */
  async function turnOf(
    lane: Lane,
    head: string | null,
    parentTurnId: string | null,
    end = completed(),
  ): Promise<string> {
    const { store } = given();
    const turn = turnStart({ parentTurnId });
    expect((await store.start(lane.start({ expectedHead: head, turn }))).verdict).toBe('ok');
    expect((await store.settle(lane.settle(turn.id, end))).verdict).toBe('ok');
    return turn.id;
  }
  const failed = () => ({
    ...completed({ responseId: null, items: null }),
    state: 'failed' as const,
    replay: 'never' as const,
  });
  const left = async (ids: readonly string[]) => {
    const { store } = given();
    const rows = await Promise.all(ids.map((id) => store.turn('local', id)));
    return ids.filter((_, nth) => rows[nth] !== null);
  };

  test('The janitor deletes an abandoned line whole, and not the line that continues', async () => {
    const { store, age } = given();
    const lane = await idleLane(store, await newWorker(store));
    const one = lane.firstTurn.id;
    const two = await turnOf(lane, one, one);
    const three = await turnOf(lane, two, two);
    const again = await turnOf(lane, three, null);
    await age(48);
    const last = await turnOf(lane, again, again);
    await sweepAll(store);
    expect(await left([one, two, three, again, last])).toEqual([again, last]);
  });

  test('The janitor closes an unused session whose turns others continue, and deletes its later turns', async () => {
    const { store, age } = given();
    const me = await newWorker(store);
    const hard = key();
    const lane = await idleLane(store, me, { keys: [hard] });
    const one = lane.firstTurn.id;
    const two = await turnOf(lane, one, one);
    const three = await turnOf(lane, two, two);
    const four = await turnOf(lane, three, three);
    await age(48);
    const fork = await idleLane(store, me, { headTurnId: two, turn: turnStart({ parentTurnId: two }) });
    const before = (await store.session(lane.scope, lane.sessionId))!;
    await sweepAll(store);
    expect(await left([one, two, three, four])).toEqual([one, two]);
    expect(await store.lineage('local', fork.firstTurn.id)).toHaveLength(3);
    const row = (await store.session(lane.scope, lane.sessionId))!;
    expect(row).toMatchObject({ state: 'closed', ownerWorkerId: null, ownerNonce: null, activeTurnId: null });
    expect([row.epoch - before.epoch, row.revision - before.revision]).toEqual([1, 1]);
    expect(await store.keysOf(lane.sessionId)).toEqual([]);
    expect((await claimNow(store, lane.sessionId, me)).verdict).toBe('lost_race');
    await sweepAll(store);
    expect(await store.session(lane.scope, lane.sessionId)).toEqual(row);
    await age(48);
    await sweepAll(store);
    expect([await store.session(lane.scope, lane.sessionId), await store.session(fork.scope, fork.sessionId)]).toEqual([
      null,
      null,
    ]);
    expect(await left([one, two, fork.firstTurn.id])).toEqual([]);
  });

  test('The janitor keeps the turn at which a session begins that has no later head', async () => {
    const { store, age } = given();
    const me = await newWorker(store);
    const lane = await idleLane(store, me);
    const next = await turnOf(lane, lane.firstTurn.id, lane.firstTurn.id);
    const fork = await busyLane(store, me, { headTurnId: next, turn: turnStart({ parentTurnId: next }) });
    await store.settle(fork.settle(fork.firstTurn.id, failed()));
    const living = await idleLane(store, me);
    const behind = await turnOf(living, living.firstTurn.id, living.firstTurn.id);
    const other = await busyLane(store, me, { headTurnId: behind, turn: turnStart({ parentTurnId: behind }) });
    await store.settle(other.settle(other.firstTurn.id, failed()));
    const moved = await turnOf(living, behind, living.firstTurn.id);
    await age(48);
    for (const { sessionId } of [fork, other, living]) await claimNow(store, sessionId, await newWorker(store));
    await sweepAll(store);
    expect(await left([fork.firstTurn.id, other.firstTurn.id])).toEqual([]);
    expect(await left([lane.firstTurn.id, next])).toEqual([lane.firstTurn.id, next]);
    expect(await left([living.firstTurn.id, behind, moved])).toEqual([living.firstTurn.id, behind, moved]);
  });

  test('The janitor deletes the turns of a session closed since, and its row when that is unused', async () => {
    const { store, age } = given();
    const lane = await idleLane(store, await newWorker(store));
    await age(48);
    await store.operatorClose(lane.sessionId);
    await sweepAll(store);
    expect(await left([lane.firstTurn.id])).toEqual([]);
    expect(await store.session(lane.scope, lane.sessionId)).not.toBeNull();
    await age(48);
    await sweepAll(store);
    expect(await store.session(lane.scope, lane.sessionId)).toBeNull();
  });

  test('The janitor deletes an active turn whose worker was silent for the retention of sessions', async () => {
    const { store, age } = given();
    const silent = await busyLane(store, await newWorker(store));
    await age(20);
    const later = await busyLane(store, await newWorker(store));
    await age(20);
    await sweepAll(store);
    expect(await left([silent.firstTurn.id, later.firstTurn.id])).toEqual([later.firstTurn.id]);
    expect([
      await store.session(silent.scope, silent.sessionId),
      (await store.session(later.scope, later.sessionId))?.state,
    ]).toEqual([null, 'live']);
  });

  test.each([1, 2, 3])('The janitor skips no row when a step examines %d rows', async (limit) => {
    const { store, age } = given();
    const me = await newWorker(store);
    const gone: string[] = [];
    for (let nth = 0; nth < 4; nth += 1) {
      const lane = await idleLane(store, me);
      gone.push(lane.firstTurn.id);
      for (let turn = 0; turn < 2 * nth; turn += 1) gone.push(await turnOf(lane, gone.at(-1)!, gone.at(-1)!));
    }
    const living = await idleLane(store, me);
    const dropped = await turnOf(living, living.firstTurn.id, living.firstTurn.id, failed());
    await age(48);
    await claimNow(store, living.sessionId, await newWorker(store));
    await sweepAll(store, limit);
    expect(await left([...gone, dropped])).toEqual([]);
    expect(await left([living.firstTurn.id])).toEqual([living.firstTurn.id]);
  });

  test('The janitor keeps workers that sessions name, and those with a recent heartbeat', async () => {
    const { store, age } = given();
    const named = await idleLane(store, await newWorker(store));
    await age(20);
    const recent = await newWorker(store);
    await claimNow(store, named.sessionId, named.me);
    await age(20);
    await sweepAll(store);
    const kept = (await store.workers()).map(({ id }) => id);
    expect([kept.includes(named.me), kept.includes(recent)]).toEqual([true, true]);
  });

  test('The janitor deletes workers that were silent for long and own nothing', async () => {
    const { store, age } = given();
    const gone = await newWorker(store);
    await age(700);
    await sweepAll(store);
    expect((await store.workers()).some(({ id }) => id === gone)).toBe(false);
  });
}
