import { pino } from 'pino';
import { afterEach, describe, expect, it } from 'vitest';
import { BridgeError, type BridgeHooks, type Identity, type SessionChange, type TurnReport } from '../../src/index.ts';
import { startSimulator, type TestBridgeOptions, testBridge } from '../../src/testing/index.ts';
import { until } from '../support/until.ts';

const undo: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

async function bridged(options: TestBridgeOptions) {
  const lines: Record<string, unknown>[] = [];
  const at = await testBridge({
    ...options,
    env: { HOLDFAST_LAME_DUCK_MS: '0', ...options.env },
    logger: pino({ level: 'info' }, { write: (line: string) => void lines.push(JSON.parse(line)) }),
  });
  undo.push(() => at.close());
  return {
    ...at,
    at,
    lines,
    url: at.url,
    simulator: at.simulator,
    errors: () => lines.filter(({ level }) => Number(level) >= 50),
  };
}

async function simulated() {
  const simulator = await startSimulator();
  undo.push(() => simulator.close());
  return simulator;
}

const ask = async (url: string, body: object = {}, headers: Record<string, string> = {}) => {
  const answer = await fetch(`${url}/v1/responses`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: 'Bearer sk-client', ...headers },
    body: JSON.stringify({ model: 'm', input: 'Say hi.', ...body }),
  });
  const json = (await answer.json()) as { id: string; error?: { bridge_code: string; message: string } };
  return { status: answer.status, outcome: answer.headers.get('x-holdfast-outcome'), json };
};

const never = () => new Promise<never>(() => {});

describe('hooks that observe', () => {
  it('onTurn reports each turn with its ids, outcome, times and tokens', async () => {
    const turns: TurnReport[] = [];
    const { url } = await bridged({ hooks: { onTurn: (turn) => void turns.push(turn) } });
    const first = await ask(url);
    await ask(url, { previous_response_id: first.json.id, input: 'More.' });
    await until(() => turns.length === 2);
    const [created, reused] = turns as [TurnReport, TurnReport];
    expect(created).toMatchObject({ outcome: 'created', terminal: 'completed', fault: null, model: 'm', tenant: null });
    expect(created.tokens!.input).toBeGreaterThan(0);
    expect(created.tokens!.total).toBe(created.tokens!.input + created.tokens!.output);
    expect(reused).toMatchObject({ outcome: 'live_reuse', session: created.session, worker: created.worker });
    expect(reused.heldMs! <= reused.firstEventMs! && reused.firstEventMs! <= reused.totalMs).toBe(true);
  });

  it('onSession reports each change of state, each from the state of the one before', async () => {
    const changes: SessionChange[] = [];
    const { at, url } = await bridged({ hooks: { onSession: (change) => void changes.push(change) } });
    await ask(url);
    await at.close();
    undo.length = 0;
    expect(changes.length).toBeGreaterThan(3);
    expect(changes[0]).toMatchObject({ from: null, epoch: 1, event: 'xstate.init' });
    for (const [index, { from, session }] of changes.slice(1).entries()) {
      expect(from).toBe(changes[index]!.to);
      expect(session).toBe(changes[0]!.session);
    }
    expect(changes.map(({ to }) => to)).toContain('live.idle');
  });

  it('Hooks that throw, reject or never answer change no answer, and are logged once', async () => {
    const hooks: BridgeHooks[] = [
      {
        onTurn() {
          throw new Error('thrown');
        },
        onSession: async () => Promise.reject(new Error('rejected')),
      },
      { onTurn: never, onSession: never },
    ];
    for (const each of hooks) {
      const { at, url, errors } = await bridged({ hooks: each, env: { HOLDFAST_HOOK_MS: '50' } });
      for (let turn = 0; turn < 3; turn += 1) expect((await ask(url)).status).toBe(200);
      await at.close();
      undo.length = 0;
      expect(
        errors()
          .map(({ hook }) => hook)
          .toSorted(),
      ).toEqual(['onSession', 'onTurn']);
    }
  });

  it('Closing the bridge waits for the reports of its last turns', async () => {
    const reported: string[] = [];
    const { at, url } = await bridged({
      hooks: {
        async onTurn({ turn }) {
          await new Promise((resolve) => setTimeout(resolve, 20));
          reported.push(turn);
        },
      },
    });
    await ask(url);
    await at.close();
    undo.length = 0;
    expect(reported).toHaveLength(1);
  });
});

