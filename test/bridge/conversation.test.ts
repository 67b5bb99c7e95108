import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { post, terminalsOf } from '../support/client.ts';
import { user } from '../support/messages.ts';

let at: TestBridge;
beforeAll(async () => {
  at = await startTestBridge();
});
afterAll(() => at?.close());

describe('a conversation that resends everything', () => {
  it('A conversation whose client resends everything goes out as deltas on one socket, with the whole context upstream', async () => {
    const headers = { 'thread-id': crypto.randomUUID() };
    const history: object[] = [];
    const outcomes: string[] = [];
    for (let turn = 0; turn < 4; turn += 1) {
      history.push(user(`turn ${turn}`));
      const answer = await post(at.url, { model: 'm', stream: true, store: false, input: history }, headers);
      expect(answer.status).toBe(200);
      expect(terminalsOf(answer)).toHaveLength(1);
      expect(digestOf(answer.body)).toBe(expectedDigest({ items: history as never }));
      outcomes.push(answer.headers['x-holdfast-outcome']!);
      history.push(...answer.body.output);
    }
    expect(outcomes).toEqual(['created', 'live_reuse', 'live_reuse', 'live_reuse']);
    const creates = at.simulator.journal.of('create');
    expect(creates.map(({ itemsReceived }) => itemsReceived)).toEqual([1, 1, 1, 1]);
    expect(new Set(creates.map(({ connection }) => connection)).size).toBe(1);
  });
});
