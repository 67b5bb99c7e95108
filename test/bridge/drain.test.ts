import { randomUUID } from 'node:crypto';
import { afterEach, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge, type TestBridgeOptions } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { openLive } from '../support/live-client.ts';
import { user } from '../support/messages.ts';
import { until } from '../support/until.ts';

let at: TestBridge;
const start = async (options: TestBridgeOptions = {}) => {
  at = await startTestBridge(options);
};
afterEach(() => at.close());

const body = { model: 'm', stream: true, store: false, input: [user('one')] };

describe('a bridge that is closed', () => {
  it('A bridge that is closed lets a running turn end, settles it, and releases its session', async () => {
    await start();
    const held = at.simulator.script.onTurn({}, { kind: 'hold', at: 'before_terminal' });
    const client = await openLive(at.url, body, { 'thread-id': 't' });
    await client.until('response.output_item.done');
    const closed = at.bridge.close();
    // A draining bridge first looks up whether another worker remains. An invalid request opens nothing upstream and
    // shows when that look-up is done.
    await until(
      async () => (await post(at.url, { ...body, conversation: 'c', previous_response_id: 'r' })).status === 503,
    );
    const refused = await post(at.url, body, { 'thread-id': 'other' });
    expect(refused.status).toBe(503);
    expect(refused.body.error?.bridge_code).toBe('bridge_draining');
    expect(refused.headers.connection).toBe('close');
    held.release();
    expect((await client.rest()).events.at(-1)!.type).toBe('response.completed');
    await closed;
    const [session] = await at.store.sessions(1);
    expect(session).toMatchObject({ state: 'stale', ownerWorkerId: null, activeTurnId: null });
    expect(await at.store.turnsOf(session!.id, 9)).toMatchObject([{ state: 'completed' }]);
    expect((await at.store.workers()).map(({ state }) => state)).toEqual(['dead']);
  });

  it('A bridge that is closed releases idle sessions at once, and closes their sockets properly', async () => {
    await start();
    const first = await post(at.url, body, { 'thread-id': 't' });
    await at.bridge.close();
    await at.simulator.waitFor('closed', ({ code }) => code === 1000 || code === 1001);
    const [session] = await at.store.sessions(1);
    expect(session).toMatchObject({ state: 'stale', ownerWorkerId: null });
    await at.restart();
    const input = [user('one'), ...first.body.output, user('two')];
    const second = await post(at.url, { ...body, input }, { 'thread-id': 't' });
    expect(digestOf(second.body)).toBe(expectedDigest({ items: input as never }));
  });

  it('A bridge that is closed cancels the turns that still run at its deadline, with one clear terminal each, and leaves none active', async () => {
    await start({ env: { HOLDFAST_DRAIN_MS: '50' } });
    at.simulator.script.onTurn({}, { kind: 'silence', at: { deltas: 1 } });
    const client = await openLive(at.url, body, { 'thread-id': 't' });
    await client.until('response.output_text.delta');
    await at.bridge.close();
    const { events } = await client.rest();
    expect(events.at(-1)).toMatchObject({ type: 'response.failed' });
    const [session] = await at.store.sessions(1);
    expect(session).toMatchObject({ activeTurnId: null, ownerWorkerId: null });
    expect((await at.store.turnsOf(session!.id, 9)).map(({ state }) => state)).toEqual(['cancelled']);
  });

  it('A bridge that drains hands requests to another one, and refuses them once that one has left as well', async () => {
    await start();
    await using other = await startTestBridge({ beside: at });
    const held = at.simulator.script.onTurn({}, { kind: 'hold', at: 'before_terminal' });
    const client = await openLive(at.url, body, { 'thread-id': 't' });
    await client.until('response.output_item.done');
    const closed = at.bridge.close();
    const ask = (thread: string) => post(at.url, body, { 'thread-id': thread });
    await until(async () => (await ask(randomUUID())).status !== 200 || other.bridge.sessions().length > 0);
    expect(other.bridge.sessions()).toHaveLength(1);
    await other.bridge.close();
    const sent = at.simulator.journal.of('create').length;
    const refused = await ask('late');
    expect([refused.status, refused.body.error?.bridge_code]).toEqual([503, 'bridge_draining']);
    expect(at.simulator.journal.of('create')).toHaveLength(sent);
    held.release();
    expect((await client.rest()).events.at(-1)!.type).toBe('response.completed');
    await closed;
  });
});
