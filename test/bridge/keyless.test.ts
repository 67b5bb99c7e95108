import { afterEach, describe, expect, it } from 'vitest';
import { MOST_CANDIDATES } from '../../src/store/port.ts';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge, type TestBridgeOptions } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { user } from '../support/messages.ts';
import { until } from '../support/until.ts';

let at: TestBridge;
const start = async (options: TestBridgeOptions = {}) => {
  at = await startTestBridge(options);
};
afterEach(() => at.close());

const bodyOf = (...input: object[]) => ({ model: 'm', stream: true, store: false, input });
const creates = () => at.simulator.journal.of('create');

describe('a client that sends no key and resends everything', () => {
  it('A keyless resend finds its session by the beginning of its input: one socket, deltas', async () => {
    await start();
    let input: object[] = [user('one')];
    const outcomes: string[] = [];
    for (let turn = 0; turn < 6; turn += 1) {
      const answer = await post(at.url, bodyOf(...input));
      expect(digestOf(answer.body)).toBe(expectedDigest({ items: input as never }));
      outcomes.push(answer.headers['x-holdfast-outcome']!);
      input = [...input, ...answer.body.output, user(`turn ${turn}`)];
    }
    expect(outcomes).toEqual(['created', ...Array(5).fill('live_reuse')]);
    expect(creates().map(({ itemsReceived }) => itemsReceived)).toEqual(Array(6).fill(1));
    expect(new Set(creates().map(({ connection }) => connection)).size).toBe(1);
  });

  it('A keyless resend finds its session after a restart', async () => {
    await start();
    const first = await post(at.url, bodyOf(user('one')));
    await at.restart();
    const answer = await post(at.url, bodyOf(user('one'), ...first.body.output, user('two')));
    expect(answer.headers['x-holdfast-outcome']).toBe('stale_recovery');
  });
});

describe('conversations that differ only in their reasoning', () => {
  const include = ['reasoning.encrypted_content'];
  const ask = (input: object[]) => post(at.url, { ...bodyOf(...input), include });

  it.each([
    ['on their warm sockets', false],
    ['after a restart', true],
  ])(
    'Conversations that differ only in reasoning, more of them than one look-up returns, each continue their own line %s',
    async (_, restarts) => {
      await start({ simulator: { reasoning: true } });
      const firsts = await Promise.all(Array.from({ length: MOST_CANDIDATES + 4 }, () => ask([user('one')])));
      let talks: object[][] = firsts.map(({ body }) => [user('one'), ...body.output]);
      expect(new Set(talks.map((items) => JSON.stringify((items.at(-1) as { content: unknown }).content))).size).toBe(
        1,
      );
      if (restarts) await at.restart();
      for (const text of ['two', 'three']) {
        const before = creates().length;
        const next: object[][] = [];
        for (const [index, items] of talks.entries()) {
          const answer = await ask([...items, user(text)]);
          expect(answer.body).not.toHaveProperty('input_transformations');
          if (text === 'two') {
            expect(answer.headers['x-holdfast-session']).toBe(firsts[index]!.headers['x-holdfast-session']);
          }
          next.push([...items, user(text), ...answer.body.output]);
        }
        talks = next;
        const anchors = creates()
          .slice(before)
          .map(({ previousResponseId }) => previousResponseId);
        if (!restarts || text === 'three') expect(anchors).not.toContain(null);
      }
      expect(at.bridge.sessions()).toHaveLength(talks.length);
    },
  );
});

it('A warm-up is found as the parent although several new items follow it', async () => {
  await start();
  const first = await post(at.url, { ...bodyOf(user('one')), generate: false });
  const answer = await post(at.url, bodyOf(user('one'), user('two'), user('three')));
  expect(answer.headers['x-holdfast-outcome']).toBe('live_reuse');
  expect(creates().at(-1)!.previousResponseId).toBe(first.body.id);
});

it('Turns of a conversation stored at the provider are not matched as the beginning of another conversation', async () => {
  await start();
  const first = await post(at.url, { ...bodyOf(user('one')), store: true, conversation: 'conv_1' });
  const answer = await post(at.url, { ...bodyOf(user('one'), ...first.body.output, user('two')), store: true });
  expect([answer.status, answer.headers['x-holdfast-outcome']]).toEqual([200, 'created']);
});

describe('five hundred one-shot requests', () => {
  it('One-shot requests leave no socket and no session in memory after their short idle limit', async () => {
    await start({ env: { HOLDFAST_SOFT_IDLE_MS: '200' }, simulator: { journalBodies: false } });
    const texts = Array.from({ length: 500 }, (_, index) => `question ${index}`);
    const caller = async (mine: string[]) => {
      for (const text of mine) expect((await post(at.url, bodyOf(user(text)))).status).toBe(200);
    };
    await Promise.all(Array.from({ length: 25 }, (_, index) => caller(texts.filter((_t, n) => n % 25 === index))));
    expect(creates()).toHaveLength(500);
    await until(() => at.bridge.sessions().length === 0);
    await until(() => at.simulator.connections.every(({ open }) => !open));
  });
});
