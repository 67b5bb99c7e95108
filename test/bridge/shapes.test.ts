import { afterEach, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge, type TestBridgeOptions } from '../support/bridge.ts';
import { post, terminalsOf } from '../support/client.ts';
import { user } from '../support/messages.ts';

let at: TestBridge;
const start = async (options: TestBridgeOptions = {}) => {
  at = await startTestBridge(options);
};
afterEach(() => at.close());

const turnStates = async () => {
  const [session] = await at.store.sessions(1);
  return (await at.store.turnsOf(session!.id, 9)).map(({ state, replay }) => [state, replay]);
};

describe('stream: false', () => {
  it('A request with stream: false gets one response object, and continues on the same socket', async () => {
    await start();
    const first = await post(at.url, { model: 'm', store: false, input: 'one' });
    expect(first.headers['content-type']).toMatch(/^application\/json/);
    expect(first.body.status).toBe('completed');
    const second = await post(at.url, {
      model: 'm',
      store: false,
      previous_response_id: first.body.id,
      input: [user('two')],
    });
    expect(second.headers['x-holdfast-outcome']).toBe('live_reuse');
    expect(digestOf(second.body)).toBe(
      expectedDigest({ items: [user('one'), ...first.body.output, user('two')] as never }),
    );
  });

  it('A failed turn with stream: false gets the HTTP status of its failure', async () => {
    await start();
    at.simulator.script.onTurn({}, { kind: 'failed', code: 'server_error' });
    const answer = await post(at.url, { model: 'm', input: 'one' });
    expect(answer.status).toBe(500);
    expect(answer.body.error).toMatchObject({ code: 'server_error' });
  });

  it('A refused handshake is relayed unchanged with stream: false', async () => {
    await start({
      simulator: { webSocket: { status: 429, headers: { 'retry-after': '7' }, body: { detail: 'slow' } } },
    });
    const answer = await post(at.url, { model: 'm', input: 'one' });
    expect(answer.status).toBe(429);
    expect(answer.headers['retry-after']).toBe('7');
    expect(JSON.parse(answer.text)).toEqual({ detail: 'slow' });
    expect(await at.store.sessions(1)).toEqual([]);
  });
});

describe('an upstream without WebSocket', () => {
  it('An upstream without WebSocket is served over HTTP, turn by turn, with the whole context', async () => {
    await start({ simulator: { webSocket: 404 } });
    const headers = { 'thread-id': 't' };
    const first = await post(at.url, { model: 'm', stream: true, store: false, input: [user('one')] }, headers);
    expect(first.headers['x-holdfast-outcome']).toBe('passed_through');
    const input = [user('one'), ...first.body.output, user('two')];
    const second = await post(at.url, { model: 'm', stream: true, store: false, input }, headers);
    expect(terminalsOf(second).map(({ type }) => type)).toEqual(['response.completed']);
    expect(digestOf(second.body)).toBe(expectedDigest({ items: input as never }));
    const third = await post(at.url, {
      model: 'm',
      stream: true,
      store: false,
      previous_response_id: second.body.id,
      input: [user('three')],
    });
    expect(digestOf(third.body)).toBe(
      expectedDigest({ items: [...input, ...second.body.output, user('three')] as never }),
    );
    expect(at.simulator.journal.of('upgrade')).toHaveLength(1);
  });
});

describe('a background request', () => {
  it('A background request is answered at once with the queued response and settled as incomplete', async () => {
    await start();
    const answer = await post(at.url, { model: 'm', background: true, input: 'one' });
    expect(answer.status).toBe(200);
    expect(['queued', 'in_progress']).toContain(answer.body.status);
    expect(answer.headers['x-holdfast-outcome']).toBe('passed_through');
    expect(await turnStates()).toEqual([['incomplete', 'anchor_only']]);
  });

  it('A background request that is streamed to its end is a turn like any other', async () => {
    await start();
    const answer = await post(at.url, { model: 'm', background: true, stream: true, input: 'one' });
    expect(terminalsOf(answer).map(({ type }) => type)).toEqual(['response.completed']);
    expect(await turnStates()).toEqual([['completed', 'exact']]);
  });
});

describe('a warm-up', () => {
  it('A warm-up generates nothing and is a turn that can be continued', async () => {
    await start();
    const headers = { 'thread-id': 't' };
    const warm = { model: 'm', stream: true, store: false, generate: false, input: [user('one')] };
    const first = await post(at.url, warm, headers);
    expect(first.body.output).toEqual([]);
    const input = [user('one'), user('two')];
    const second = await post(at.url, { model: 'm', stream: true, store: false, input }, headers);
    expect(digestOf(second.body)).toBe(expectedDigest({ items: input as never }));
    expect(at.simulator.journal.of('create').map(({ itemsReceived }) => itemsReceived)).toEqual([1, 1]);
  });
});

describe('a steered response', () => {
  it('A steered response is followed by its successor in the same stream, and the line continues from the successor', async () => {
    await start();
    at.simulator.script.onTurn({ nth: 1 }, { kind: 'steered' });
    const headers = { 'thread-id': 't' };
    const first = await post(at.url, { model: 'm', stream: true, store: false, input: [user('one')] }, headers);
    expect(first.events.filter(({ type }) => type === 'response.created')).toHaveLength(2);
    expect(first.body.status).toBe('completed');
    const second = await post(at.url, {
      model: 'm',
      stream: true,
      store: false,
      previous_response_id: first.body.id,
      input: [user('two')],
    });
    expect(second.body.status).toBe('completed');
  });
});
