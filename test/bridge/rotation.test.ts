import { afterEach, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { post, terminalsOf } from '../support/client.ts';
import { user } from '../support/messages.ts';
import { until } from '../support/until.ts';

let at: TestBridge | null = null;
afterEach(async () => {
  await at?.close();
  at = null;
});

const gone = () => until(() => at!.bridge.sessions().length === 0);

describe.each([
  ['by age', { HOLDFAST_SOCKET_AGE_MS: '50', HOLDFAST_SOCKET_AGE_JITTER_MS: '0' }],
  ['when it was idle for long enough', { HOLDFAST_IDLE_SOCKET_MS: '50', HOLDFAST_SOFT_IDLE_MS: '50' }],
])('a socket retired %s', (_, env) => {
  it('A client that resends its history does not notice that its socket was retired', async () => {
    at = await startTestBridge({ env });
    const headers = { 'thread-id': 't' };
    const first = await post(at.url, { model: 'm', stream: true, store: false, input: [user('one')] }, headers);
    await gone();
    const input = [user('one'), ...first.body.output, user('two')];
    const second = await post(at.url, { model: 'm', stream: true, store: false, input }, headers);
    expect(second.headers['x-holdfast-outcome']).toBe('stale_recovery');
    expect(second.headers['x-holdfast-session']).toBe(first.headers['x-holdfast-session']);
    expect(terminalsOf(second).map(({ type }) => type)).toEqual(['response.completed']);
    expect(digestOf(second.body)).toBe(expectedDigest({ items: input as never }));
    expect(at.simulator.journal.of('upgrade')).toHaveLength(2);
  });

  it('A client that anchors to an unstored response does not notice that its socket was retired', async () => {
    at = await startTestBridge({ env });
    const first = await post(at.url, { model: 'm', stream: true, store: false, input: [user('one')] });
    await gone();
    const second = await post(at.url, {
      model: 'm',
      stream: true,
      store: false,
      previous_response_id: first.body.id,
      input: [user('two')],
    });
    expect(digestOf(second.body)).toBe(
      expectedDigest({ items: [user('one'), ...first.body.output, user('two')] as never }),
    );
    expect(second.body.previous_response_id).toBe(first.body.id);
  });
});

describe('a socket that is the only holder of its conversation', () => {
  // The call of a hosted tool cannot be resent, so the line is not exact, and the provider does not store it.
  const hosted = [{ type: 'code_interpreter_call', id: 'ci_1', status: 'completed', code: '1', container_id: 'c' }];

  it('A socket that is the only holder of its conversation is exempt from the idle and age limits', async () => {
    at = await startTestBridge({
      env: {
        HOLDFAST_SOCKET_AGE_MS: '50',
        HOLDFAST_SOCKET_AGE_JITTER_MS: '0',
        HOLDFAST_SOFT_IDLE_MS: '50',
      },
    });
    at.simulator.script.onTurn({ nth: 1 }, { kind: 'reply', output: hosted });
    const first = await post(at.url, { model: 'm', stream: true, store: false, input: [user('one')] });
    const other = await post(at.url, { model: 'm', stream: true, store: false, input: [user('else')] });
    const session = String(first.headers['x-holdfast-session']);
    await until(() => !at!.bridge.sessions().some(({ id }) => id === other.headers['x-holdfast-session']));
    expect(at.bridge.sessions()).toEqual([{ id: session, epoch: 1, state: 'live.idle' }]);
    const second = await post(at.url, {
      model: 'm',
      stream: true,
      store: false,
      previous_response_id: first.body.id,
      input: [user('two')],
    });
    expect(second.headers['x-holdfast-outcome']).toBe('live_reuse');
  });

  it('A request gets an explicit error after the loss of the socket that was the only holder of its conversation', async () => {
    at = await startTestBridge();
    at.simulator.script.onTurn({ nth: 1 }, { kind: 'reply', output: hosted });
    const first = await post(at.url, { model: 'm', stream: true, store: false, input: [user('one')] });
    at.simulator.dropAll();
    await gone();
    const second = await post(at.url, {
      model: 'm',
      stream: true,
      store: false,
      previous_response_id: first.body.id,
      input: [user('two')],
    });
    expect(second.status).toBe(400);
    expect(second.body.error).toMatchObject({ code: 'previous_response_not_found', outcome: 'expired_continuity' });
    expect(at.simulator.journal.of('create')).toHaveLength(1);
  });
});

describe('a conversation larger than the limit of stored context', () => {
  it('A conversation above the stored-context limit continues while its socket lives, and gets an explicit error once that is lost', async () => {
    at = await startTestBridge({ env: { HOLDFAST_MAX_TRANSCRIPT_BYTES: '500' } });
    const ask = (input: object[], anchor?: string) =>
      post(at!.url, {
        model: 'm',
        stream: true,
        store: false,
        input,
        ...(anchor ? { previous_response_id: anchor } : {}),
      });
    const first = await ask([user('one')]);
    const second = await ask([user('x'.repeat(600))], first.body.id);
    const third = await ask([user('three')], second.body.id);
    expect(third.headers['x-holdfast-outcome']).toBe('live_reuse');
    at.simulator.dropAll();
    await gone();
    expect((await ask([user('four')], third.body.id)).body.error).toMatchObject({ outcome: 'expired_continuity' });
    expect((await ask([user('two')], first.body.id)).status).toBe(200);
  });
});