describe('the hook authenticate', () => {
  const bySession = (identities: Record<string, Identity>): BridgeHooks => ({
    authenticate: async ({ headers }) => identities[String(headers['x-user'])] ?? null,
  });
  const shared = { HOLDFAST_UPSTREAM_KEY: 'sk-shared-0123456789' };

  it('Tenants get answers under the upstream key, others 401, and no tenant continues another one', async () => {
    const turns: TurnReport[] = [];
    const tenants = new Set<string | null>();
    const { url, simulator } = await bridged({
      env: shared,
      hooks: {
        ...bySession({ ann: { tenant: 'ann' }, bob: { tenant: 'bob' } }),
        onTurn: (turn) => void turns.push(turn),
        onSession: ({ tenant }) => void tenants.add(tenant),
      },
    });
    expect(await ask(url)).toMatchObject({ status: 401, json: { error: { bridge_code: 'bridge_unauthorized' } } });
    const first = await ask(url, {}, { 'x-user': 'ann' });
    expect(first.status).toBe(200);
    const anchored = { previous_response_id: first.json.id, input: 'More.' };
    expect(await ask(url, anchored, { 'x-user': 'bob' })).toMatchObject({ status: 400, outcome: 'expired_continuity' });
    expect(await ask(url, anchored, { 'x-user': 'ann' })).toMatchObject({ status: 200, outcome: 'live_reuse' });
    await until(() => turns.length === 3);
    expect(turns.map(({ tenant }) => tenant)).toEqual(['ann', 'bob', 'ann']);
    expect([...tenants]).toEqual(['ann']);
    const keys = simulator.journal.of('opened').map(({ headers }) => headers.authorization);
    expect(new Set(keys)).toEqual(new Set(['Bearer sk-shared-0123456789']));
  });

  it('A tenant’s own credential goes upstream, and a conversation continues under that credential only', async () => {
    let key = 'sk-ann-1';
    let credentialId: string | undefined;
    const { url, simulator } = await bridged({
      hooks: { authenticate: () => ({ tenant: 'ann', credential: key, credentialId }) },
    });
    const first = await ask(url);
    key = 'sk-ann-2';
    const anchored = { previous_response_id: first.json.id, input: 'More.' };
    expect(await ask(url, anchored)).toMatchObject({ status: 400, outcome: 'expired_continuity' });
    credentialId = 'account';
    const named = await ask(url);
    key = 'sk-ann-3';
    const renewed = await ask(url, { previous_response_id: named.json.id, input: 'More.' });
    expect(renewed).toMatchObject({ status: 200, outcome: 'live_reuse' });
    const keys = simulator.journal.of('opened').map(({ headers }) => headers.authorization);
    expect(keys).toEqual(['Bearer sk-ann-1', 'Bearer sk-ann-2']);
  });

  it('A thrown BridgeError refuses with that error', async () => {
    const { url } = await bridged({
      env: shared,
      hooks: {
        authenticate() {
          throw new BridgeError('bridge_rate_limited', { retryAfterSeconds: 7 });
        },
      },
    });
    expect(await ask(url)).toMatchObject({ status: 429, json: { error: { bridge_code: 'bridge_rate_limited' } } });
  });

  it.each([
    ['throws', () => Promise.reject(new Error('the secret reason'))],
    ['never answers', never],
    ['names no tenant', async () => ({ tenant: '' })],
    ['names a tenant with a control character', async () => ({ tenant: 'a\u0000b' })],
    ['returns something else', async () => true as never],
    ['names a credential that cannot be sent', async () => ({ tenant: 'a', credential: 'a b' })],
  ])('A hook that %s refuses the request with bridge_hook_failed, and is logged once', async (_, authenticate) => {
    const { url, errors, simulator } = await bridged({
      env: { ...shared, HOLDFAST_HOOK_MS: '50' },
      hooks: { authenticate: authenticate as BridgeHooks['authenticate'] },
    });
    for (let time = 0; time < 2; time += 1) {
      const { status, json } = await ask(url);
      expect(status).toBe(503);
      expect(json.error).toMatchObject({ bridge_code: 'bridge_hook_failed' });
      expect(json.error!.message).toContain('authenticate');
      expect(json.error!.message).not.toContain('secret');
    }
    expect(errors()).toHaveLength(1);
    expect(simulator.journal.of('opened')).toHaveLength(0);
  });

  it('Without any key for the upstream, a tenant without a credential is refused', async () => {
    const { url } = await bridged({ hooks: { authenticate: () => ({ tenant: 'ann' }) } });
    expect(await ask(url, {}, { authorization: 'Bearer of-the-app' })).toMatchObject({ status: 503 });
  });

  it('Every route of the API asks it, and health does not', async () => {
    let asked = 0;
    const { url } = await bridged({
      env: shared,
      hooks: {
        authenticate() {
          asked += 1;
          return null;
        },
      },
    });
    const statuses = await Promise.all(
      ['/v1/models', '/v1/responses/resp_1', '/v1/responses/resp_1/input_items', '/health', '/v1/else'].map(
        async (path) => (await fetch(`${url}${path}`)).status,
      ),
    );
    expect(statuses).toEqual([401, 401, 401, 200, 404]);
    expect(asked).toBe(3);
  });
});

