import { afterEach, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { user } from '../support/messages.ts';

let at: TestBridge;
afterEach(() => at.close());

type Item = Record<string, unknown>;
const headers = { 'thread-id': 'compacting' };
const base = { model: 'm', stream: true, store: false, include: ['reasoning.encrypted_content'] };
const lastSent = () => at.simulator.journal.of('create').at(-1)!;

async function ask(body: Item, meant: Item[]) {
  const answer = await post(at.url, { ...base, ...body }, headers);
  expect([answer.status, digestOf(answer.body)]).toEqual([200, expectedDigest({ items: meant as never })]);
  return answer.body;
}

/** Returns the context after an answer that holds a compaction: that item and everything after it. */
const sinceCompaction = (output: Item[]) => output.slice(output.findLastIndex(({ type }) => type === 'compaction'));

/**
 * Continues the conversation by a resend, by an anchor, and by an anchor after a restart. Each time the model must see
 * the compacted context, not the full history.
 */
async function goesOn(context: Item[], id: string) {
  const first = await ask({ input: [...context, user('next')] }, [...context, user('next')]);
  const second = [...context, user('next'), ...first.output];
  const anchored = await ask({ previous_response_id: first.id, input: [user('more')] }, [...second, user('more')]);
  expect(lastSent().itemsReceived).toBe(1);
  await at.restart();
  const third = [...second, user('more'), ...anchored.output, user('after a restart')];
  await ask({ previous_response_id: anchored.id, input: [user('after a restart')] }, third);
  expect(lastSent()).toMatchObject({ previousResponseId: null, itemsReceived: third.length });
  expect(id).not.toBe(first.id);
}

describe('a compacted conversation', () => {
  it('A conversation that its client compacts with a trigger item continues from the compacted context', async () => {
    at = await startTestBridge({ simulator: { reasoning: true } });
    const one = await ask({ input: [user('one')] }, [user('one')]);
    const trigger = { type: 'compaction_trigger' };
    const input = [user('one'), ...one.output, trigger];
    const answer = await post(at.url, { ...base, input }, headers);
    expect(answer.body.output).toEqual([expect.objectContaining({ type: 'compaction' })]);
    // Only the trigger was sent: the socket already held the rest.
    expect(lastSent()).toMatchObject({ itemsReceived: 1, previousResponseId: one.id });
    await goesOn([...answer.body.output], answer.body.id);
  });

  it('A conversation that the provider compacts in the middle of an answer continues from the compacted context', async () => {
    at = await startTestBridge({ simulator: { reasoning: true } });
    const management = { context_management: [{ type: 'compaction', compact_threshold: 1 }] };
    const input = [user('one'.repeat(50))];
    const answer = await post(at.url, { ...base, ...management, input }, headers);
    expect(answer.body.output.map(({ type }) => type)).toContain('compaction');
    await goesOn(sinceCompaction(answer.body.output), answer.body.id);
  });

  it('A conversation that restarts from the output of a separate compact call continues from the compacted context', async () => {
    at = await startTestBridge({ simulator: { reasoning: true } });
    const one = await ask({ input: [user('one')] }, [user('one')]);
    const done = await fetch(`${at.url}/v1/responses/compact`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: 'Bearer sk-test', ...headers },
      body: JSON.stringify({ model: 'm', input: [user('one'), ...one.output] }),
    });
    const { output } = (await done.json()) as { output: Item[] };
    expect(output.at(-1)).toMatchObject({ type: 'compaction' });
    await goesOn(output, one.id);
  });
});
