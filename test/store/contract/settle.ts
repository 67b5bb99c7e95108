import { randomBytes, randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import { arrayText } from '../../../src/json.ts';
import type { TurnEnd, TurnMetrics } from '../../../src/store/port.ts';
import { bare, busyLane, claimedLane, claimNow, completed, idleLane, newWorker, saved } from '../calls.ts';
import type { Subject } from '../contract.ts';

export function settling(given: () => Subject): void {
  test('A settle records the end and moves the head, and changes no other session', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    const other = await idleLane(store, busy.me);
    const row = await store.session(other.scope, other.sessionId);
    const result = completed();
    expect(await store.settle(busy.settle(busy.firstTurn.id, result))).toEqual({ verdict: 'ok', revision: 2 });
    expect(await store.session(busy.scope, busy.sessionId)).toMatchObject({
      activeTurnId: null,
      headTurnId: busy.firstTurn.id,
      revision: 2,
    });
    expect(await store.turn(busy.scope, busy.firstTurn.id)).toMatchObject({
      state: 'completed',
      responseId: result.responseId,
      transcriptFp: 'transcript',
      clientFp: 'client',
      replay: 'exact',
    });
    expect(await store.session(other.scope, other.sessionId)).toEqual(row);
  });

  test.each(['failed', 'cancelled', 'lost'] as const)('A turn that %s never becomes a head', async (state: TurnEnd) => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    const call = idle.start({ expectedHead: idle.firstTurn.id });
    await store.start(call);
    expect((await store.settle(idle.settle(call.turn.id, bare(state)))).verdict).toBe('ok');
    expect(await store.session(idle.scope, idle.sessionId)).toMatchObject({
      activeTurnId: null,
      headTurnId: idle.firstTurn.id,
    });
  });

  test('An incomplete turn becomes a head', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    await store.settle(busy.settle(busy.firstTurn.id, completed({ state: 'incomplete' })));
    expect((await store.session(busy.scope, busy.sessionId))?.headTurnId).toBe(busy.firstTurn.id);
  });

  test('A settle that is repeated after a lost answer is the same end', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    const call = busy.settle(busy.firstTurn.id);
    await store.settle(call);
    const row = await store.session(busy.scope, busy.sessionId);
    expect(await store.settle(call)).toEqual({ verdict: 'already' });
    expect(await store.session(busy.scope, busy.sessionId)).toEqual(row);
  });

  test('A late copy of a settle does not affect the next turn', async () => {
    const { store } = given();
    const idle = await busyLane(store, await newWorker(store));
    const first = idle.settle(idle.firstTurn.id);
    await store.settle(first);
    const next = idle.start({ expectedHead: idle.firstTurn.id });
    await store.start(next);
    const row = await store.session(idle.scope, idle.sessionId);
    expect(await store.settle(first)).toEqual({ verdict: 'already' });
    expect(await store.session(idle.scope, idle.sessionId)).toEqual(row);
  });

  test('The first recorded end stays', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    await store.settle(busy.settle(busy.firstTurn.id, bare('cancelled')));
    expect(await store.settle(busy.settle(busy.firstTurn.id))).toEqual({ verdict: 'already' });
    expect(await store.turn(busy.scope, busy.firstTurn.id)).toMatchObject({ state: 'cancelled', responseId: null });
    expect((await store.session(busy.scope, busy.sessionId))?.headTurnId).toBeNull();
  });

  test('The author’s real end replaces `lost`, as a branch that moves no head', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    await store.declareDead(busy.me);
    const claim = await claimNow(store, busy.sessionId, await newWorker(store));
    expect(claim).toMatchObject({ verdict: 'row', lostTurnId: busy.firstTurn.id });
    expect((await store.turn(busy.scope, busy.firstTurn.id))?.state).toBe('lost');
    const row = await store.session(busy.scope, busy.sessionId);

    const real = busy.settle(busy.firstTurn.id);
    expect(await store.settle(real)).toEqual({ verdict: 'branch' });
    expect(await store.turn(busy.scope, busy.firstTurn.id)).toMatchObject({
      state: 'completed',
      transcriptFp: 'transcript',
    });
    expect((await store.lineage(busy.scope, busy.firstTurn.id))[0]?.output).toBe(arrayText(real.result.items!.output));
    expect(await store.session(busy.scope, busy.sessionId)).toEqual(row);
    expect(await store.settle(real)).toEqual({ verdict: 'branch' });
  });

  test('A late `lost` of the author is a branch too, and changes nothing', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    await store.declareDead(busy.me);
    await claimNow(store, busy.sessionId, await newWorker(store));
    const lost = await store.turn(busy.scope, busy.firstTurn.id);
    const late = busy.settle(busy.firstTurn.id, completed({ state: 'lost' }));
    expect(await store.settle(late)).toEqual({ verdict: 'branch' });
    expect(await store.turn(busy.scope, busy.firstTurn.id)).toEqual(lost);
  });

  test('An end under another nonce is a branch that moves no head, and a later claim leaves it as it is', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    const other = claimedLane(busy, busy.me, randomUUID(), 1);
    expect(await store.settle(other.settle(busy.firstTurn.id))).toEqual({ verdict: 'branch' });
    expect(await store.session(busy.scope, busy.sessionId)).toMatchObject({ headTurnId: null, revision: 1 });
    await store.declareDead(busy.me);
    expect((await claimNow(store, busy.sessionId, await newWorker(store))).verdict).toBe('row');
    expect((await store.turn(busy.scope, busy.firstTurn.id))?.state).toBe('completed');
  });

  test('The end written by an orphan’s clean-up is replaced by the author’s real end', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    expect((await store.settle(busy.settle(busy.firstTurn.id, bare('lost')))).verdict).toBe('ok');
    expect(await store.settle(busy.settle(busy.firstTurn.id))).toEqual({ verdict: 'branch' });
    expect((await store.turn(busy.scope, busy.firstTurn.id))?.state).toBe('completed');
    expect((await store.session(busy.scope, busy.sessionId))?.headTurnId).toBeNull();
  });

  test('The fingerprints of a turn belong to the recorded end, and are replaced together with `lost`', async () => {
    const { store } = given();
    const scope = `tenant-${randomUUID()}`;
    const busy = await busyLane(store, await newWorker(store), { scope });
    const { id } = busy.firstTurn;
    const holders = async (...itemIds: string[]) =>
      (await store.references(scope, itemIds)).map(({ itemId }) => itemId);
    const forms = async () => (await store.line(scope, id))[0]?.forms;
    const ends = (fp: string) =>
      completed({ transcriptFp: fp, secondFp: `${fp}l`, forms: `${fp} forms`, itemIds: [fp] });
    const found = async (...places: string[]) =>
      (await store.lookup({ scope, anchor: null, tokenSessionId: null, hardKey: null, places })).candidates.length;

    await store.settle(busy.settle(id, { ...ends('lost'), state: 'lost' }));
    expect([await holders('lost'), await forms()]).toEqual([['lost'], 'lost forms']);
    expect(await store.settle(busy.settle(id, ends('real')))).toEqual({ verdict: 'branch' });
    expect([await holders('lost', 'real'), await forms()]).toEqual([['real'], 'real forms']);
    expect([await found('lost', 'lostl'), await found('real'), await found('reall')]).toEqual([0, 1, 1]);
    expect(await store.settle(busy.settle(id, ends('late')))).toEqual({ verdict: 'branch' });
    expect([await holders('late', 'real'), await forms()]).toEqual([['real'], 'real forms']);
    expect(await found('late', 'latel')).toBe(0);

    const kept = await busyLane(store, busy.me, { scope });
    await store.settle(kept.settle(kept.firstTurn.id, ends('kept')));
    expect(await store.settle(kept.settle(kept.firstTurn.id, ends('second')))).toEqual({ verdict: 'already' });
    expect(await holders('second', 'kept')).toEqual(['kept']);
    expect(await found('second', 'secondl')).toBe(0);
    const foreign = { ...kept.settle(kept.firstTurn.id, ends('foreign')), me: await newWorker(store) };
    expect(await store.settle(foreign)).toEqual({ verdict: 'branch' });
    expect([await holders('foreign'), await found('foreign')]).toEqual([[], 0]);
  });

  test('Facts are stored with the end that is recorded, and with no other', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    await store.declareDead(busy.me);
    await claimNow(store, busy.sessionId, await newWorker(store));
    const end = (outcome: string | null) =>
      busy.settle(
        busy.firstTurn.id,
        completed({ responseId: null, facts: outcome === null ? null : ({ outcome } as TurnMetrics) }),
      );
    expect(await store.settle(end(null))).toEqual({ verdict: 'branch' });
    expect(await store.settle(end('late'))).toEqual({ verdict: 'branch' });
    expect((await store.turnDetails(busy.sessionId, 1))[0]?.facts).toBeNull();
  });

  test('Facts that were stored with `lost` stay when the real end replaces it', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    const end = (state: TurnEnd, outcome: string) =>
      busy.settle(busy.firstTurn.id, completed({ state, facts: { outcome } as TurnMetrics }));
    await store.settle(end('lost', 'first'));
    expect(await store.settle(end('completed', 'second'))).toEqual({ verdict: 'branch' });
    expect((await store.turnDetails(busy.sessionId, 1))[0]).toMatchObject({
      state: 'completed',
      facts: { outcome: 'first' },
    });
  });

  test('`lost` never replaces an end', async () => {
    const { store } = given();
    const idle = await idleLane(store, await newWorker(store));
    expect(await store.settle(idle.settle(idle.firstTurn.id, bare('lost')))).toEqual({ verdict: 'already' });
    expect((await store.turn(idle.scope, idle.firstTurn.id))?.state).toBe('completed');
  });

  test('A dead worker can still record how its turn ended', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    await store.declareDead(busy.me);
    expect((await store.settle(busy.settle(busy.firstTurn.id))).verdict).toBe('ok');
    expect((await store.session(busy.scope, busy.sessionId))?.headTurnId).toBe(busy.firstTurn.id);
  });

  test('No worker can end the turn of another, and a missing turn is not part of the line', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    const stranger = claimedLane(busy, await newWorker(store), randomUUID(), 1);
    const otherEpoch = claimedLane(busy, busy.me, busy.nonce, 2);
    for (const call of [
      stranger.settle(busy.firstTurn.id),
      otherEpoch.settle(busy.firstTurn.id),
      busy.settle(randomUUID()),
      { ...busy.settle(busy.firstTurn.id), sessionId: randomUUID() },
    ]) {
      expect(await store.settle(call)).toEqual({ verdict: 'branch' });
    }
    expect((await store.turn(busy.scope, busy.firstTurn.id))?.state).toBe('active');
    expect((await store.session(busy.scope, busy.sessionId))?.revision).toBe(1);
  });

  test('A settle with a response id that the scope already has is rejected and writes nothing, and the bare end is accepted', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const responseId = `resp_${randomUUID()}`;
    const first = await busyLane(store, me, { scope: 'a' });
    await store.settle(first.settle(first.firstTurn.id, completed({ responseId })));
    const elsewhere = await busyLane(store, me, { scope: 'b' });
    const fine = await store.settle(elsewhere.settle(elsewhere.firstTurn.id, completed({ responseId })));
    expect(fine.verdict).toBe('ok');

    const second = await busyLane(store, me, { scope: 'a' });
    const refused = await store.settle(second.settle(second.firstTurn.id, completed({ responseId })));
    expect(refused).toEqual({ verdict: 'rejected', reason: expect.any(String) });
    expect((await store.turn(second.scope, second.firstTurn.id))?.state).toBe('active');
    expect(await store.lineage('a', second.firstTurn.id)).toMatchObject([{ input: null, output: null }]);
    const bareEnd = { ...bare('completed'), anchorLost: true };
    expect((await store.settle(second.settle(second.firstTurn.id, bareEnd))).verdict).toBe('ok');
    expect(await store.session(second.scope, second.sessionId)).toMatchObject({
      headTurnId: second.firstTurn.id,
      anchorLost: true,
    });
  });

  test('A lost anchor stays marked until the head moves', async () => {
    const { store } = given();
    const lane = await busyLane(store, await newWorker(store));
    await store.settle(lane.settle(lane.firstTurn.id, { ...bare('completed'), anchorLost: true }));
    const failing = lane.start({ expectedHead: lane.firstTurn.id });
    await store.start(failing);
    await store.settle(lane.settle(failing.turn.id, bare('failed')));
    expect((await store.session(lane.scope, lane.sessionId))?.anchorLost).toBe(true);
    const next = lane.start({ expectedHead: lane.firstTurn.id });
    await store.start(next);
    await store.settle(lane.settle(next.turn.id));
    expect((await store.session(lane.scope, lane.sessionId))?.anchorLost).toBe(false);
  });

  test('The row shows the saved state of the settle', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    await store.settle({ ...busy.settle(busy.firstTurn.id), saved: saved('stale') });
    expect(await store.session(busy.scope, busy.sessionId)).toMatchObject({
      state: 'stale',
      snapshot: { value: 'stale' },
    });
  });

  test('Unusual usage, errors and ids of providers do not break the row', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    const odd = { text: 'a\u0000b\ud800' };
    // The length of ids that a gateway packs, in an incompressible form.
    const packed = randomBytes(1_536).toString('base64');
    const itemIds = ['msg\u0000\ud800', 'msg_"quoted", {1}', `msg_${'x'.repeat(10_000)}`, 'msg_plain', packed];
    const facts = { outcome: 'a\u0000b' } as TurnMetrics;
    const result = completed({ usage: odd, error: odd, facts, itemIds, responseId: `resp\u0000${randomUUID()}` });
    expect((await store.settle(busy.settle(busy.firstTurn.id, result))).verdict).toBe('ok');
    const [turn] = await store.turnDetails(busy.sessionId, 1);
    expect(turn).toMatchObject({ usage: odd, error: odd, facts });
    const mine = (await store.references('local', itemIds)).filter(({ turnId }) => turnId === busy.firstTurn.id);
    // An id longer than an index entry allows is omitted, and its turn still ends.
    expect(mine.map(({ itemId }) => itemId.length <= packed.length)).toEqual([true, true, true, true]);
  });

  test('Response ids of any length are found again, and compared in full', async () => {
    const { store } = given();
    const busy = await busyLane(store, await newWorker(store));
    const long = `resp_${Array.from({ length: 120 }, () => randomUUID()).join('')}`;
    expect((await store.settle(busy.settle(busy.firstTurn.id, completed({ responseId: long })))).verdict).toBe('ok');
    const find = (anchor: string) => store.lookup({ scope: 'local', anchor, tokenSessionId: null, hardKey: null });
    expect((await find(long)).anchor?.turn.responseId).toBe(long);
    expect((await find(`${long.slice(0, -1)}?`)).anchor).toBeNull();
  });
}