describe('the hook chooseUpstream', () => {
  it('A model chooses the upstream, which gets its own key, and a conversation stays there', async () => {
    const other = await simulated();
    const turns: TurnReport[] = [];
    const { url, simulator } = await bridged({
      env: { HOLDFAST_UPSTREAM_KEY: 'sk-default' },
      upstreams: { local: { url: other.url, key: 'sk-local' } },
      hooks: {
        chooseUpstream: ({ model }) => (model === 'local' ? 'local' : null),
        onTurn: (turn) => void turns.push(turn),
      },
    });
    const first = await ask(url, { model: 'local' });
    expect(first).toMatchObject({ status: 200, outcome: 'created' });
    const more = { previous_response_id: first.json.id, input: 'More.' };
    expect(await ask(url, { ...more, model: 'local' })).toMatchObject({ status: 200, outcome: 'live_reuse' });
    // At the other upstream the conversation is unknown: the client sends it whole.
    expect(await ask(url, more)).toMatchObject({ status: 400, outcome: 'expired_continuity' });
    expect(await ask(url)).toMatchObject({ status: 200, outcome: 'created' });
    expect(other.journal.of('opened').map(({ headers }) => headers.authorization)).toEqual(['Bearer sk-local']);
    expect(simulator.journal.of('opened').map(({ headers }) => headers.authorization)).toEqual(['Bearer sk-default']);
    await until(() => turns.length === 4);
    expect(new Set(turns.map(({ upstream }) => upstream)).size).toBe(2);
  });

  it('The same key of a conversation is two conversations at two upstreams', async () => {
    const other = await simulated();
    let chosen: string | null = null;
    const { url, simulator } = await bridged({
      upstreams: { other: other.url },
      hooks: { chooseUpstream: () => chosen },
    });
    const headers = { 'thread-id': 'one', authorization: 'Bearer sk-client' };
    expect(await ask(url, {}, headers)).toMatchObject({ outcome: 'created' });
    chosen = 'other';
    expect(await ask(url, {}, headers)).toMatchObject({ outcome: 'created' });
    chosen = null;
    expect((await ask(url, { input: 'More.' }, headers)).status).toBe(200);
    expect(other.journal.of('create')).toHaveLength(1);
    expect(simulator.journal.of('create')).toHaveLength(2);
    expect(other.journal.of('opened')[0]!.headers.authorization).toBe('Bearer sk-client');
  });

  it('An address with a key of its own is chosen per request', async () => {
    const other = await simulated();
    const { url, simulator } = await bridged({
      env: { HOLDFAST_UPSTREAM_KEY: 'sk-default' },
      hooks: { chooseUpstream: async ({ req }) => ({ url: other.url, key: `sk-${String(req.headers['x-user'])}` }) },
    });
    const first = await ask(url, {}, { 'x-user': 'ann' });
    const more = { previous_response_id: first.json.id, input: 'More.' };
    expect(await ask(url, more, { 'x-user': 'bob' })).toMatchObject({ status: 400 });
    expect(await ask(url, more, { 'x-user': 'ann' })).toMatchObject({ status: 200, outcome: 'live_reuse' });
    const keys = other.journal.of('opened').map(({ headers }) => headers.authorization);
    expect(keys).toEqual(['Bearer sk-ann']);
    expect(simulator.journal.of('opened')).toHaveLength(0);
  });

  it.each([
    ['throws', async () => Promise.reject(new Error('no'))],
    ['never answers', never],
    ['names an unknown upstream', async () => 'elsewhere'],
    ['returns a URL that is none', async () => ({ url: 'ftp://x' })],
    ['would send the configured key to another host', async () => ({ url: 'https://other.test/v1' })],
  ])('A hook that %s refuses the request with bridge_hook_failed', async (_, chooseUpstream) => {
    const { url, simulator, errors } = await bridged({
      env: { HOLDFAST_UPSTREAM_KEY: 'sk-default', HOLDFAST_HOOK_MS: '50' },
      hooks: { chooseUpstream: chooseUpstream as BridgeHooks['chooseUpstream'] },
    });
    expect(await ask(url)).toMatchObject({ status: 503, json: { error: { bridge_code: 'bridge_hook_failed' } } });
    expect(simulator.journal.of('opened')).toHaveLength(0);
    expect(errors()).toHaveLength(1);
  });

  it('Upstreams that cannot be used stop the start', async () => {
    const hooks = { chooseUpstream: () => null };
    await expect(testBridge({ hooks, upstreams: { a: 'ftp://x' } })).rejects.toThrow('upstreams.a must be a URL');
    await expect(testBridge({ upstreams: { a: 'https://a.test/v1' } })).rejects.toThrow('hooks.chooseUpstream');
  });
});
