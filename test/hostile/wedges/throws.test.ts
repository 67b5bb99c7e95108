import { afterEach, describe, expect, it } from 'vitest';
import type { SessionStore } from '../../../src/store/port.ts';
import { StoreUnavailable } from '../../../src/store/port.ts';
import { type Clock, systemClock } from '../../../src/system.ts';
import { digestOf, expectedDigest, type TestBridge, testBridge } from '../../../src/testing/index.ts';
import type { TestBridgeOptions } from '../../../src/testing/test-bridge.ts';
import { post, terminalsOf } from '../../support/client.ts';
import { user } from '../../support/messages.ts';
import { type ScriptedStore, scriptStore } from '../../support/scripted-store.ts';
import { until } from '../../support/until.ts';
import { recordingLogger } from './support.ts';

const opened: TestBridge[] = [];
afterEach(async () => {
  for (const at of opened.splice(0)) await at.close();
});

const headers = { 'thread-id': 't' };
const body = { model: 'm', stream: true, store: false, input: [user('one')] };
const endsOf = (answer: Awaited<ReturnType<typeof post>>) => terminalsOf(answer).map(({ type }) => type);

/** Starts a bridge whose store the test can break, and collects its log. */
async function open(options: TestBridgeOptions = {}) {
  const { logger, lines } = recordingLogger();
  let scripted!: ScriptedStore;
  const at = await testBridge({
    logger,
    ...options,
    wrapStore: (store: SessionStore) => (scripted = scriptStore(store)).store,
    env: { HOLDFAST_SETTLE_WAIT_MS: '100', HOLDFAST_DRAIN_MS: '100', ...options.env },
  });
  opened.push(at);
  const ask = (given: object = {}) => post(at.url, { ...body, ...given }, headers);
  /** Checks that a request that continues `first` is answered with the context its client means. */
  const goesOn = async (first: Awaited<ReturnType<typeof post>>) => {
    const input = [user('one'), ...first.body.output, user('two')];
    const answer = await ask({ input });
    expect(digestOf(answer.body)).toBe(expectedDigest({ items: input as never }));
  };
  const errors = () => lines.filter(({ level }) => level >= 50);
  return { at, scripted: () => scripted, ask, goesOn, errors };
}

const broken = () => {
  throw new Error('broken for the test');
};

describe('a commit that throws', () => {
  it.each([
    ['rejects', () => Promise.reject(new Error('broken for the test'))],
    ['throws at once', broken],
  ])(
    'A settle that fails (%s) counts as rejected: the bare end is stored, and the session continues',
    async (_, fault) => {
      const { at, scripted, ask, goesOn, errors } = await open();
      scripted().once('settle', fault);
      const first = await ask();
      expect(endsOf(first)).toEqual(['response.completed']);
      await until(async () => (await at.store.sessions(1))[0]!.anchorLost);
      await goesOn(first);
      expect(scripted().calls.filter((name) => name === 'settle')).toHaveLength(3);
      expect(errors()).toHaveLength(1);
    },
  );

  it('A settle that throws in both forms is not repeated, and the next request is served', async () => {
    const { at, scripted, ask, errors } = await open();
    scripted().once('settle', broken);
    scripted().once('settle', broken);
    expect(endsOf(await ask())).toEqual(['response.completed']);
    await until(() => at.bridge.sessions().length === 0);
    expect(scripted().calls.filter((name) => name === 'settle')).toHaveLength(2);
    expect(endsOf(await ask({ input: [user('another')] }))).toEqual(['response.completed']);
    // One error for each form, and one because nothing could be recorded.
    expect(errors()).toHaveLength(3);
  });

  it.each(['create', 'start'] as const)(
    'A %s that throws fails its own request, and the next is served',
    async (name) => {
      const { scripted, ask } = await open();
      if (name === 'start') await ask();
      scripted().once(name, broken);
      const refused = await ask();
      expect(refused.body.error?.bridge_code).toBe('bridge_store_rejected');
      expect(endsOf(await ask())).toEqual(['response.completed']);
    },
  );

  it('A commit that throws because the store is unreachable counts as unanswered and is repeated', async () => {
    const { scripted, ask, goesOn, errors } = await open();
    scripted().once('settle', () => Promise.reject(new StoreUnavailable('no connection')));
    await goesOn(await ask());
    expect(scripted().calls.filter((name) => name === 'settle')).toHaveLength(3);
    expect(errors()).toEqual([]);
  });

  it('A commit that throws after the store has carried it out does not break the session', async () => {
    const { scripted, ask, goesOn } = await open();
    scripted().once('settle', async (pass, call) => {
      await pass(call);
      return broken();
    });
    await goesOn(await ask());
  });
});

