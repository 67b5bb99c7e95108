import { request } from 'undici';
import { afterEach, describe, expect, it } from 'vitest';
import type { MachineOutline } from '../../src/admin/views.ts';
import { startTestBridge, type TestBridge, type TestBridgeOptions } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { openLive } from '../support/live-client.ts';
import { until } from '../support/until.ts';

let at: TestBridge;
const start = async (options: TestBridgeOptions = {}) => {
  at = await startTestBridge(options);
};
afterEach(() => at.close());

const call = async (path: string, { method = 'GET', headers = {} as Record<string, string> } = {}) => {
  const answer = await request(at.url + path, {
    method: method as 'GET',
    headers: method === 'POST' ? { 'content-type': 'application/json', ...headers } : headers,
  });
  return { status: answer.statusCode, body: (await answer.body.json()) as Record<string, never> };
};
const say = (thread: string, input: unknown = 'one') =>
  post(at.url, { model: 'm', stream: true, store: false, input }, { 'thread-id': thread });

describe('admin API: reading', () => {
  it('The session list is paged, and each entry has its owner and the state of its actor', async () => {
    await start();
    for (const thread of ['a', 'b', 'c']) await say(thread);
    const seen: string[] = [];
    let cursor: string | null = null;
    do {
      const page = await call(`/admin/sessions?limit=2${cursor ? `&cursor=${cursor}` : ''}`);
      const { sessions, total } = page.body as unknown as {
        sessions: { id: string; actor: { state: string }; owner: { here: boolean } }[];
        total: number;
      };
      expect(total).toBe(3);
      for (const { id, actor, owner } of sessions) {
        seen.push(id);
        expect([actor.state, owner.here]).toEqual(['live.idle', true]);
      }
      cursor = page.body.cursor ?? null;
    } while (cursor);
    expect(new Set(seen).size).toBe(3);
  });

  it('The detail of a session lists turns, keys, reason and way out, without content or secrets', async () => {
    await start();
    const first = await say('a', 'a very private prompt');
    const id = String(first.headers['x-holdfast-session']);
    const found = await call(`/admin/sessions?q=${first.body.id}`);
    expect(found.body).toMatchObject({ total: 1, sessions: [{ id }] });
    const { body } = await call(`/admin/sessions/${id}`);
    expect(body).toMatchObject({
      session: { id, state: 'live', turnCount: 1 },
      keys: [{ kind: 'thread' }],
      turns: [{ responseId: first.body.id, state: 'completed' }],
      actor: { state: 'live.idle', socketOpen: true },
      timeline: { from: 'memory', epoch: 1 },
      why: 'A live worker keeps its socket open; no turn is running.',
    });
    const { entries } = body.timeline as unknown as { entries: { actor: string; says: string; active: string[] }[] };
    expect(entries.findLast(({ actor }) => actor === 'session@1')).toMatchObject({
      says: "the turn's end was stored",
      meaning: 'The turn is settled, and the socket can carry the next one.',
      active: ['live', 'live.idle'],
    });
    const text = JSON.stringify(body);
    for (const secret of ['private prompt', 'ownerNonce', 'credentialFp', 'sk-test'])
      expect(text).not.toContain(secret);
  });

  it('The error of a failed turn shows its identifiers, but not the message in which the provider may echo the request', async () => {
    await start();
    at.simulator.script.onTurn(
      {},
      { kind: 'error', error: { status: 500, code: 'server_error', message: 'echo: oyster' } },
    );
    const failed = await say('a', 'oyster');
    const { body } = await call(`/admin/sessions/${failed.headers['x-holdfast-session']}`);
    expect(body.turns).toMatchObject([{ state: 'failed', error: { code: 'server_error', status: 500 } }]);
    expect(JSON.stringify(body)).not.toContain('oyster');
  });

  it('A search by thread id finds the session, and its detail lists the forks and their origin', async () => {
    await start();
    const first = await say('a');
    const id = first.headers['x-holdfast-session'];
    await say('a', [{ type: 'message', role: 'user', content: 'two' }]);
    const fork = await post(at.url, {
      ...{ model: 'm', stream: true, store: false, input: 'other' },
      previous_response_id: first.body.id,
    });
    expect(fork.headers['x-holdfast-outcome']).toBe('forked');
    expect((await call('/admin/sessions?q=a')).body).toMatchObject({ total: 1, sessions: [{ id }] });
    const forkId = fork.headers['x-holdfast-session'];
    expect((await call(`/admin/sessions/${id}`)).body.forks).toMatchObject([{ sessionId: forkId }]);
    expect((await call(`/admin/sessions/${forkId}`)).body.origin).toMatchObject({ sessionId: id });
  });

  it('The session machine is served as data with every state and transition', async () => {
    await start();
    const { body } = await call('/admin/machines/session');
    const { states, transitions } = body as unknown as MachineOutline;
    const paths = states.map(({ path }) => path);
    expect(paths).toContain('live.streaming.client.attached');
    for (const { from, to } of transitions) expect(paths).toEqual(expect.arrayContaining([from, to ?? from]));
    expect(transitions.every(({ description }) => description !== '')).toBe(true);
    expect(states.find(({ path }) => path === 'live')).toMatchObject({ kind: 'compound', initial: 'live.idle' });
  });

  it('The worker list shows state and which worker is this one', async () => {
    await start();
    expect((await call('/admin/workers')).body).toMatchObject({ workers: [{ state: 'serving', here: true }] });
  });

  it('An invalid query gets 400 and an unknown session gets 404', async () => {
    await start();
    for (const query of ['limit=0', 'limit=x', 'state=odd', 'cursor=odd']) {
      expect((await call(`/admin/sessions?${query}`)).status).toBe(400);
    }
    expect((await call('/admin/sessions/none')).status).toBe(404);
  });
});

