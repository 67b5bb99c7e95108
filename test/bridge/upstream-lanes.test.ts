import { afterEach, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest, type SimulatorOptions } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { type Answer, post } from '../support/client.ts';
import { user } from '../support/messages.ts';
import { until } from '../support/until.ts';

let at: TestBridge | null = null;
afterEach(async () => {
  await at?.close();
  at = null;
});

const start = async (env: Record<string, string> = {}, simulator: SimulatorOptions = {}) => {
  at = await startTestBridge({ env: { HOLDFAST_UPSTREAM_LANES: '32', ...env }, simulator });
  return at;
};
const creates = () => at!.simulator.journal.of('create');
const opened = () => at!.simulator.journal.of('opened').length;

/** A client that resends its whole history with each turn. */
function talker(name: string, history: object[] = [], key = 'Bearer sk-test') {
  return {
    history,
    async say(text: string, signal?: AbortSignal): Promise<Answer> {
      const input = [...history, user(text)];
      const headers = { 'thread-id': name, authorization: key };
      const answer = await post(at!.url, { model: 'm', stream: true, store: false, input }, headers, signal);
      expect(answer.body.error ?? null).toBeNull();
      expect(digestOf(answer.body)).toBe(expectedDigest({ items: input as never }));
      history.splice(0, history.length, ...input, ...answer.body.output);
      return answer;
    },
  };
}

describe('conversations on one upstream socket', () => {
  it('Each conversation has a lane of its own, on which its turns go as deltas', async () => {
    await start();
    const talkers = ['a', 'b', 'c', 'd'].map((name) => talker(name));
    await talkers[0]!.say('one');
    await Promise.all(talkers.slice(1).map((each) => each.say('one')));
    await Promise.all(talkers.map((each) => each.say('two')));
    expect(opened()).toBe(1);
    expect(new Set(creates().map(({ lane }) => lane))).toEqual(new Set(['h1', 'h2', 'h3', 'h4']));
    expect(creates().map(({ itemsReceived }) => itemsReceived)).toEqual(creates().map(() => 1));
  });

  it('Clients see no lane', async () => {
    await start();
    const answer = await talker('a').say('one');
    expect(answer.text).not.toContain('stream_id');
  });

  it('Clients with different credentials do not share a socket', async () => {
    await start();
    const one = talker('a', [], 'Bearer sk-1');
    const other = talker('a', [], 'Bearer sk-2');
    await one.say('one');
    await other.say('one');
    await Promise.all([one.say('two'), other.say('two')]);
    const used = creates().map(({ connection, credential }) => `${credential} ${connection}`);
    expect(new Set(used).size).toBe(2);
    expect(opened()).toBe(2);
  });

  it('The loss of the socket costs each conversation only its anchor', async () => {
    await start();
    const [one, other] = [talker('a'), talker('b')];
    await one.say('one');
    await other.say('one');
    at!.simulator.dropAll();
    await until(() => at!.bridge.sessions().length === 0);
    await Promise.all([one.say('two'), other.say('two')]);
    await Promise.all([one.say('three'), other.say('three')]);
    expect(creates().map(({ itemsReceived }) => itemsReceived)).toEqual([1, 1, 3, 3, 1, 1]);
    expect(opened()).toBe(2);
  });

  it('A turn that is given up leaves the socket, and what the others say on it, alone', async () => {
    await start({ HOLDFAST_DISCONNECT_GRACE_MS: '0' });
    const [one, other] = [talker('a'), talker('b')];
    await one.say('one');
    await other.say('one');
    const hold = at!.simulator.script.onTurn({}, { kind: 'hold', at: { deltas: 1 } });
    const leaving = new AbortController();
    const left = other.say('two', leaving.signal).catch(() => null);
    await at!.simulator.waitFor('held');
    leaving.abort();
    await left;
    await until(() => at!.bridge.sessions().length === 1);
    await other.say('instead');
    hold.release();
    await one.say('two');
    expect(opened()).toBe(1);
    expect(creates().at(-1)).toMatchObject({ lane: 'h1', itemsReceived: 1 });
  });

  it('The 17th turn at the same time goes to another socket, where it does not wait', async () => {
    await start();
    const talkers = Array.from({ length: 17 }, (_, n) => talker(`t${n}`));
    await talkers[0]!.say('one');
    for (const each of talkers.slice(1)) await each.say('one');
    const hold = at!.simulator.script.onTurn({}, { kind: 'hold', at: 'after_created' }, { times: 'always' });
    const answers = talkers.map((each) => each.say('two'));
    await at!.simulator.journal.count('held', 17, () => true, { timeoutMs: 25_000 });
    hold.release();
    await Promise.all(answers);
    expect(creates().every(({ queuedBehind }) => queuedBehind === 0)).toBe(true);
    expect(opened()).toBe(2);
  });
});

