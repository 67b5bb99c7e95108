import { afterEach, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge, type TestBridgeOptions } from '../support/bridge.ts';
import { ownEvents, post } from '../support/client.ts';
import { openLive } from '../support/live-client.ts';
import { user } from '../support/messages.ts';
import { until } from '../support/until.ts';

let at: TestBridge;
const start = async (options: TestBridgeOptions = {}) => {
  at = await startTestBridge(options);
};
afterEach(() => at.close());

type Item = Record<string, unknown>;
const instructed: Item = { type: 'message', role: 'developer', content: [{ type: 'input_text', text: 'Be brief.' }] };
/** Headers of an SDK client object with one fixed session header: the same for all its conversations. */
const headers = { 'session-id': 'one-client-object' };
const bodyOf = (input: readonly Item[]) => ({ model: 'm', stream: true, store: false, input });
const creates = () => at.simulator.journal.of('create');
const deltas = () => creates().filter(({ previousResponseId }) => previousResponseId !== null);
const open = () => at.simulator.connections.filter((each) => each.open).length;

/**
 * Runs one more turn of a conversation. Returns its new items, and whether the model received exactly what the client
 * means.
 */
async function say(conversation: Item[], text: string, url = at.url) {
  const input = [...conversation, user(text)];
  const answer = await post(url, bodyOf(input), headers);
  expect(answer.status).toBe(200);
  expect(digestOf(answer.body)).toBe(expectedDigest({ items: input as never }));
  return {
    outcome: answer.headers['x-holdfast-outcome'],
    session: answer.headers['x-holdfast-session'],
    items: [...input, ...answer.body.output],
  };
}

describe('ten conversations of one client object under one session header', () => {
  it('Conversations under one session header get a session and a warm socket each, and go out as deltas from their second turn on', async () => {
    await start();
    const conversations: Item[][] = Array.from({ length: 10 }, () => [instructed]);
    for (let turn = 0; turn < 4; turn += 1) {
      for (const [index, items] of conversations.entries()) {
        const said = await say(items, `question ${turn} of conversation ${index}`);
        expect(said.outcome).toBe(turn === 0 ? 'created' : 'live_reuse');
        conversations[index] = said.items;
      }
    }
    expect(deltas()).toHaveLength(30);
    expect(at.bridge.sessions()).toHaveLength(10);
    expect(open()).toBe(10);
  });

  it('Conversations under one session header do not wait for each other', async () => {
    await start();
    const held = at.simulator.script.onTurn({ nth: 1 }, { kind: 'hold', at: 'before_terminal' });
    const first = await openLive(at.url, bodyOf([user('slow')]), headers);
    await first.until('response.output_text.delta');
    let items: Item[] = [];
    for (const text of ['quick', 'quicker']) ({ items } = await say(items, text));
    expect(deltas()).toHaveLength(1);
    held.release();
    expect((await first.rest()).events.at(-1)!.type).toBe('response.completed');
  });

  it('Conversations under one session header are found again after a restart', async () => {
    await start();
    let one = (await say([], 'one')).items;
    let two = (await say([], 'two')).items;
    await at.restart();
    for (const text of ['again', 'and again']) {
      const first = await say(one, text);
      const second = await say(two, text);
      expect([first.outcome, second.outcome]).toEqual(
        text === 'again' ? ['stale_recovery', 'stale_recovery'] : ['live_reuse', 'live_reuse'],
      );
      [one, two] = [first.items, second.items];
    }
    expect(deltas()).toHaveLength(2);
    expect(at.bridge.sessions()).toHaveLength(2);
  });

  it('Conversations keep their socket once they were continued, though the header names another session', async () => {
    await start({ env: { HOLDFAST_SOFT_IDLE_MS: '300' } });
    await say([], 'the conversation that has the header');
    const other = await say((await say([], 'another')).items, 'continued');
    await say([], 'asked once');
    await until(() => open() === 2);
    expect((await say(other.items, 'later')).outcome).toBe('live_reuse');
  });
});

describe('a header that no longer names a session', () => {
  it('A header that no longer names a session does not move a conversation out of its session', async () => {
    await start();
    const { session } = await say([], 'the conversation that has the header');
    let other = await say([], 'another');
    const row = (await at.store.sessionById(session!))!;
    const saved = { state: 'closed', snapshot: row.snapshot, machineVersion: row.machineVersion } as const;
    const writer = { me: row.ownerWorkerId!, nonce: row.ownerNonce! };
    await at.store.close({ ...writer, scope: row.scope, sessionId: row.id, epoch: row.epoch, saved });
    for (const text of ['two', 'three']) {
      other = await say(other.items, text);
      expect(other.outcome).toBe('live_reuse');
    }
    expect(deltas()).toHaveLength(2);
  });

  it('A header that names a session moves a conversation out of a session that another header names', async () => {
    await start();
    const first = await say([], 'one');
    const forked = [...first.items, user('two, for a helper')];
    const helper = await post(at.url, bodyOf(forked), { 'session-id': 'of-a-helper' });
    expect(helper.headers['x-holdfast-session']).not.toBe(first.session);
    expect((await say(first.items, 'two')).outcome).toBe('live_reuse');
    expect(deltas()).toHaveLength(1);
  });
});

