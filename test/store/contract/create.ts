import { randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import { busyLane, claimNow, idleLane, key, LEASE_MS, lane, newWorker, turnStart } from '../calls.ts';
import type { Subject } from '../contract.ts';

export function creation(given: () => Subject): void {
  test('A create writes the session, its keys and its first turn in one call', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const hard = key();
    const made = lane(me, { keys: [hard], scope: 'a', turn: turnStart({ clientTurnId: 'client-turn' }) });
    const answer = await store.create(made.create);
    expect(answer).toEqual({ verdict: 'ok', epoch: 1, revision: 1, leaseLeftMs: expect.any(Number) });
    if (answer.verdict === 'ok') {
      expect(answer.leaseLeftMs).toBeGreaterThan(LEASE_MS / 2);
      expect(answer.leaseLeftMs).toBeLessThanOrEqual(LEASE_MS);
    }
    expect(await store.session(made.scope, made.sessionId)).toEqual({
      id: made.sessionId,
      scope: 'a',
      state: 'live',
      snapshot: { value: 'live' },
      machineVersion: 1,
      revision: 1,
      ownerWorkerId: me,
      ownerNonce: made.nonce,
      epoch: 1,
      activeTurnId: made.firstTurn.id,
      headTurnId: null,
      upstreamId: 'openai',
      model: 'model',
      anchorLost: false,
    });
    expect(await store.turn(made.scope, made.firstTurn.id)).toEqual({
      ...made.firstTurn,
      sessionId: made.sessionId,
      scope: 'a',
      epoch: 1,
      authorWorkerId: me,
      state: 'active',
      responseId: null,
      transcriptFp: null,
      clientFp: null,
      replay: 'never',
    });
    const { keyed } = await store.lookup({ scope: 'a', anchor: null, tokenSessionId: null, hardKey: hard });
    expect(keyed?.id).toBe(made.sessionId);
  });

  test('A fork starts at its parent', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const origin = await idleLane(store, me);
    const head = origin.firstTurn.id;
    const fork = await busyLane(store, me, { headTurnId: head, turn: turnStart({ parentTurnId: head }) });
    expect((await store.session(fork.scope, fork.sessionId))?.headTurnId).toBe(head);
    expect((await store.turn(fork.scope, fork.firstTurn.id))?.parentTurnId).toBe(head);
  });

  test('A create that is repeated after a lost answer is the same session', async () => {
    const { store } = given();
    const made = await busyLane(store, await newWorker(store), { keys: [key()] });
    const already = { verdict: 'already', epoch: 1, revision: 1, leaseLeftMs: expect.any(Number) };
    expect(await store.create(made.create)).toEqual(already);
    expect((await store.session(made.scope, made.sessionId))?.revision).toBe(1);
  });

  test('A create of a known session under another nonce is fenced, though worker and turn are the same', async () => {
    const { store } = given();
    const made = await busyLane(store, await newWorker(store));
    expect(await store.create({ ...made.create, nonce: randomUUID() })).toEqual({ verdict: 'fenced' });
    expect((await store.session(made.scope, made.sessionId))?.ownerNonce).toBe(made.nonce);
  });

  test('A late copy of a create never reactivates an ended turn', async () => {
    const { store } = given();
    const made = await idleLane(store, await newWorker(store), { keys: [key()] });
    const before = await store.session(made.scope, made.sessionId);
    expect(await store.create(made.create)).toEqual({ verdict: 'fenced' });
    expect(await store.session(made.scope, made.sessionId)).toEqual(before);
  });

  test('A late copy of a create for a session that was claimed is fenced', async () => {
    const { store } = given();
    const made = await busyLane(store, await newWorker(store));
    await store.declareDead(made.me);
    await claimNow(store, made.sessionId, await newWorker(store));
    expect(await store.create(made.create)).toEqual({ verdict: 'fenced' });
  });

  test('A create with a key that names another session is refused, and nothing is written', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const hard = key();
    await busyLane(store, me, { keys: [hard] });
    const loser = lane(me, { keys: [key(), hard] });
    expect(await store.create(loser.create)).toEqual({ verdict: 'key_taken' });
    expect(await store.session(loser.scope, loser.sessionId)).toBeNull();
    expect(await store.turn(loser.scope, loser.firstTurn.id)).toBeNull();
    const { keyed } = await store.lookup({
      scope: loser.scope,
      anchor: null,
      tokenSessionId: null,
      hardKey: loser.create.keys[0]!,
    });
    expect(keyed).toBeNull();
  });

  test('Equal keys of two scopes, or of two kinds, are different keys', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const hash = randomUUID();
    for (const over of [
      { scope: 'a', keys: [{ kind: 'thread', hash }] },
      { scope: 'b', keys: [{ kind: 'thread', hash }] },
      { scope: 'a', keys: [{ kind: 'session', hash }] },
    ] as const) {
      expect((await store.create(lane(me, over).create)).verdict).toBe('ok');
    }
  });

  test('Exactly one of many requests that race for a new key creates', async () => {
    const { store } = given();
    const me = await newWorker(store);
    for (let round = 0; round < 10; round += 1) {
      const hard = key();
      const lanes = Array.from({ length: 6 }, () => lane(me, { keys: [hard] }));
      const answers = await Promise.all(lanes.map(({ create }) => store.create(create)));
      expect(answers.map(({ verdict }) => verdict).sort()).toEqual([...Array(5).fill('key_taken'), 'ok']);
      const winner = lanes[answers.findIndex(({ verdict }) => verdict === 'ok')];
      const { keyed } = await store.lookup({ scope: 'local', anchor: null, tokenSessionId: null, hardKey: hard });
      expect(keyed?.id).toBe(winner?.sessionId);
    }
  });

  test('Racing copies of one create make one session', async () => {
    const { store } = given();
    const me = await newWorker(store);
    for (let round = 0; round < 10; round += 1) {
      const made = lane(me, { keys: [key()] });
      const answers = await Promise.all(Array.from({ length: 6 }, () => store.create(made.create)));
      expect(answers.map(({ verdict }) => verdict).sort()).toEqual([...Array(5).fill('already'), 'ok']);
    }
  });

  test('A worker that is dead or unknown cannot create', async () => {
    const { store } = given();
    const dead = await newWorker(store);
    await store.declareDead(dead);
    for (const me of [dead, randomUUID()]) {
      const made = lane(me);
      expect(await store.create(made.create)).toEqual({ verdict: 'fenced' });
      expect(await store.session(made.scope, made.sessionId)).toBeNull();
    }
  });

  test('A create with the turn id of another session is refused', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const other = await busyLane(store, me);
    const made = lane(me, { turn: turnStart({ id: other.firstTurn.id }) });
    expect((await store.create(made.create)).verdict).toBe('rejected');
    expect(await store.session(made.scope, made.sessionId)).toBeNull();
  });

  test('A create with the id of a turn that ended in another session is refused', async () => {
    const { store } = given();
    const me = await newWorker(store);
    const other = await idleLane(store, me);
    const made = lane(me, { turn: turnStart({ id: other.firstTurn.id }) });
    expect((await store.create(made.create)).verdict).toBe('rejected');
    expect(await store.session(made.scope, made.sessionId)).toBeNull();
    expect((await store.turn(other.scope, other.firstTurn.id))?.sessionId).toBe(other.sessionId);
  });
}
