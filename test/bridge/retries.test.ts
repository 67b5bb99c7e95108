import { afterEach, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge, type TestBridgeOptions } from '../support/bridge.ts';
import { ownEvents, post, terminalsOf } from '../support/client.ts';
import { openLive } from '../support/live-client.ts';
import { user } from '../support/messages.ts';
import { until } from '../support/until.ts';

let at: TestBridge;
const start = async (options: TestBridgeOptions = {}) => {
  at = await startTestBridge(options);
};
afterEach(() => at.close());

const headers = { 'thread-id': 'thread' };
const body = { model: 'm', stream: true, store: false, input: [user('one')] };
const creates = () => at.simulator.journal.of('create');
const states = () => at.bridge.sessions().map(({ state }) => state);

describe('a client that loses its connection and repeats its request at once', () => {
  it('A repeated request receives the running turn from its first event: one generation', async () => {
    await start({ simulator: { deltaCount: 5 } });
    const held = at.simulator.script.onTurn({}, { kind: 'hold', at: 'before_terminal' });
    const first = await openLive(at.url, body, headers);
    await first.until('response.output_text.delta');
    first.hangUp();
    const again = openLive(at.url, body, headers);
    const second = await again;
    expect(second.headers['x-holdfast-outcome']).toBe('reattached');
    held.release();
    const events = ownEvents((await second.rest()).events);
    expect(events[0]!.type).toBe('response.created');
    expect(events.map(({ data }) => data.sequence_number)).toEqual(events.map((_, index) => index));
    expect(events.at(-1)!.type).toBe('response.completed');
    expect(creates()).toHaveLength(1);
  });

  it('A repeated request receives the answer of a turn that ended without a reader', async () => {
    await start();
    const held = at.simulator.script.onTurn({}, { kind: 'hold', at: 'before_terminal' });
    const first = await openLive(at.url, body, headers);
    await first.until('response.output_item.done');
    first.hangUp();
    held.release();
    await until(() => states()[0] === 'live.idle');
    const second = await post(at.url, body, headers);
    expect(second.headers['x-holdfast-outcome']).toBe('reattached');
    expect(terminalsOf(second).map(({ type }) => type)).toEqual(['response.completed']);
    expect(digestOf(second.body)).toBe(expectedDigest({ items: [user('one')] as never }));
    expect(creates()).toHaveLength(1);
    const third = await post(at.url, body, headers);
    expect(third.headers['x-holdfast-outcome']).toBe('live_reuse');
    expect(creates()).toHaveLength(2);
  });

  it('A conversation continues after an answer that a repeated request received', async () => {
    await start();
    const held = at.simulator.script.onTurn({}, { kind: 'hold', at: 'before_terminal' });
    const first = await openLive(at.url, body, headers);
    await first.until('response.output_item.done');
    first.hangUp();
    held.release();
    const second = await post(at.url, body, headers);
    const input = [...body.input, ...second.body.output, user('two')];
    const third = await post(at.url, { ...body, input }, headers);
    expect(digestOf(third.body)).toBe(expectedDigest({ items: input as never }));
    expect(creates().map(({ itemsReceived }) => itemsReceived)).toEqual([1, 1]);
  });
});

describe('an interrupt', () => {
  it('An interrupt that is followed by another prompt cancels the old turn, and none of its events reach a client', async () => {
    await start({ simulator: { deltaCount: 5 } });
    at.simulator.script.onTurn({ nth: 1 }, { kind: 'late_frames', at: { deltas: 2 } });
    const first = await openLive(at.url, body, headers);
    await first.until('response.output_text.delta');
    first.hangUp();
    const input = [user('one'), user('interrupted'), user('two')];
    const second = await post(at.url, { ...body, input }, headers);
    expect(second.headers['x-holdfast-outcome']).toBe('superseded');
    expect(terminalsOf(second).map(({ type }) => type)).toEqual(['response.completed']);
    expect(digestOf(second.body)).toBe(expectedDigest({ items: input as never }));
    const ids = second.events.flatMap(({ data }) => (data.response ? [(data.response as { id: string }).id] : []));
    expect(new Set(ids).size).toBe(1);
    // The provider may still be writing the old answer, so its socket is not reused.
    expect(new Set(creates().map(({ connection }) => connection)).size).toBe(2);
  });
});

describe('a request anchored to the answer before the running one', () => {
  it('A request anchored before the running turn forks with the right context, also with store: false and after the old client has left', async () => {
    await start();
    const first = await post(at.url, { ...body, store: false }, headers);
    const held = at.simulator.script.onTurn({}, { kind: 'hold', at: { deltas: 1 } });
    const anchored = { ...body, store: false, previous_response_id: first.body.id };
    const left = await openLive(at.url, { ...anchored, input: [user('two')] }, headers);
    await left.until('response.output_item.added');
    left.hangUp();
    held.remove();
    const other = await post(at.url, { ...anchored, input: [user('other two')] }, headers);
    expect(other.headers['x-holdfast-outcome']).toBe('forked');
    const items = [...body.input, ...first.body.output, user('other two')];
    expect(digestOf(other.body)).toBe(expectedDigest({ items: items as never }));
    held.release();
  });
});

describe('a client that does not come back', () => {
  it('A turn whose client does not come back is cancelled after the grace period, and its session continues from the previous head', async () => {
    await start({ env: { HOLDFAST_DISCONNECT_GRACE_MS: '30' } });
    const first = await post(at.url, body, headers);
    at.simulator.script.onTurn({}, { kind: 'silence', at: { deltas: 1 } });
    const input = [user('one'), ...first.body.output, user('two')];
    const second = await openLive(at.url, { ...body, input }, headers);
    await second.until('response.output_text.delta');
    second.hangUp();
    await until(async () => (await at.store.sessions(1))[0]!.ownerWorkerId === null);
    const [session] = await at.store.sessions(1);
    expect(session).toMatchObject({ state: 'stale', activeTurnId: null });
    expect((await at.store.turnsOf(session!.id, 9)).map(({ state }) => state)).toEqual(['cancelled', 'completed']);
    const third = await post(at.url, { ...body, input }, headers);
    expect(digestOf(third.body)).toBe(expectedDigest({ items: input as never }));
  });
});

describe('independent callers that send the same body', () => {
  it('Independent callers that send the same body each get a generation of their own', async () => {
    await start();
    const answers = await Promise.all(Array.from({ length: 10 }, () => post(at.url, body)));
    expect(new Set(answers.map(({ body: { id } }) => id)).size).toBe(10);
    expect(creates()).toHaveLength(10);
  });

  it('Independent callers that send the same body keep their own stream, in one thread too', async () => {
    await start({ simulator: { deltaCount: 5 } });
    const held = at.simulator.script.onTurn({ nth: 1 }, { kind: 'hold', at: 'before_terminal' });
    const first = await openLive(at.url, body, headers);
    await first.until('response.output_text.delta');
    const second = await openLive(at.url, body, headers);
    expect(second.headers['x-holdfast-outcome']).toBe('parallel_lane');
    held.release();
    for (const each of [first, second]) {
      const { events, cut } = await each.rest();
      expect([cut, events.at(-1)!.type]).toEqual([false, 'response.completed']);
    }
    expect(creates()).toHaveLength(2);
  });
});
