import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type ChaosRecord, type Simulator, startSimulator } from '../../src/testing/index.ts';
import { connect, hangUp, type RawClient } from './client.ts';

const error = { status: 500, message: 'scripted' };

describe('the script', () => {
  let sim: Simulator;
  let client: RawClient;

  beforeEach(async () => {
    sim = await startSimulator({ seed: 2 });
    client = await connect(sim.url);
  });
  afterEach(async () => {
    await hangUp(client);
    await sim.close();
  });

  /** Returns which of `count` turns the rules made fail. */
  async function failing(count: number): Promise<number[]> {
    const failed: number[] = [];
    for (let turn = 1; turn <= count; turn++)
      if ((await client.turn({ input: `turn ${turn}` })).last.type === 'error') failed.push(turn);
    return failed;
  }

  it('A rule applies once, from the nth match on, n times or always', async () => {
    sim.script.onTurn({ nth: 2 }, { kind: 'error', error });
    expect(await failing(4)).toEqual([2]);
    const rule = sim.script({ on: 'turn', match: { nth: 2 }, fault: { kind: 'error', error }, times: 2 });
    expect(await failing(4)).toEqual([2, 3]);
    expect(rule.hits).toBe(2);
    const always = sim.script.onTurn({}, { kind: 'error', error }, { times: 'always' });
    expect(await failing(2)).toEqual([1, 2]);
    always.remove();
    expect(await failing(2)).toEqual([]);
  });

  it('A rule matches by the content and the properties of a turn', async () => {
    const failsOn = async (match: Parameters<Simulator['script']['onTurn']>[0], body: Record<string, unknown>) => {
      const rule = sim.script.onTurn(match, { kind: 'error', error });
      const { last } = await client.turn({ input: 'other', ...body });
      rule.remove();
      return last.type === 'error';
    };
    expect(await failsOn({ input: 'needle' }, { input: 'a needle' })).toBe(true);
    expect(await failsOn({ input: 'needle' }, {})).toBe(false);
    expect(await failsOn({ generate: false }, { generate: false })).toBe(true);
    expect(await failsOn({ generate: false }, {})).toBe(false);
    expect(await failsOn({ anchored: true }, {})).toBe(false);
    expect(await failsOn({ model: 'm2' }, { model: 'm2' })).toBe(true);
    expect(await failsOn({ transport: 'http' }, {})).toBe(false);
    expect(await failsOn({ connection: 1, nthOnConnection: 8 }, {})).toBe(true);
    expect(await failsOn({ where: ({ body }) => body.user === 'u' }, { user: 'u' })).toBe(true);
    expect(await failsOn({ body: '"user":"u"' }, { user: 'v' })).toBe(false);
  });

  it('The script records turns with rules, and not those without', async () => {
    sim.script.onTurn({ nth: 2 }, { kind: 'error', error });
    await failing(3);
    expect(sim.journal.of('fault')).toMatchObject([{ turn: 2, connection: 1, fault: { kind: 'error' } }]);
    expect(sim.journal.of('end').map(({ end }) => end)).toEqual(['completed', 'error', 'completed']);
  });

  it('A release before the hold is kept', async () => {
    sim.script.onTurn({}, { kind: 'hold', at: 'after_created' }).release();
    expect((await client.turn({ input: 'x' })).last.type).toBe('response.completed');
  });
});

describe('chaos', () => {
  const rates = { error_before_created: 0.3, failed: 0.2, incomplete: 0.2 };

  async function campaign(seed: number): Promise<readonly ChaosRecord[]> {
    const sim = await startSimulator();
    const chaos = sim.chaos({ seed, rates });
    const client = await connect(sim.url);
    for (let turn = 0; turn < 30; turn++) await client.turn({ input: 'x' });
    const faults = sim.journal.of('fault');
    expect(faults.map(({ turn }) => turn)).toEqual(chaos.injected.map(({ nth }) => nth));
    chaos.stop();
    await client.turn({ input: 'x' });
    expect(sim.journal.of('fault')).toHaveLength(faults.length);
    await hangUp(client);
    await sim.close();
    return chaos.injected;
  }

  it('Chaos injects the same faults for the same seed and others for another seed, and records them', async () => {
    const [first, again, other] = [await campaign(1), await campaign(1), await campaign(2)];
    expect(new Set(first.map(({ kind }) => kind))).toEqual(new Set(Object.keys(rates)));
    expect(again).toEqual(first);
    expect(other).not.toEqual(first);
  });

  it('Chaos affects upgrades too', async () => {
    const sim = await startSimulator();
    sim.chaos({ rates: { refuse_upgrade: 1 } });
    await expect(connect(sim.url)).rejects.toThrow('refused 503');
    await sim.close();
  });
});

describe('the journal', () => {
  it('The journal yields past entries and those to come', async () => {
    const sim = await startSimulator();
    const client = await connect(sim.url);
    const coming = sim.journal.next('create', ({ turn }) => turn === 2);
    await client.turn({ input: ['a', 'b'].map((text) => ({ role: 'user', content: text })), store: false });
    expect(await sim.journal.waitFor('create')).toMatchObject({
      turn: 1,
      connection: 1,
      transport: 'websocket',
      itemsReceived: 2,
      contextItems: 2,
      previousResponseId: null,
      generate: true,
      digest: expect.stringMatching(/^[0-9a-f]{16}$/),
      responseId: expect.stringMatching(/^resp_/),
    });
    await client.turn({ input: 'x', generate: false });
    expect((await coming).generate).toBe(false);
    expect(await sim.journal.count('end', 2)).toHaveLength(2);
    await expect(sim.journal.next('create', undefined, { timeoutMs: 1 })).rejects.toThrow(/No create entry.*2 create/);
    const never = sim.journal.next('create');
    await hangUp(client);
    await sim.close();
    await expect(never).rejects.toThrow('simulator closed');
  });

  it('The journal drops the oldest entries beyond its limit, and bodies when configured', async () => {
    const sim = await startSimulator({ journalLimit: 5, journalBodies: false });
    const client = await connect(sim.url);
    for (let turn = 0; turn < 5; turn++) await client.turn({ input: 'x' });
    expect(sim.journal.entries).toHaveLength(5);
    expect(sim.journal.of('create').at(-1)!.body).toEqual({});
    await hangUp(client);
    await sim.close();
  });
});