describe('an effect that throws', () => {
  /** Creates the system clock, except that a timer of one particular length throws. */
  const without = (forbidden: number): Clock => ({
    ...systemClock,
    after: (ms, fn) => (ms === forbidden ? broken() : systemClock.after(ms, fn)),
  });

  it('An effect that throws after the frame has left ends the turn at once, and the next request is served', async () => {
    let armed = true;
    const clock: Clock = { ...systemClock, after: (ms, fn) => (armed ? without(1_234) : systemClock).after(ms, fn) };
    const { at, ask, errors } = await open({ clock, env: { HOLDFAST_STATUS_HOLD_MS: '1234' } });
    const answer = await ask();
    expect([answer.status, answer.body.error?.bridge_code]).toEqual([500, 'bridge_internal']);
    armed = false;
    expect(endsOf(await ask())).toEqual(['response.completed']);
    await until(() => at.bridge.sessions().every(({ state }) => state === 'live.idle'));
    expect(errors()).toHaveLength(1);
    expect(JSON.stringify(errors())).not.toContain('broken for the test');
    const [session] = await at.store.sessions(1);
    const states = (await at.store.turnsOf(session!.id, 9)).map(({ state }) => state);
    expect(states).toEqual(['completed', 'failed']);
  });

  it('An effect that throws answers a client without stream too', async () => {
    const { ask } = await open({ clock: without(1_234), env: { HOLDFAST_STATUS_HOLD_MS: '1234' } });
    const answer = await ask({ stream: false });
    expect([answer.status, answer.body.error?.bridge_code]).toEqual([500, 'bridge_internal']);
  });

  it('A throw in the session machine stops its actor after the pending answer was delivered', async () => {
    let armed = false;
    const { at, ask } = await open({
      // This timer is set when a session becomes idle.
      clock: { ...systemClock, after: (ms, fn) => (armed && ms === 77_777 ? broken() : systemClock.after(ms, fn)) },
      env: { HOLDFAST_IDLE_SOCKET_MS: '77777' },
    });
    armed = true;
    expect(endsOf(await ask())).toEqual(['response.completed']);
    await until(() => at.bridge.sessions().length === 0);
    armed = false;
    expect(endsOf(await ask({ input: [user('another')] }))).toEqual(['response.completed']);
  });

  it.each([
    ['the store is away', () => Promise.reject(new StoreUnavailable('no connection')), 'response.completed'],
    ['it is broken', broken, 'response.failed'],
  ])(
    'A lost turn whose history cannot be read because %s is resent or fails, and the next request is served',
    async (_, fault, end) => {
      const { at, scripted, ask } = await open();
      const first = await ask();
      const anchored = { input: [user('two')], previous_response_id: first.body.id };
      at.simulator.script.onTurn({}, { kind: 'reset', at: 'before_created' });
      scripted().once('lineage', fault);
      const answer = await ask(anchored);
      if (end === 'response.completed') expect(endsOf(answer)).toEqual([end]);
      else expect([answer.status, answer.body.error?.bridge_code]).toEqual([500, 'bridge_internal']);
      expect(endsOf(await ask(anchored))).toEqual(['response.completed']);
    },
  );
});

describe('an observer that throws', () => {
  it('An observer that throws changes nothing', async () => {
    const { ask, goesOn, errors } = await open({ inspect: broken });
    await goesOn(await ask());
    expect(errors()).toHaveLength(1);
  });
});

describe('closing the bridge', () => {
  it('Closing the bridge ends the repetition of an unanswered commit', { timeout: 30_000 }, async () => {
    const { at, scripted, ask } = await open();
    for (let count = 0; count < 200; count += 1) {
      scripted().once('settle', async () => ({ verdict: 'unknown' as const, reason: 'no answer' }));
    }
    expect(endsOf(await ask())).toEqual(['response.completed']);
    await at.bridge.close();
    const asked = scripted().calls.filter((name) => name === 'settle').length;
    expect(at.bridge.sessions()).toEqual([]);
    await new Promise<void>((later) => systemClock.after(1_500, later));
    expect(scripted().calls.filter((name) => name === 'settle')).toHaveLength(asked);
  });

  it('Closing the bridge answers the client of a turn that cannot be ended', { timeout: 30_000 }, async () => {
    const { at, scripted } = await open({ env: { HOLDFAST_START_WAIT_MS: '25000' } });
    scripted().once('create', () => new Promise(() => {}));
    const answer = post(at.url, body, headers);
    await until(() => scripted().calls.includes('create'));
    await at.bridge.close();
    expect(at.bridge.sessions()).toEqual([]);
    expect((await answer).body.error?.bridge_code).toBe('bridge_draining');
  });
});
