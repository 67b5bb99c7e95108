import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { type Answer, post } from '../support/client.ts';
import { user } from '../support/messages.ts';
import { until } from '../support/until.ts';

const TURNS = 4;

let owner: TestBridge;
let other: TestBridge;
beforeEach(async () => {
  owner = await startTestBridge();
  other = await startTestBridge({ beside: owner });
});
afterEach(async () => {
  await other?.close();
  await owner?.close();
});

/** Statements that belong to turns; reads of leases and worker addresses are not counted. */
const ofTurns =
  /^holdfast_(?:lookup|line|lineage|references|shared_items|session|turn|create|start|settle|claim|release|close)$/;

/** Returns the turn statements of the worker since the previous call, without the common prefix of their names. */
function statementsOf({ statements }: TestBridge): string[] {
  return (
    statements
      .splice(0)
      // A read of one row through the entity manager has no name.
      .map((name) => name.replace(/^select .* from "bridge_session" .*$/s, 'holdfast_session'))
      .filter((name) => ofTurns.test(name))
      .map((name) => name.replace('holdfast_', ''))
  );
}

/** Creates the client side of a conversation. */
function conversation(how: 'anchored' | 'whole', store: boolean, headers: Record<string, string> = {}) {
  const items: object[] = [];
  let last: Answer | null = null;
  const say = async (at: TestBridge, text: string): Promise<Answer> => {
    items.push(user(text));
    const input = how === 'whole' || last === null ? [...items] : [user(text)];
    const anchor = how === 'anchored' && last !== null ? { previous_response_id: last.body.id } : {};
    last = await post(at.url, { model: 'm', stream: true, store, input, ...anchor }, headers);
    expect(digestOf(last.body)).toBe(expectedDigest({ items: items as never }));
    items.push(...last.body.output);
    // The answer may leave before its settle is durable, but the counts below need idle sessions.
    await until(() => owner.bridge.sessions().every(({ state }) => state === 'live.idle' || state === 'stale'));
    return last;
  };
  return {
    say,
    /** Runs some turns at the owner and discards their counts. */
    async grow() {
      for (let nth = 0; nth < TURNS; nth += 1) await say(owner, `turn ${nth}`);
      for (const each of [owner, other]) statementsOf(each);
    },
  };
}

describe.each([false, true])('statements of an anchored turn with store: %s', (store) => {
  it('An anchored turn reads nothing from the store when its socket is warm', async () => {
    const { say, grow } = conversation('anchored', store);
    await grow();
    expect((await say(owner, 'one more')).headers['x-holdfast-outcome']).toBe('live_reuse');
    expect(statementsOf(owner)).toEqual(['start', 'settle']);
  });

  it('An anchored turn at another worker is forwarded to its owner after one look-up, however long its line is', async () => {
    const { say, grow } = conversation('anchored', store);
    await grow();
    expect((await say(other, 'elsewhere')).headers['x-holdfast-outcome']).toBe('live_reuse');
    expect(statementsOf(other)).toEqual(['lookup']);
    expect(statementsOf(owner)).toEqual(['start', 'settle']);
  });

  it('The next turns at that worker are forwarded without a look-up', async () => {
    const { say, grow } = conversation('anchored', store);
    await grow();
    await say(other, 'elsewhere');
    for (const each of [owner, other]) statementsOf(each);
    for (const text of ['again', 'and again']) {
      expect((await say(other, text)).headers['x-holdfast-outcome']).toBe('live_reuse');
    }
    expect(statementsOf(other)).toEqual([]);
    expect(statementsOf(owner)).toEqual(['start', 'settle', 'start', 'settle']);
  });

  it('An anchored turn after a takeover reads its lineage once, and only if the provider has not stored it', async () => {
    const { say, grow } = conversation('anchored', store);
    await grow();
    await owner.restart();
    statementsOf(owner);
    expect((await say(owner, 'after a restart')).headers['x-holdfast-outcome']).toBe('stale_recovery');
    const read = store ? [] : ['lineage'];
    expect(statementsOf(owner)).toEqual(['lookup', ...read, 'claim', 'turn', 'start', 'settle']);
  });
});

describe('statements of a conversation that is sent whole', () => {
  it('A full resend reads nothing from the store when its socket is warm', async () => {
    const { say, grow } = conversation('whole', false, { 'thread-id': 'whole' });
    await grow();
    await say(owner, 'one more');
    expect(statementsOf(owner)).toEqual(['start', 'settle']);
  });

  it('A full resend at another worker is forwarded to the owner of its thread after one look-up', async () => {
    const { say, grow } = conversation('whole', false, { 'thread-id': 'whole' });
    await grow();
    await say(other, 'elsewhere');
    expect(statementsOf(other)).toEqual(['lookup']);
    expect(statementsOf(owner)).toEqual(['start', 'settle']);
  });

  it('The next resends at that worker are forwarded without a look-up, and no search for repeats', async () => {
    const { say, grow } = conversation('whole', false, { 'thread-id': 'whole' });
    await grow();
    await say(other, 'elsewhere');
    for (const { statements } of [owner, other]) statements.splice(0);
    await say(other, 'again');
    expect(other.statements.filter((name) => name !== 'holdfast_heartbeat')).toEqual([]);
    expect(statementsOf(owner)).toEqual(['start', 'settle']);
  });

  it('A worker that remembers an owner which has released the session looks the session up, and takes it over', async () => {
    const { say, grow } = conversation('whole', false, { 'thread-id': 'whole' });
    await grow();
    await say(other, 'elsewhere');
    // The owner no longer has the session, but answers.
    const [session] = owner.bridge.sessions();
    const released = await fetch(`${owner.url}/admin/sessions/${session!.id}/release`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
    });
    expect(released.status).toBe(200);
    for (const each of [owner, other]) statementsOf(each);
    expect((await say(other, 'released')).headers['x-holdfast-outcome']).toBe('stale_recovery');
    expect(statementsOf(other)).toEqual(['lookup', 'line', 'claim', 'turn', 'start', 'settle']);
  });

  it('A worker that remembers an owner which is gone looks the session up, and takes it over', async () => {
    const { say, grow } = conversation('whole', false, { 'thread-id': 'whole' });
    await grow();
    await say(other, 'elsewhere');
    await owner.restart();
    for (const each of [owner, other]) statementsOf(each);
    expect((await say(other, 'restarted')).headers['x-holdfast-outcome']).toBe('stale_recovery');
    expect(statementsOf(other)).toContain('claim');
  });

  it('A full resend without a key is compared with its candidate line by digests only, without reading content', async () => {
    const { say, grow } = conversation('whole', false);
    await grow();
    await say(other, 'elsewhere');
    expect(statementsOf(other)).toEqual(['lookup', 'line']);
    expect(statementsOf(owner)).toEqual(['start', 'settle']);
  });
});

it('An anchored turn whose anchor the provider refuses after a restart is sent whole, and only then is its lineage read', async () => {
  const { say, grow } = conversation('anchored', true);
  await grow();
  await owner.restart();
  owner.simulator.script.onTurn({}, { kind: 'refuse_anchor' }, { times: 1 });
  statementsOf(owner);
  await say(owner, 'after a restart');
  expect(statementsOf(owner)).toEqual(['lookup', 'claim', 'turn', 'start', 'lineage', 'settle']);
});
