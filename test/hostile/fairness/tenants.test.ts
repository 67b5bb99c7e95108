import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { request } from 'undici';
import { describe, expect, it, vi } from 'vitest';
import { bodyOf, endsOf } from '../../field/support.ts';
import { post } from '../../support/client.ts';
import { openLive } from '../../support/live-client.ts';
import { as, ENDLESS, endless, eventually, holdEndless, metric, startTenants, user } from './support.ts';

vi.setConfig({ testTimeout: 180_000 });

/** Opens a connection with the head of a turn request whose announced body is never sent. */
function unsent(url: string, tenant: string, bytes: number, type = 'application/json'): Socket {
  const { host, port } = new URL(url);
  const socket = connect(Number(port), '127.0.0.1');
  socket.on('error', () => {});
  const lines = [
    `host: ${host}`,
    `content-type: ${type}`,
    `content-length: ${bytes}`,
    `authorization: Bearer key-${tenant}`,
  ];
  socket.write(`POST /v1/responses HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`);
  return socket;
}

describe('a tenant whose turns do not end', () => {
  it('A tenant with endless turns runs as many as it leaves free and is then refused with a retry delay, while others are served', async () => {
    const at = await startTenants({ HOLDFAST_MAX_SOCKETS: '8' });
    const held = holdEndless(at);
    const running = await Promise.all([1, 2, 3, 4].map((n) => endless(at, 'ann', `a${n}`)));
    for (const one of running) await one.until('response.created');
    const more = bodyOf([user('one more')]);
    const refused = await post(at.url, more, as('ann', { 'thread-id': 'more' }));
    expect([refused.status, refused.body.error?.bridge_code]).toEqual([429, 'bridge_tenant_busy']);
    expect(Number(refused.headers['retry-after'])).toBeGreaterThan(0);
    expect(refused.headers['x-should-retry']).toBeUndefined();

    for (const name of ['b1', 'b2', 'b3', 'b4', 'b5']) {
      const answer = await post(at.url, bodyOf([user('hello')]), as('bob', { 'thread-id': name }));
      expect(endsOf(answer)).toEqual(['response.completed']);
    }
    // Also a concurrent endless turn of another tenant, and a third tenant beside both.
    const bobs = await endless(at, 'bob', 'b6');
    await bobs.until('response.created');
    expect(endsOf(await post(at.url, bodyOf([user('hello')]), as('cat')))).toEqual(['response.completed']);

    held.release();
    await running[0]!.until('response.completed');
    await running[0]!.rest();
    await eventually(async () => endsOf(await post(at.url, more, as('ann', { 'thread-id': 'more' })))[0] !== undefined);
    expect(await metric(at, 'holdfast_tenant_refusals_total{limit="turns"}')).toBeGreaterThan(0);
  });

  it('A tenant at its limit can still reattach to its own running turn', async () => {
    const at = await startTenants({ HOLDFAST_MAX_SOCKETS: '2', HOLDFAST_DISCONNECT_GRACE_MS: '15000' });
    const held = holdEndless(at);
    const first = await endless(at, 'ann', 'a');
    await first.until('response.created');
    expect((await post(at.url, bodyOf([user('other')]), as('ann'))).status).toBe(429);
    first.hangUp();
    const again = await endless(at, 'ann', 'a');
    expect([again.status, again.headers['x-holdfast-outcome']]).toEqual([200, 'reattached']);
    held.release();
    expect((await again.rest()).events.at(-1)!.type).toBe('response.completed');
  });

  it('A tenant’s own idle sockets are evicted first, and under pressure those of the tenant with the most', async () => {
    const at = await startTenants({ HOLDFAST_MAX_SOCKETS: '4' });
    const turn = (who: string, name: string) => post(at.url, bodyOf([user(name)]), as(who, { 'thread-id': name }));
    const first = await turn('bob', 'b1');
    for (const name of ['a1', 'a2', 'a3', 'a4', 'a5']) await turn('ann', name);
    expect(at.bridge.sessions()).toHaveLength(4);
    expect(endsOf(await turn('cat', 'c1'))).toEqual(['response.completed']);
    const next = [user('b1'), ...first.body.output, user('on')];
    const on = await post(at.url, bodyOf(next as never), as('bob', { 'thread-id': 'b1' }));
    expect(on.headers['x-holdfast-outcome']).toBe('live_reuse');
  });

  it('A tenant holds no more sockets than HOLDFAST_TENANT_SOCKETS', async () => {
    const at = await startTenants({ HOLDFAST_TENANT_SOCKETS: '2' });
    const held = holdEndless(at);
    for (const name of ['a1', 'a2', 'a3']) await post(at.url, bodyOf([user(name)]), as('ann', { 'thread-id': name }));
    expect(at.bridge.sessions()).toHaveLength(2);
    const running = await Promise.all(['e1', 'e2'].map((name) => endless(at, 'ann', name)));
    for (const one of running) await one.until('response.created');
    const refused = await post(at.url, bodyOf([user('x')]), as('ann', { 'thread-id': 'x' }));
    expect([refused.status, refused.body.error?.bridge_code]).toEqual([429, 'bridge_tenant_busy']);
    expect(endsOf(await post(at.url, bodyOf([user('y')]), as('bob')))).toEqual(['response.completed']);
    expect(await metric(at, 'holdfast_tenant_refusals_total{limit="sockets"}')).toBe(1);
    held.release();
  });

  it('A tenant has no more waiting requests than HOLDFAST_TENANT_WAITING', async () => {
    const at = await startTenants({ HOLDFAST_TENANT_WAITING: '2' });
    // Admitted, and waiting for bodies that never arrive.
    const waiting = [1, 2].map(() => unsent(at.url, 'ann', 100));
    await eventually(async () => (await metric(at, 'holdfast_requests_in_hand')) === 2);
    const answers = await Promise.all([3, 4].map(() => post(at.url, bodyOf([user('next')]), as('ann'))));
    expect(answers.map(({ status }) => status)).toEqual([429, 429]);
    expect(endsOf(await post(at.url, bodyOf([user('y')]), as('bob')))).toEqual(['response.completed']);
    for (const socket of waiting) socket.destroy();
    await eventually(async () => (await metric(at, 'holdfast_requests_in_hand')) === 0);
  });

  it('A tenant has no more body bytes in hand than HOLDFAST_TENANT_BODIES_BYTES', async () => {
    const at = await startTenants({ HOLDFAST_MAX_BODY_BYTES: '100000', HOLDFAST_TENANT_BODIES_BYTES: '150000' });
    const held = holdEndless(at);
    const large = 'x'.repeat(80_000);
    const running = await openLive(at.url, bodyOf([user(`${ENDLESS} ${large}`)]), as('ann', { 'thread-id': 'a' }));
    await running.until('response.created');
    const refused = await post(at.url, bodyOf([user(large)]), as('ann'));
    expect([refused.status, refused.body.error?.bridge_code]).toEqual([429, 'bridge_tenant_busy']);
    expect(endsOf(await post(at.url, bodyOf([user(large)]), as('bob')))).toEqual(['response.completed']);
    held.release();
    await running.rest();
    await eventually(async () => (await post(at.url, bodyOf([user(large)]), as('ann'))).status === 200);
  });

  it('A refused body does not count as in hand, and one that never fits gets 413 instead of a retry hint', async () => {
    const at = await startTenants({ HOLDFAST_MAX_BODY_BYTES: '100000', HOLDFAST_BODIES_BYTES: '250000' });
    // Refused by content type before they are read, and still sending.
    const sending = [1, 2].map(() => unsent(at.url, 'ann', 90_000, 'text/plain'));
    await Promise.all(sending.map((socket) => once(socket, 'data')));
    const large = bodyOf([user('x'.repeat(80_000))]);
    expect((await post(at.url, large, as('ann'))).status).toBe(200);
    for (const socket of sending) socket.destroy();

    const [head] = (await once(unsent(at.url, 'ann', 10_000_000), 'data')) as [Buffer];
    expect(head.toString('latin1')).toMatch(/^HTTP\/1\.1 413 /);
  });

  it('Turn buffers for reattachment are dropped from the tenant with the most once the total exceeds the budget', async () => {
    const at = await startTenants({ HOLDFAST_TURN_BUFFERS_BYTES: '300000', HOLDFAST_DISCONNECT_GRACE_MS: '15000' });
    const flood = at.simulator.script.onTurn(
      { input: ENDLESS },
      [
        { kind: 'huge', bytes: 20_000 },
        { kind: 'hold', at: 'before_terminal' },
      ],
      { times: 'always' },
    );
    const bob = await endless(at, 'bob', 'b');
    await bob.until('response.output_text.delta');
    bob.hangUp();
    const anns = [];
    for (const name of ['a1', 'a2', 'a3']) {
      const one = await endless(at, 'ann', name);
      await one.until('response.output_item.done');
      anns.push(one);
    }
    expect(await metric(at, 'holdfast_turn_buffer_bytes')).toBeLessThanOrEqual(300_000);
    expect(await metric(at, 'holdfast_turn_buffers_given_up_total')).toBeGreaterThan(0);
    const back = await endless(at, 'bob', 'b');
    expect(back.headers['x-holdfast-outcome']).toBe('reattached');
    flood.release();
    for (const one of [...anns, back]) {
      const { events } = await one.rest();
      expect(events.at(-1)!.type).toBe('response.completed');
    }
    await eventually(async () => (await metric(at, 'holdfast_turn_buffer_bytes')) === 0);
  });
});

