import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { user } from '../support/messages.ts';
import { connectSocket } from '../support/websocket.ts';

let at: TestBridge;
beforeAll(async () => {
  at = await startTestBridge();
});
afterAll(() => at?.close());

describe('a conversation on a WebSocket', () => {
  it('A client that names the previous response gets each turn as a delta on one upstream socket', async () => {
    using client = await connectSocket(at.url);
    const history: object[] = [];
    let previous: string | null = null;
    const before = at.simulator.journal.of('create').length;
    for (let turn = 0; turn < 3; turn += 1) {
      const message = user(`turn ${turn}`);
      history.push(message);
      const events = await client.create({
        model: 'm',
        store: false,
        input: [message],
        previous_response_id: previous,
      });
      const last = events.at(-1)!;
      expect(last.type).toBe('response.completed');
      expect(digestOf(last.response as never)).toBe(expectedDigest({ items: history as never }));
      previous = last.response!.id;
      history.push(...last.response!.output);
    }
    const creates = at.simulator.journal.of('create').slice(before);
    expect(creates.map(({ itemsReceived }) => itemsReceived)).toEqual([1, 1, 1]);
  });
});