describe('forks on another lane', () => {
  it('A new conversation that continues a known one goes on from it on the same socket, without its history', async () => {
    await start();
    const source = talker('a');
    await source.say('one');
    await source.say('two');
    const fork = talker('b', [...source.history]);
    await fork.say('aside');
    await source.say('three');
    await fork.say('further');
    expect(opened()).toBe(1);
    expect(creates().map(({ lane, itemsReceived }) => [lane, itemsReceived])).toEqual([
      ['h1', 1],
      ['h1', 1],
      ['h2', 1],
      ['h1', 1],
      ['h2', 1],
    ]);
    expect(creates()[2]!.previousResponseId).toBe(creates()[1]!.responseId);
  });

  it('The source waits until the fork has begun, or the provider would refuse the fork', async () => {
    await start({}, { latencyMs: 150 });
    const source = talker('a');
    await source.say('one');
    const fork = talker('b', [...source.history]);
    const aside = fork.say('aside');
    await at!.simulator.journal.count('create', 2);
    await Promise.all([aside, source.say('two')]);
    expect(creates().map(({ lane, itemsReceived }) => [lane, itemsReceived])).toEqual([
      ['h1', 1],
      ['h2', 1],
      ['h1', 1],
    ]);
  });

  it('A fork that the provider refuses is sent in full, and its source keeps its anchor', async () => {
    await start();
    const source = talker('a');
    await source.say('one');
    at!.simulator.script.onTurn({}, { kind: 'refuse_anchor' });
    const fork = talker('b', [...source.history]);
    await fork.say('aside');
    await source.say('two');
    expect(creates().map(({ lane, itemsReceived }) => [lane, itemsReceived])).toEqual([
      ['h1', 1],
      ['h2', 1],
      ['h2', 3],
      ['h1', 1],
    ]);
  });

  it('A conversation whose lane was given up while it was idle goes on from it', async () => {
    await start({ HOLDFAST_SOFT_IDLE_MS: '600000', HOLDFAST_IDLE_SOCKET_MS: '50' });
    const headers = { authorization: 'Bearer sk-test' };
    await post(at!.url, { model: 'm', stream: true, store: false, input: [user('keeps the socket')] }, headers);
    const one = talker('a');
    await one.say('one');
    await until(() => at!.bridge.sessions().length === 1);
    const back = await one.say('two');
    expect(back.headers['x-holdfast-outcome']).toBe('stale_recovery');
    expect(creates().map(({ lane, itemsReceived }) => [lane, itemsReceived])).toEqual([
      ['h1', 1],
      ['h2', 1],
      ['h3', 1],
    ]);
  });
});

describe('an upstream without lanes', () => {
  it.each(['ignored', 'refused'] as const)(
    'Where stream_id is %s, each conversation has its own socket',
    async (lanes) => {
      await start({}, { lanes });
      const [one, other] = [talker('a'), talker('b')];
      for (const text of ['one', 'two']) {
        await one.say(text);
        await other.say(text);
      }
      expect(opened()).toBe(2);
      expect(creates().map(({ itemsReceived }) => itemsReceived)).toEqual([1, 1, 1, 1]);
    },
  );
});