describe('a tenant that reads none of its answers', () => {
  it('A tenant that reads no answers has its unread bytes counted, delays no other tenant, and leaves nothing behind', async () => {
    const at = await startTenants({ HOLDFAST_TURN_BUFFERS_BYTES: '2000000', HOLDFAST_SLOW_CLIENT_MS: '3000' });
    at.simulator.script.onTurn({ input: ENDLESS }, { kind: 'huge', bytes: 4_000_000 }, { times: 'always' });
    const unread = [1, 2, 3].map((n) => {
      const body = JSON.stringify(bodyOf([user(`${ENDLESS} ${n}`)]));
      const socket = unsent(at.url, 'ann', body.length).pause();
      socket.write(body);
      return socket;
    });
    await eventually(async () => (await metric(at, 'holdfast_unread_bytes')) > 2_000_000);
    expect(endsOf(await post(at.url, bodyOf([user('hello')]), as('bob')))).toEqual(['response.completed']);
    for (const socket of unread) socket.destroy();
    await eventually(async () => (await metric(at, 'holdfast_unread_bytes')) === 0);
    await eventually(async () => (await metric(at, 'holdfast_requests_in_hand')) === 0);
  });
});

/** Number of concurrent requests, far above the limit of waiting ones. */
const FLOOD = 300;

