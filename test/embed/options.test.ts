import { describe, expect, it } from 'vitest';
import { type BridgeOptions, createBridge } from '../../src/bridge.ts';
import { ConfigError, readConfig } from '../../src/config.ts';
import { settingOptions } from '../../src/options.ts';
import { testBridge } from '../../src/testing/index.ts';
import { renderOptions } from '../support/setting-options.ts';

/** Returns what createBridge reports about options that cannot be used. Nothing is opened for such options. */
async function problemsOf(options: object): Promise<string[]> {
  const error = await createBridge(options as BridgeOptions).then(
    async (bridge) => void (await bridge.close()),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(ConfigError);
  return (error as Error).message.split('\n  - ').slice(1);
}

describe('typed options', () => {
  it('The file of the typed options is generated from the settings (npm run docs:readme writes it)', async () => {
    const { current, rendered } = await renderOptions();
    expect(current).toBe(rendered);
  });

  it('Every setting has an option of its own', () => {
    const names = settingOptions.map(({ option }) => option);
    expect(new Set(names).size).toBe(names.length);
    expect(names).toContain('deadlines.turnBudget');
    expect(names).toContain('limits.bodyBytes');
  });

  it('Options fill the configuration, before the variables of env and of the process', async () => {
    await using at = await testBridge();
    const options: BridgeOptions = {
      store: at.store,
      upstream: { url: at.simulator.url, key: 'sk-1', transport: 'http', noProxy: ['a', 'b'], forwardHeaders: ['x-a'] },
      auth: { secrets: [`k:${'s'.repeat(32)}`], apiKeys: [{ tenant: 'ann', key: 'key-ann' }] },
      server: { publicHosts: ['one.test', 'two.test:81'] },
      inspector: { content: true },
      instancePolicy: 'reject',
      deadlines: { turnBudget: 60_000 },
      limits: { bodyBytes: 1_000 },
      logLevel: 'silent',
      workers: 2,
      env: { HOLDFAST_TURN_BUDGET_MS: '1', HOLDFAST_LANE_IDLE_MS: '7', HOLDFAST_LAME_DUCK_MS: '0' },
    };
    const bridge = await createBridge(options);
    await bridge.close();
    expect(bridge.config).toMatchObject({
      upstream: { url: at.simulator.url, key: 'sk-1', transport: 'http', forwardHeaders: ['x-a'] },
      security: { apiKeys: [{ tenant: 'ann', key: 'key-ann' }] },
      server: { publicHosts: ['one.test', 'two.test:81'] },
      inspect: { content: true },
      instancePolicy: 'reject',
      deadlines: { turnBudget: 60_000, laneIdle: 7 },
      limits: { bodyBytes: 1_000 },
      workers: 2,
    });
    expect(bridge.config.upstream.proxies.none).toBe('a,b');
  });

  it('A value of the wrong type does not compile, nor does a misspelled name, and undefined is accepted', () => {
    const options: BridgeOptions[] = [
      { upstream: undefined, deadlines: { connect: undefined }, hooks: { onTurn: undefined } },
      // @ts-expect-error a misspelled section
      { upstrem: 'https://api.test/v1' },
      // @ts-expect-error a misspelled setting
      { deadlines: { conect: 1 } },
      // @ts-expect-error a misspelled hook
      { hooks: { onTurns() {} } },
      // @ts-expect-error text in place of a number
      { limits: { bodyBytes: '1' } },
      // @ts-expect-error a word that is none of the choices
      { upstream: { transport: 'websockets' } },
    ];
    expect(options).toHaveLength(6);
  });

  it.each([
    ['upstrem', { upstrem: 'x' }, 'upstrem is not an option of createBridge: did you mean upstream?'],
    ['deadlines.conect', { deadlines: { conect: 1 } }, 'did you mean deadlines.connect?'],
    ['a deadline among the limits', { limits: { turnBudget: 1 } }, 'did you mean deadlines.turnBudget?'],
    ['a setting without its section', { apiKeys: [] }, 'did you mean auth.apiKeys?'],
    ['a variable', { HOLDFAST_UPSTREAM_URL: 'x' }, 'did you mean upstream.url?'],
    ['a hook', { hooks: { authentciate() {} } }, 'did you mean hooks.authenticate?'],
    ['a hook without hooks', { onTurn() {} }, 'did you mean hooks.onTurn?'],
    ['nothing near', { frobnicate: 1 }, 'frobnicate is not an option of createBridge'],
    ['__proto__', JSON.parse('{"__proto__":{"a":1}}'), '__proto__ is not an option of createBridge'],
    ['text for a number', { deadlines: { connect: '1' } }, 'deadlines.connect must be a number'],
    ['a fraction', { deadlines: { connect: 1.5 } }, 'deadlines.connect must be a whole number of ms'],
    ['an empty key', { upstream: { key: '' } }, 'upstream.key must not be empty: leave the option out instead'],
    ['a null', { upstream: null }, 'upstream must be a URL or an object'],
    ['a MikroORM as database', { database: new Map() }, 'a MikroORM is the option orm'],
    ['a comma', { server: { publicHosts: ['a,b'] } }, 'server.publicHosts entry 1 must not contain a comma'],
    ['a key without tenant', { auth: { apiKeys: [{ key: 'k' }] } }, 'auth.apiKeys entry 1 must be { tenant, key }'],
    ['two databases', { orm: {}, database: 'postgres://h/d' }, 'orm and database.url exclude each other'],
    ['a database without secrets', { database: 'postgres://h/d' }, 'auth.secrets is required with database.url'],
    [
      'two ways to tell clients apart',
      { auth: { apiKeys: [{ tenant: 't', key: 'k' }] }, upstream: { key: 'u' }, hooks: { authenticate: () => null } },
      'auth.apiKeys and the hook authenticate exclude each other',
    ],
  ])('Options are refused with the name of what is wrong: %s', async (_, options, problem) => {
    expect((await problemsOf(options)).join('\n')).toContain(problem);
  });

  it('Problems of options name no secret', async () => {
    const problems = await problemsOf({
      upstream: { key: 'very secret' },
      auth: { adminToken: 'ü-secret', secrets: ['no-kid-secret'], apiKeys: [{ tenant: 'a:b', key: 'secret-key' }] },
    });
    expect(problems).toHaveLength(4);
    expect(problems.join()).not.toMatch(/very secret|ü-secret|no-kid|secret-key/);
  });

  it('The hook authenticate takes the place of API keys on an open address', () => {
    expect(() => readConfig({ HOST: '0.0.0.0' })).toThrow(ConfigError);
    expect(readConfig({ HOST: '0.0.0.0' }, { authenticates: true }).security.byHook).toBe(true);
  });
});
