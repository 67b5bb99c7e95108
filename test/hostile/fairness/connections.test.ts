import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { networkOf } from '../../../src/http/server.ts';
import { bodyOf, endsOf } from '../../field/support.ts';
import type { TestBridge } from '../../support/bridge.ts';
import { post } from '../../support/client.ts';
import { as, endless, eventually, holdEndless, metric, startTenants, user } from './support.ts';

vi.setConfig({ testTimeout: 180_000 });

const sockets: Socket[] = [];
afterEach(() => {
  for (const socket of sockets.splice(0)) socket.destroy();
});

/** Opens a connection that starts a request and stays silent; `localAddress` is its source address. */
async function dawdle(at: TestBridge, localAddress = '127.0.0.1'): Promise<Socket> {
  const socket = connect({ host: '127.0.0.1', port: Number(new URL(at.url).port), localAddress });
  socket.on('error', () => {});
  sockets.push(socket);
  await once(socket, 'connect');
  socket.write('POST /v1/responses HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: ');
  return socket;
}

const health = async (at: TestBridge) => (await fetch(`${at.url}/health`, { headers: { connection: 'close' } })).status;
const isOpen = ({ destroyed, readableEnded }: Socket) => !destroyed && !readableEnded;

describe('connections that never finish a request', () => {
  it('Any number of unfinished connections locks no client out, and cuts no running answer', async () => {
    const at = await startTenants({ HOLDFAST_MAX_CONNECTIONS: '24' });
    const held = holdEndless(at);
    const running = await endless(at, 'bob', 'b');
    await running.until('response.created');
    for (let n = 0; n < 120; n += 1) {
      await dawdle(at, `127.0.0.${2 + (n % 3)}`);
      if (n % 40 !== 39) continue;
      expect(await health(at)).toBe(200);
      const answer = await post(at.url, bodyOf([user('hello')]), as('bob', { 'thread-id': 'c', connection: 'close' }));
      expect(endsOf(answer)).toEqual(['response.completed']);
    }
    await eventually(async () => (await metric(at, 'holdfast_connections')) <= 24);
    expect(await metric(at, 'holdfast_connections_closed_total{reason="worker"}')).toBeGreaterThan(90);
    held.release();
    expect((await running.rest()).events.at(-1)!.type).toBe('response.completed');
  });

  it('Unfinished connections are closed at the address with the most of them, and those of other addresses stay', async () => {
    const at = await startTenants({ HOLDFAST_MAX_CONNECTIONS: '20' });
    const quiet = await Promise.all([dawdle(at, '127.0.0.9'), dawdle(at, '127.0.0.9')]);
    const flood: Socket[] = [];
    for (let n = 0; n < 60; n += 1) flood.push(await dawdle(at, '127.0.0.2'));
    await eventually(() => flood.filter(isOpen).length <= 18);
    expect(quiet.map(isOpen)).toEqual([true, true]);
    // The newest ones stay open, because they may still send their request.
    expect(isOpen(flood.at(-1)!)).toBe(true);
  });

  it('Unfinished connections are limited per address, and authenticated ones are exempt', async () => {
    const at = await startTenants({ HOLDFAST_PEER_CONNECTIONS: '3' });
    const held = holdEndless(at);
    const running = await Promise.all([1, 2, 3, 4, 5].map((n) => endless(at, 'ann', `a${n}`)));
    for (const one of running) await one.until('response.created');
    const other = await dawdle(at, '127.0.0.9');
    const slow: Socket[] = [];
    for (let n = 0; n < 9; n += 1) slow.push(await dawdle(at));
    await eventually(() => slow.filter(isOpen).length === 3);
    expect(slow.slice(-3).map(isOpen)).toEqual([true, true, true]);
    expect(isOpen(other)).toBe(true);
    held.release();
    for (const one of running) expect((await one.rest()).events.at(-1)!.type).toBe('response.completed');
  });
});

describe('connections held by requests', () => {
  it('Connections are shared among tenants, with some reserved for health and metrics', async () => {
    const at = await startTenants({ HOLDFAST_MAX_CONNECTIONS: '9' });
    const held = holdEndless(at);
    const close = { connection: 'close' };
    for (let n = 0; n < 4; n += 1) await (await endless(at, 'ann', `a${n}`)).until('response.created');
    const refused = await post(at.url, bodyOf([user('x')]), as('ann', close));
    expect([refused.status, refused.body.error?.bridge_code]).toEqual([429, 'bridge_tenant_busy']);
    for (let n = 0; n < 2; n += 1) await (await endless(at, 'bob', `b${n}`)).until('response.created');
    await (await endless(at, 'cat', 'c')).until('response.created');
    // All shareable connections are held: another tenant's request of another kind is refused, health is not.
    const catAgain = await post(at.url, bodyOf([user('x')]), as('cat', close));
    expect(catAgain.status).toBe(429);
    expect(await health(at)).toBe(200);
    held.release();
    await eventually(async () => (await post(at.url, bodyOf([user('x')]), as('ann', close))).status === 200);
  });
});

describe('network of an address', () => {
  it.each([
    ['192.0.2.7', '192.0.2.7'],
    ['::ffff:192.0.2.7', '192.0.2.7'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
    ['2001:DB8:1:2::9', '2001:db8:1:2::/64'],
    ['2001:db8::1', '2001:db8:0:0::/64'],
    ['2001:db8:0:1::', '2001:db8:0:1::/64'],
    ['fe80::1%eth0', 'fe80:0:0:0::/64'],
    ['::1', '0:0:0:0::/64'],
    ['', ''],
  ])('The network of address %s is %s', (address, network) => {
    expect(networkOf(address)).toBe(network);
  });
});