describe('a tenant that floods', () => {
  it('A flood of 300 endless turns of one tenant causes no refusal for another, and leaves nothing behind', async () => {
    const at = await startTenants({ HOLDFAST_MAX_SOCKETS: '32', HOLDFAST_TENANT_WAITING: '60' });
    holdEndless(at);
    const control = new AbortController();
    const statuses = new Map<number, number>();
    const flood = Array.from({ length: FLOOD }, async (_, n) => {
      const answer = await request(`${at.url}/v1/responses`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...as('ann', { 'thread-id': `a${n}` }) },
        body: JSON.stringify(bodyOf([user(`${ENDLESS} ${n}`)])),
        signal: control.signal,
        headersTimeout: 0,
      });
      statuses.set(answer.statusCode, (statuses.get(answer.statusCode) ?? 0) + 1);
      if (answer.statusCode === 429) expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0);
      await answer.body.dump();
    });
    const settled = Promise.allSettled(flood);
    for (let n = 0; n < 12; n += 1) {
      const answer = await post(at.url, bodyOf([user(`hello ${n}`)]), as('bob', { 'thread-id': `b${n % 3}` }));
      expect([answer.status, endsOf(answer)]).toEqual([200, ['response.completed']]);
    }
    await eventually(() => (statuses.get(429) ?? 0) + (statuses.get(200) ?? 0) === FLOOD);
    expect(statuses.get(200)).toBe(16);
    expect([...statuses.keys()].sort()).toEqual([200, 429]);
    control.abort();
    await settled;
    await eventually(async () => (await metric(at, 'holdfast_requests_in_hand')) === 0);
    await eventually(async () => (await metric(at, 'holdfast_turn_buffer_bytes')) === 0);
    expect(endsOf(await post(at.url, bodyOf([user('again')]), as('ann')))).toEqual(['response.completed']);
  });
});