describe('admin API: actions', () => {
  it('Releasing a session closes its socket, and the next request recovers it', async () => {
    await start();
    const first = await say('a');
    const id = String(first.headers['x-holdfast-session']);
    expect((await call(`/admin/sessions/${id}/release`, { method: 'POST' })).status).toBe(200);
    await until(() => at.bridge.sessions().length === 0);
    expect((await call(`/admin/sessions/${id}`)).body).toMatchObject({
      why: expect.stringContaining('No worker owns it'),
      exit: 'The next request continues it from its durable state.',
    });
    expect((await say('a')).headers['x-holdfast-outcome']).toBe('stale_recovery');
  });

  it('Closing a session frees its key, and a new conversation may take it', async () => {
    await start();
    const first = await say('a');
    const id = String(first.headers['x-holdfast-session']);
    expect((await call(`/admin/sessions/${id}/close`, { method: 'POST' })).status).toBe(200);
    await until(() => at.bridge.sessions().length === 0);
    const next = await say('a', [{ type: 'message', role: 'user', content: 'other' }]);
    expect(next.headers['x-holdfast-outcome']).toBe('created');
    expect(next.headers['x-holdfast-session']).not.toBe(id);
  });

  it('Releasing a session whose turn is running is refused with 409', async () => {
    await start();
    const held = at.simulator.script.onTurn({}, { kind: 'hold', at: 'before_terminal' });
    const client = await openLive(at.url, { model: 'm', store: false, input: 'one' }, { 'thread-id': 'a' });
    await client.until('response.output_item.done');
    const [session] = at.bridge.sessions();
    const refused = await call(`/admin/sessions/${session!.id}/release`, { method: 'POST' });
    expect(refused.status).toBe(409);
    expect(refused.body.error).toMatchObject({ bridge_code: 'bridge_session_busy' });
    held.release();
    expect((await client.rest()).events.at(-1)!.type).toBe('response.completed');
  });

  it('Closing a session with a running turn, from its owner or from another worker, first ends the turn with one clear terminal', async () => {
    await start();
    const other = await startTestBridge({ beside: at });
    try {
      for (const [name, asked] of [
        ['a', at],
        ['b', other],
      ] as const) {
        const held = at.simulator.script.onTurn({}, { kind: 'hold', at: 'before_terminal' });
        const client = await openLive(at.url, { model: 'm', store: false, input: 'one' }, { 'thread-id': name });
        await client.until('response.output_item.done');
        held.remove();
        const session = at.bridge.sessions().find(({ state }) => state.startsWith('live.streaming'))!;
        const done = await fetch(`${asked.url}/admin/sessions/${session.id}/close`, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
        });
        expect([asked === at, done.status, await done.json()]).toEqual([asked === at, 200, expect.anything()]);
        const told = (await client.rest()).events.at(-1)!;
        expect(told.type).toBe('response.failed');
        expect(told.data.response).toMatchObject({ error: { bridge_code: 'bridge_session_closed' } });
        // The epoch is still 1, so the owner closed it: a close by another worker raises the epoch.
        expect(await at.store.sessionById(session.id)).toMatchObject({ state: 'closed', activeTurnId: null, epoch: 1 });
        expect(await at.store.turnsOf(session.id, 9)).toMatchObject([{ state: 'cancelled' }]);
        const anew = await post(at.url, { model: 'm', store: false, input: 'two' }, { 'thread-id': name });
        expect(anew.headers['x-holdfast-outcome']).toBe('created');
        held.release();
      }
    } finally {
      await other.close();
    }
  });

  it('Requests need the admin token, and are refused when they come from another page', async () => {
    await start({ env: { HOLDFAST_ADMIN_TOKEN: 'operator' } });
    expect((await call('/admin/sessions')).status).toBe(401);
    const headers = { authorization: 'Bearer operator' };
    expect((await call('/admin/sessions', { headers })).status).toBe(200);
    const foreign = { ...headers, origin: 'https://evil.example' };
    expect((await call('/admin/sessions/x/close', { method: 'POST', headers: foreign })).status).toBe(403);
    const form = { ...headers, 'content-type': 'text/plain' };
    expect((await call('/admin/sessions/x/close', { method: 'POST', headers: form })).status).toBe(403);
  });

  it('Without an admin token only this machine is accepted, and only under its own host name', async () => {
    await start();
    for (const host of ['evil.example', `evil.example:${new URL(at.url).port}`]) {
      expect((await call('/admin/sessions', { headers: { host } })).status).toBe(403);
    }
    expect((await call('/admin/sessions', { headers: { 'x-forwarded-for': '1.2.3.4' } })).status).toBe(401);
  });
});
