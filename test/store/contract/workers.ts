import { randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import { EXPIRED_MS, LEASE_MS, newWorker } from '../calls.ts';
import type { Subject } from '../contract.ts';

export function liveness(given: () => Subject): void {
  const find = async (id: string) => (await given().store.workers()).find((worker) => worker.id === id);

  test('A registered worker serves, with a full lease', async () => {
    const { store } = given();
    const worker = {
      id: randomUUID(),
      internalUrl: 'http://127.0.0.1:1',
      livenessPath: '/tmp/worker.sock',
      version: '1.2.3',
    };
    expect(await store.register({ ...worker, leaseMs: LEASE_MS })).toEqual({ verdict: 'ok' });
    const row = await find(worker.id);
    const measured = { leaseLeftMs: expect.any(Number), leaseUntilMs: expect.any(Number) };
    expect(row).toEqual({ ...worker, state: 'serving', ...measured });
    expect(row!.leaseLeftMs).toBeGreaterThan(LEASE_MS / 2);
  });

  test('A registration can be repeated by the same worker only', async () => {
    const { store } = given();
    const worker = { id: randomUUID(), internalUrl: null, livenessPath: null, version: '1', leaseMs: LEASE_MS };
    await store.register(worker);
    expect(await store.register(worker)).toEqual({ verdict: 'ok' });
    expect((await store.register({ ...worker, internalUrl: 'http://other' })).verdict).toBe('rejected');
    await store.declareDead(worker.id);
    expect((await store.register(worker)).verdict).toBe('rejected');
    expect((await find(worker.id))?.state).toBe('dead');
  });

  test('A heartbeat extends the lease and reports the worker’s state', async () => {
    const { store } = given();
    const id = await newWorker(store, EXPIRED_MS);
    expect(await store.heartbeat(id, 'draining', LEASE_MS)).toEqual({ verdict: 'ok' });
    expect((await find(id))?.state).toBe('draining');
    expect((await find(id))!.leaseLeftMs).toBeGreaterThan(0);
  });

  test('`dead` is a terminal state: a heartbeat returns it and changes nothing', async () => {
    const { store } = given();
    const id = await newWorker(store, EXPIRED_MS);
    await store.declareExpired(id);
    expect(await store.heartbeat(id, 'serving', LEASE_MS)).toEqual({ verdict: 'dead' });
    expect((await find(id))?.state).toBe('dead');
    expect((await find(id))!.leaseLeftMs).toBeLessThan(0);
    expect(await store.heartbeat(randomUUID(), 'serving', LEASE_MS)).toEqual({ verdict: 'dead' });
  });

  test('Only an expired lease can be declared dead, and a repeat still returns dead', async () => {
    const { store } = given();
    const alive = await newWorker(store);
    expect(await store.declareExpired(alive)).toEqual({ verdict: 'alive' });
    expect((await find(alive))?.state).toBe('serving');
    await store.heartbeat(alive, 'serving', EXPIRED_MS);
    expect(await store.declareExpired(alive)).toEqual({ verdict: 'dead' });
    expect(await store.declareExpired(alive)).toEqual({ verdict: 'dead' });
  });

  test('A worker without a row is given one with a full lease, and is judged by that lease', async () => {
    const { store } = given();
    const id = randomUUID();
    expect(await store.declareExpired(id)).toEqual({ verdict: 'alive' });
    expect(await find(id)).toMatchObject({ state: 'serving', version: 'unknown', internalUrl: null });
    expect((await find(id))!.leaseLeftMs).toBeGreaterThan(0);
    await store.heartbeat(id, 'serving', EXPIRED_MS);
    expect(await store.declareExpired(id)).toEqual({ verdict: 'dead' });
  });

  test('A heartbeat restores a row that was lost, and none that is dead', async () => {
    const { store } = given();
    const registration = { internalUrl: 'http://a', livenessPath: '/run/a.sock', version: '1' };
    const [lost, met, dead] = [randomUUID(), randomUUID(), randomUUID()];
    const restored = { verdict: 'ok', restored: true };
    expect(await store.heartbeat(lost, 'draining', LEASE_MS, registration)).toEqual(restored);
    expect(await find(lost)).toMatchObject({ state: 'draining', ...registration });
    expect(await store.heartbeat(lost, 'serving', LEASE_MS, registration)).toEqual({ verdict: 'ok' });
    await store.declareExpired(met);
    expect(await store.heartbeat(met, 'serving', LEASE_MS, registration)).toEqual(restored);
    expect(await find(met)).toMatchObject({ state: 'serving', ...registration });
    await store.declareDead(dead);
    expect(await store.heartbeat(dead, 'serving', LEASE_MS, registration)).toEqual({ verdict: 'dead' });
    expect(await find(dead)).toMatchObject({ state: 'dead', version: 'unknown' });
  });

  test('The end of a lease changes only when it is renewed', async () => {
    const { store } = given();
    const id = await newWorker(store);
    const before = (await find(id))!.leaseUntilMs;
    expect((await find(id))!.leaseUntilMs).toBe(before);
    await store.heartbeat(id, 'serving', LEASE_MS * 2);
    expect((await find(id))!.leaseUntilMs).not.toBe(before);
  });

  test('A certain death needs neither an expired lease nor a row', async () => {
    const { store } = given();
    const id = await newWorker(store);
    expect(await store.declareDead(id)).toEqual({ verdict: 'dead' });
    expect(await store.declareDead(id)).toEqual({ verdict: 'dead' });
    expect((await find(id))?.state).toBe('dead');
    const unknown = randomUUID();
    expect(await store.declareDead(unknown)).toEqual({ verdict: 'dead' });
    expect(await find(unknown)).toMatchObject({ state: 'dead', version: 'unknown' });
  });

  test('A registration with another version or liveness path is another worker', async () => {
    const { store } = given();
    const worker = { id: randomUUID(), internalUrl: 'http://a', livenessPath: '/a', version: '1', leaseMs: LEASE_MS };
    await store.register(worker);
    for (const other of [{ livenessPath: '/b' }, { livenessPath: null }, { version: '2' }])
      expect((await store.register({ ...worker, ...other })).verdict).toBe('rejected');
  });

  test('A declared death affects one worker only', async () => {
    const { store } = given();
    const [one, other] = [await newWorker(store, EXPIRED_MS), await newWorker(store, EXPIRED_MS)];
    expect(await store.declareExpired(one)).toEqual({ verdict: 'dead' });
    expect([(await find(one))?.state, (await find(other))?.state]).toEqual(['dead', 'serving']);
  });
}