describe('requests per minute', () => {
  const limited = { HOLDFAST_TENANT_REQUESTS_PER_MINUTE: '4' };

  it('Requests per minute are counted per tenant over all routes, and a refusal has a retry delay', async () => {
    const at = await startTenants(limited);
    const call = async (method: 'GET' | 'POST', path: string, who: string, body?: object) => {
      const answer = await request(`${at.url}/v1${path}`, {
        method,
        headers: as(who, body ? { 'content-type': 'application/json' } : {}),
        ...(body ? { body: JSON.stringify(body) } : {}),
      });
      await answer.body.dump();
      return answer;
    };
    expect((await post(at.url, bodyOf([user('one')]), as('ann'))).status).toBe(200);
    await call('POST', '/responses/input_tokens', 'ann', bodyOf([user('one')]));
    await call('GET', '/responses/resp_unknown', 'ann');
    const last = await call('GET', '/models', 'ann');
    expect(last.statusCode).not.toBe(429);
    expect(last.headers['x-ratelimit-limit-requests']).toBeUndefined();
    for (const ask of [
      () => call('GET', '/models', 'ann'),
      () => call('POST', '/responses/compact', 'ann', bodyOf([user('one')])),
      () => call('POST', '/responses', 'ann', bodyOf([user('one')])),
      () => call('GET', '/responses/resp_unknown/input_items', 'ann'),
    ]) {
      const { statusCode, headers } = await ask();
      expect(statusCode).toBe(429);
      expect(headers).toMatchObject({ 'x-ratelimit-limit-requests': '4', 'x-ratelimit-remaining-requests': '0' });
      expect(headers['x-ratelimit-reset-requests']).toMatch(/^(\d+m)?[\d.]+s$/);
      const wait = Number(headers['retry-after']);
      expect(wait).toBeGreaterThan(0);
      expect(wait).toBeLessThanOrEqual(15);
    }
    expect((await post(at.url, bodyOf([user('one')]), as('bob'))).status).toBe(200);
    expect(await metric(at, 'holdfast_tenant_refusals_total{limit="requests_per_minute"}')).toBe(4);
  });

  it('The rate limit does not change rate-limit headers of the provider', async () => {
    const at = await startTenants(limited);
    const headers = { 'x-ratelimit-limit-requests': '10000', 'x-ratelimit-remaining-requests': '7' };
    at.simulator.script.onRequest({}, { kind: 'respond', status: 429, headers, body: { error: { code: 'theirs' } } });
    const relayed = await request(`${at.url}/v1/models`, { headers: as('ann') });
    expect(await relayed.body.json()).toEqual({ error: { code: 'theirs' } });
    expect(relayed.headers).toMatchObject(headers);
  });
});

describe('tenants with their own credentials', () => {
  it('Tenants with their own credentials are limited one by one', async () => {
    const at = await startTenants({ HOLDFAST_UPSTREAM_KEY: '', HOLDFAST_API_KEYS: '', HOLDFAST_MAX_SOCKETS: '4' });
    const held = holdEndless(at);
    for (const name of ['a1', 'a2']) await (await endless(at, 'ann', name)).until('response.created');
    const refused = await post(at.url, bodyOf([user('x')]), as('ann'));
    expect([refused.status, refused.body.error?.bridge_code]).toEqual([429, 'bridge_tenant_busy']);
    expect(endsOf(await post(at.url, bodyOf([user('x')]), as('bob')))).toEqual(['response.completed']);
    held.release();
  });
});

describe('a single tenant', () => {
  it('A single tenant is refused only when the worker is full', async () => {
    const at = await startTenants({ HOLDFAST_API_KEYS: 'ann:key-ann', HOLDFAST_MAX_SOCKETS: '3' });
    const held = holdEndless(at);
    for (const name of ['a1', 'a2', 'a3']) await (await endless(at, 'ann', name)).until('response.created');
    const refused = await post(at.url, bodyOf([user('x')]), as('ann'));
    expect([refused.status, refused.body.error?.bridge_code]).toEqual([503, 'bridge_overloaded']);
    held.release();
  });
});
