import pg from 'pg';
import { afterEach, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { saved, turnStart } from '../store/calls.ts';
import { startTestBridge, type TestBridge, type TestBridgeOptions } from '../support/bridge.ts';
import { ownEvents, post, terminalsOf } from '../support/client.ts';
import { openLive } from '../support/live-client.ts';
import { user } from '../support/messages.ts';

let at: TestBridge | null = null;
const start = async (options: TestBridgeOptions = {}) => {
  at = await startTestBridge(options);
  return at;
};
afterEach(async () => {
  await at?.close();
  at = null;
});

const base = { model: 'm', stream: true };

async function sql(url: string, statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query(statement);
  await client.end();
}

describe('a worker that is replaced by another', () => {
  it('A full resend after a restart continues with the right context and a new token', async () => {
    const { url, restart, simulator } = await start();
    const headers = { 'thread-id': 't-1' };
    const first = await post(url, { ...base, store: false, input: [user('one')] }, headers);
    await restart();
    const input = [user('one'), ...first.body.output, user('two')];
    const second = await post(at!.url, { ...base, store: false, input }, headers);
    expect(second.headers['x-holdfast-outcome']).toBe('stale_recovery');
    expect(second.headers['x-holdfast-session']).toBe(first.headers['x-holdfast-session']);
    expect(second.headers['x-codex-turn-state']).not.toBe(first.headers['x-codex-turn-state']);
    expect(digestOf(second.body)).toBe(expectedDigest({ items: input as never }));
    expect(simulator.journal.of('create').map(({ itemsReceived }) => itemsReceived)).toEqual([1, 3]);
  });

  it.each([true, false])('A delta with store: %s continues after a restart', async (store) => {
    const { url, restart, simulator } = await start();
    const first = await post(url, { ...base, store, input: [user('one')] });
    await restart();
    const second = await post(at!.url, { ...base, store, previous_response_id: first.body.id, input: [user('two')] });
    expect(second.headers['x-holdfast-outcome']).toBe('stale_recovery');
    expect(digestOf(second.body)).toBe(
      expectedDigest({ items: [user('one'), ...first.body.output, user('two')] as never }),
    );
    expect(second.body.previous_response_id).toBe(first.body.id);
    const [, create] = simulator.journal.of('create');
    expect(create!.previousResponseId).toBe(store ? first.body.id : null);
  });

  it('A delta fails closed after a restart when the items of its unstored anchor are gone, and nothing is sent', async () => {
    const { url, restart, simulator, databaseUrl } = await start();
    const first = await post(url, { ...base, store: false, input: [user('one')] });
    await restart();
    await sql(databaseUrl, 'delete from turn_items');
    const second = await post(at!.url, {
      ...base,
      store: false,
      previous_response_id: first.body.id,
      input: [user('two')],
    });
    expect(second.status).toBe(400);
    expect(second.body.error).toMatchObject({
      code: 'previous_response_not_found',
      bridge_code: 'bridge_session_expired',
      outcome: 'expired_continuity',
    });
    expect(simulator.journal.of('create')).toHaveLength(1);
    expect(simulator.journal.of('upgrade')).toHaveLength(1);
  });

  it('An anchor whose row is gone too is passed to the provider when the credential is the client’s own', async () => {
    const { url, restart, databaseUrl } = await start();
    const first = await post(url, { ...base, store: false, input: [user('one')] });
    await restart();
    await sql(databaseUrl, 'delete from turn_items; delete from turn');
    const second = await post(at!.url, {
      ...base,
      store: false,
      previous_response_id: first.body.id,
      input: [user('two')],
    });
    expect(second.status).toBe(400);
    expect(second.body.error).toMatchObject({ code: 'previous_response_not_found' });
    expect(second.body.error).not.toHaveProperty('bridge_code');
  });

  it('An anchor whose row is gone too fails closed under a shared upstream key', async () => {
    const env = { HOLDFAST_UPSTREAM_KEY: 'sk-shared' };
    const { url, restart, databaseUrl, simulator } = await start({ env });
    const first = await post(url, { ...base, store: false, input: [user('one')] });
    await restart();
    await sql(databaseUrl, 'delete from turn_items; delete from turn');
    const second = await post(at!.url, {
      ...base,
      store: false,
      previous_response_id: first.body.id,
      input: [user('two')],
    });
    expect(second.body.error?.outcome).toBe('expired_continuity');
    expect(simulator.journal.of('create')).toHaveLength(1);
  });
});

describe('a turn that its row marks as active but its own worker does not run', () => {
  it('An active turn that its worker does not run is ended when another worker asks for the session, which continues from the head', async () => {
    const owner = await start();
    const headers = { 'thread-id': 't-6' };
    const first = await post(owner.url, { ...base, store: false, input: [user('one')] }, headers);
    await owner.restart();
    await using other = await startTestBridge({ beside: owner });
    const { store, bridge } = owner;
    const [row] = await store.sessions(1);
    const writer = { me: bridge.workerId, nonce: 'nonce', scope: row!.scope, sessionId: row!.id };
    const claimed = await store.claim({ ...writer, epochRead: row!.epoch, revisionRead: row!.revision });
    expect(claimed).toMatchObject({ verdict: 'row' });
    const turn = turnStart({ parentTurnId: row!.headTurnId });
    const call = { ...writer, epoch: row!.epoch + 1, expectedHead: row!.headTurnId, turn, saved: saved() };
    expect(await store.start(call)).toMatchObject({ verdict: 'ok' });
    const input = [user('one'), ...first.body.output, user('two')];
    const second = await post(other.url, { ...base, store: false, input }, headers);
    expect([second.status, second.headers['x-holdfast-outcome']]).toEqual([200, 'stale_recovery']);
    expect(digestOf(second.body)).toBe(expectedDigest({ items: input as never }));
    expect((await store.turn(row!.scope, turn.id))!.state).toBe('lost');
  });
});

describe('a socket that is lost', () => {
  it('A socket lost before any output was shown costs one resend that the client does not see', async () => {
    const { url, simulator } = await start();
    simulator.script.onTurn({ nth: 2 }, { kind: 'reset', at: 'before_created' }, { times: 1 });
    const headers = { 'thread-id': 't-2' };
    const first = await post(url, { ...base, store: false, input: [user('one')] }, headers);
    const input = [user('one'), ...first.body.output, user('two')];
    const second = await post(url, { ...base, store: false, input }, headers);
    expect(terminalsOf(second).map(({ type }) => type)).toEqual(['response.completed']);
    expect(second.events.filter(({ type }) => type === 'response.created')).toHaveLength(1);
    expect(digestOf(second.body)).toBe(expectedDigest({ items: input as never }));
    expect(simulator.journal.of('create').map(({ itemsReceived }) => itemsReceived)).toEqual([1, 1, 3]);
  });

  it('A socket lost right after response.created shows nothing of that response, however long the next connection takes', async () => {
    const { url, simulator } = await start({ env: { HOLDFAST_STATUS_HOLD_MS: '1000' } });
    simulator.script.onTurn({ nth: 1 }, { kind: 'reset', at: 'after_created' });
    const second = simulator.script.onUpgrade({ nth: 2 }, { kind: 'hold' });
    // The status line leaves while the second connection is still being opened.
    const live = await openLive(url, { ...base, input: [user('one')] });
    second.release();
    const events = ownEvents((await live.rest()).events);
    expect(simulator.journal.of('create')).toHaveLength(2);
    expect(events.map(({ data }) => data.sequence_number)).toEqual(events.map((_, index) => index));
    expect(events.at(-1)!.type).toBe('response.completed');
  });

  it('A socket lost during the answer ends it with one response.failed, and the identical retry recovers', async () => {
    const { url, simulator } = await start();
    simulator.script.onTurn({ nth: 1 }, { kind: 'reset', at: { deltas: 1 } }, { times: 1 });
    const headers = { 'thread-id': 't-3' };
    const body = { ...base, store: false, input: [user('one')] };
    const first = await post(url, body, headers);
    expect(terminalsOf(first).map(({ type }) => type)).toEqual(['response.failed']);
    const again = await post(url, body, headers);
    expect(terminalsOf(again).map(({ type }) => type)).toEqual(['response.completed']);
    expect(digestOf(again.body)).toBe(expectedDigest({ items: [user('one')] as never }));
  });

  it('A socket that the provider closes for its own age limit is replaced unseen by the client', async () => {
    const { url, simulator } = await start();
    const headers = { 'thread-id': 't-4' };
    const first = await post(url, { ...base, store: false, input: [user('one')] }, headers);
    simulator.connections.at(-1)!.expire();
    const input = [user('one'), ...first.body.output, user('two')];
    const second = await post(url, { ...base, store: false, input }, headers);
    expect(terminalsOf(second).map(({ type }) => type)).toEqual(['response.completed']);
    expect(digestOf(second.body)).toBe(expectedDigest({ items: input as never }));
  });

  it('A socket lost twice before any output was shown ends in one clear failure', async () => {
    const { url, simulator } = await start();
    simulator.script.onTurn({}, { kind: 'reset', at: 'before_created' }, { times: 2 });
    const answer = await post(url, { ...base, input: 'hi' });
    expect(answer.status).toBe(502);
    expect(answer.body.error?.bridge_code).toBe('bridge_upstream_lost');
  });
});

describe('a refused anchor', () => {
  it('An anchor that the provider refuses is dropped, and the whole context is sent once, unseen by the client', async () => {
    const { url, simulator } = await start();
    const headers = { 'thread-id': 't-5' };
    const first = await post(url, { ...base, store: false, input: [user('one')] }, headers);
    simulator.expireCaches();
    const input = [user('one'), ...first.body.output, user('two')];
    const second = await post(url, { ...base, store: false, input }, headers);
    expect(terminalsOf(second).map(({ type }) => type)).toEqual(['response.completed']);
    expect(digestOf(second.body)).toBe(expectedDigest({ items: input as never }));
    const third = await post(url, { ...base, store: false, previous_response_id: second.body.id, input: 'three' });
    expect(digestOf(third.body)).toBe(expectedDigest({ items: [...input, ...second.body.output, 'three'] as never }));
    simulator.expireCaches();
    const fourth = await post(url, { ...base, store: false, previous_response_id: third.body.id, input: 'four' });
    expect(fourth.status).toBe(200);
    expect(digestOf(fourth.body)).toBe(
      expectedDigest({ items: [...input, ...second.body.output, 'three', ...third.body.output, 'four'] as never }),
    );
  });
});