describe('one conversation under a session header stays in its session', () => {
  it('A conversation stays in its session when its last message is edited', async () => {
    await start();
    const first = await say([], 'one');
    await say(first.items, 'two');
    const edited = await say(first.items, 'two, edited');
    expect(edited.outcome).toBe('live_reuse');
    await say(edited.items, 'three');
    expect(at.bridge.sessions()).toHaveLength(1);
    expect(open()).toBe(1);
  });

  it('A conversation stays in its session when it is edited beside the conversation that has the header', async () => {
    await start();
    await say([], 'the conversation that has the header');
    const first = await say([], 'one');
    await say(first.items, 'two');
    await say((await say(first.items, 'two, edited')).items, 'three');
    expect(at.bridge.sessions()).toHaveLength(2);
    expect(open()).toBe(2);
  });

  it('A conversation stays in its session when it is edited at a worker that does not own it', async () => {
    await start();
    await say([], 'the conversation that has the header');
    const first = await say([], 'one');
    await say(first.items, 'two');
    await using beside = await startTestBridge({ beside: at });
    const edited = await say(first.items, 'two, edited', beside.url);
    expect(edited.session).toBe(first.session);
    expect((await say(edited.items, 'three', beside.url)).session).toBe(first.session);
    expect(open()).toBe(2);
    expect(beside.bridge.sessions()).toEqual([]);
  });

  it('A conversation stays in its session when its last request is repeated after its answer was delivered', async () => {
    await start();
    const first = await say([], 'one');
    await say(first.items, 'two');
    expect((await say(first.items, 'two')).outcome).toBe('live_reuse');
    expect((await say([], 'one')).outcome).toBe('live_reuse');
    expect(at.bridge.sessions()).toHaveLength(1);
  });

  it('A conversation stays in its session when an interrupted prompt is followed by another', async () => {
    await start({ simulator: { deltaCount: 5 } });
    const first = await say([], 'one');
    at.simulator.script.onTurn({}, { kind: 'hold', at: 'before_terminal' });
    const live = await openLive(at.url, bodyOf([...first.items, user('interrupted')]), headers);
    await live.until('response.output_text.delta');
    live.hangUp();
    expect((await say([...first.items, user('interrupted')], 'two')).outcome).toBe('superseded');
    expect(at.bridge.sessions()).toHaveLength(1);
  });

  it('A conversation stays in its session when its thread is named, whatever it sends', async () => {
    await start();
    const thread = { ...headers, 'thread-id': 'a-thread' };
    for (const text of ['one', 'something else', 'a compacted beginning']) {
      await post(at.url, bodyOf([user(text)]), thread);
    }
    expect(at.bridge.sessions()).toHaveLength(1);
    expect(open()).toBe(1);
  });
});

describe('a request that is repeated while its first copy runs unread', () => {
  it('A repeated request takes over the unread stream of its first copy without any key', async () => {
    await start({ simulator: { deltaCount: 5 } });
    const held = at.simulator.script.onTurn({}, { kind: 'hold', at: 'before_terminal' });
    const keyless = bodyOf([user('long work')]);
    for (let repeat = 0; repeat < 3; repeat += 1) {
      const live = await openLive(at.url, keyless, { 'x-stainless-retry-count': String(repeat) });
      await live.until('response.output_text.delta');
      live.hangUp();
    }
    const last = openLive(at.url, keyless, { 'x-stainless-retry-count': '3' });
    held.release();
    const events = ownEvents((await (await last).rest()).events);
    expect(events.map(({ data }) => data.sequence_number)).toEqual(events.map((_, index) => index));
    expect(creates()).toHaveLength(1);
  });

  it('A repeated request is a generation of its own while the first copy is read', async () => {
    await start({ simulator: { deltaCount: 5 } });
    const held = at.simulator.script.onTurn({ nth: 1 }, { kind: 'hold', at: 'before_terminal' });
    const keyless = bodyOf([user('the same question')]);
    const first = await openLive(at.url, keyless);
    await first.until('response.output_text.delta');
    expect((await post(at.url, keyless)).status).toBe(200);
    held.release();
    expect((await first.rest()).events.at(-1)!.type).toBe('response.completed');
    expect(creates()).toHaveLength(2);
  });
});
