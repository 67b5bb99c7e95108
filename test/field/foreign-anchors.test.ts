import { describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { post } from '../support/client.ts';
import { bodyOf, startBridge, user } from './support.ts';

describe('an anchor that the bridge did not see made', () => {
  it.each([
    ['over WebSocket, streamed', 'websocket', true],
    ['over WebSocket, in one object', 'websocket', false],
    ['over HTTP, streamed', 'http', true],
    ['over HTTP, in one object', 'http', false],
  ])('is the provider’s to know, and the line goes on from it: %s', async (_, transport, stream) => {
    const at = await startBridge({ env: { HOLDFAST_UPSTREAM_TRANSPORT: transport } });
    const more = { stream, store: true };
    const elsewhere = await post(at.simulator.url.replace(/\/v1$/, ''), bodyOf([user('earlier')], more));
    const first = await post(at.url, bodyOf([user('one')], { ...more, previous_response_id: elsewhere.body.id }));
    const known = [user('earlier'), ...elsewhere.body.output, user('one')];
    expect(digestOf(first.body)).toBe(expectedDigest({ items: known as never }));
    expect(first.body.previous_response_id).toBe(elsewhere.body.id);
    await at.restart();
    const second = await post(at.url, bodyOf([user('two')], { ...more, previous_response_id: first.body.id }));
    expect(digestOf(second.body)).toBe(
      expectedDigest({ items: [...known, ...first.body.output, user('two')] as never }),
    );
    // A second line from the same place.
    const fork = await post(at.url, bodyOf([user('other')], { ...more, previous_response_id: elsewhere.body.id }));
    const forked = [user('earlier'), ...elsewhere.body.output, user('other')];
    expect(digestOf(fork.body)).toBe(expectedDigest({ items: forked as never }));
    const unknown = await post(at.url, bodyOf([user('x')], { ...more, previous_response_id: 'resp_never_was' }));
    expect([unknown.status, unknown.body.error?.code]).toEqual([400, 'previous_response_not_found']);
    expect(unknown.body.error).not.toHaveProperty('bridge_code');
  });
});
