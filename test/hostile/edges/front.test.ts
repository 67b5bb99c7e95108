import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import express from 'express';
import { request } from 'undici';
import { afterEach, describe, expect, it } from 'vitest';
import { readConfig } from '../../../src/config.ts';
import { createOperatorAccess } from '../../../src/http/access.ts';
import { createFront, ownPaths } from '../../../src/http/front.ts';
import { type TestBridge, testBridge } from '../../../src/testing/index.ts';
import { answerTo } from './raw.ts';

let at: TestBridge | null = null;
afterEach(async () => {
  await at?.close();
  at = null;
});
const shared = { HOLDFAST_UPSTREAM_KEY: 'sk-operators' };
const start = async (env: Record<string, string> = {}) => {
  at = await testBridge({ env });
  return at.url;
};
const turn = (url: string, headers: Record<string, string>) =>
  request(`${url}/v1/responses`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: '{"model":"m","input":"x"}',
  });

describe('Host header', () => {
  it('An unknown Host is refused on every path, before anything is spent or shown', async () => {
    const url = await start(shared);
    expect((await turn(url, { host: 'evil.example' })).statusCode).toBe(403);
    expect((await turn(url, { host: 'localhost:1' })).statusCode).toBe(200);
    expect(at!.simulator.journal.of('create')).toHaveLength(1);
    for (const path of ['/', '/v1/models', '/metrics', '/inspect', '/admin/ui', '/nothing']) {
      const { statusCode } = await request(`${url}${path}`, { headers: { host: 'evil.example' } });
      expect([path, statusCode]).toEqual([path, 403]);
    }
    const socket = 'Connection: Upgrade\r\nUpgrade: websocket\r\n';
    expect(await answerTo(url, `GET /inspect/socket HTTP/1.1\r\nHost: evil.example\r\n${socket}\r\n`)).toEqual({
      status: 403,
      code: 'bridge_forbidden_host',
    });
  });

  it('A Host header must occur once, be well-formed, and match an absolute request target', async () => {
    const url = await start();
    const ask = (target: string, headers: string) => answerTo(url, `GET ${target} HTTP/1.1\r\n${headers}\r\n`);
    expect((await ask('/v1/models', 'Host: localhost\r\nHost: localhost\r\n')).code).toBe('bridge_malformed_request');
    expect((await ask('/v1/models', 'Host: a@localhost\r\n')).code).toBe('bridge_malformed_request');
    expect((await ask('/v1/models', '')).status).toBe(400);
    expect((await ask('http://evil.example/v1/models', 'Host: localhost\r\n')).code).toBe('bridge_forbidden_host');
    expect((await ask('http://localhost/v1/models', 'Host: localhost\r\nAuthorization: Bearer sk\r\n')).status).toBe(
      200,
    );
  });

  it('Probes accept any IP address as Host, and HTTP/1.0 without one, but no unknown name', async () => {
    const url = await start();
    for (const path of ['/health', '/ready']) {
      for (const host of ['10.42.0.7:8787', '[fd00::7]:8787'])
        expect((await request(`${url}${path}`, { headers: { host } })).statusCode).toBe(200);
      expect((await request(`${url}${path}`, { headers: { host: 'evil.example' } })).statusCode).toBe(403);
      const ask = (target: string, headers: string) => answerTo(url, `GET ${target} HTTP/1.1\r\n${headers}\r\n`);
      expect((await ask(`http://evil.example${path}`, 'Host: localhost\r\n')).code).toBe('bridge_forbidden_host');
      expect((await ask(path, 'Host: localhost\r\nHost: localhost\r\n')).code).toBe('bridge_malformed_request');
      expect((await answerTo(url, `GET ${path} HTTP/1.0\r\n\r\n`)).status).toBe(200);
    }
  });
});

describe('known host names', () => {
  const admits = (env: Record<string, string>, host: string, addresses: string[] = ['10.0.0.4', 'fd00::4']) => {
    const { server } = readConfig({ HOLDFAST_API_KEYS: 't:k', HOLDFAST_UPSTREAM_KEY: 'k', ...env });
    try {
      const message = { url: '/v1/models', headers: { host }, rawHeaders: ['Host', host] };
      createFront(server, addresses).admit(message as never);
      return true;
    } catch {
      return false;
    }
  };

  it('A bridge on loopback accepts loopback names and the configured ones', () => {
    for (const host of [
      'localhost',
      'LOCALHOST:80',
      'localhost.',
      '127.0.0.1:8787',
      '127.9.9.9',
      '[::1]:1',
      'host.docker.internal',
    ])
      expect([host, admits({}, host)]).toEqual([host, true]);
    for (const host of [
      'evil.example',
      'localhost.evil.example',
      '127.0.0.1.evil.example',
      '127.evil',
      '10.0.0.4',
      'x',
      '',
    ])
      expect([host, admits({}, host)]).toEqual([host, false]);
    const listed = { HOLDFAST_PUBLIC_HOSTS: 'Bridge.example, other.example:8443' };
    expect(admits(listed, 'bridge.example:444')).toBe(true);
    expect(admits(listed, 'other.example:8443')).toBe(true);
    expect(admits(listed, 'other.example')).toBe(false);
    expect(admits({ HOLDFAST_PUBLIC_HOSTS: '*' }, 'evil.example')).toBe(true);
  });

  it('An open bridge accepts any Host, because its paths need a key, until names are configured', () => {
    expect(admits({ HOST: '0.0.0.0' }, 'holdfast.default.svc.cluster.local')).toBe(true);
    const listed = { HOST: '0.0.0.0', HOLDFAST_PUBLIC_HOSTS: 'bridge.example' };
    for (const host of ['bridge.example', '10.0.0.4:8787', '[fd00::4]', 'localhost'])
      expect([host, admits(listed, host)]).toEqual([host, true]);
    for (const host of ['evil.example', '10.0.0.5']) expect([host, admits(listed, host)]).toEqual([host, false]);
  });
});

describe('Origin header', () => {
  it('A request from another origin is refused on every path', async () => {
    const url = await start(shared);
    for (const origin of ['https://evil.example', 'null', 'http://localhost:1']) {
      const answer = await turn(url, { origin });
      expect(answer.statusCode).toBe(403);
      expect(await answer.body.json()).toMatchObject({ error: { bridge_code: 'bridge_forbidden_origin' } });
      expect(answer.headers['access-control-allow-origin']).toBeUndefined();
    }
    expect((await request(`${url}/health`, { headers: { origin: 'https://evil.example' } })).statusCode).toBe(403);
    expect((await turn(url, { origin: new URL(url).origin })).statusCode).toBe(200);
    expect(at!.simulator.journal.of('create')).toHaveLength(1);
  });

  it('A configured origin passes the preflight and may read the answer, but not the operators’ paths', async () => {
    const url = await start({ ...shared, HOLDFAST_CORS_ORIGINS: 'https://app.example' });
    const origin = 'https://app.example';
    const preflight = await request(`${url}/v1/responses`, {
      method: 'OPTIONS',
      headers: {
        origin,
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'authorization, content-type, x-stainless-os',
      },
    });
    expect(preflight.statusCode).toBe(204);
    expect(preflight.headers).toMatchObject({
      'access-control-allow-origin': origin,
      'access-control-allow-methods': 'GET, POST, DELETE',
      'access-control-allow-headers': 'authorization, content-type, x-stainless-os',
    });
    const answer = await turn(url, { origin });
    expect(answer.statusCode).toBe(200);
    expect(answer.headers['access-control-allow-origin']).toBe(origin);
    expect(answer.headers['access-control-expose-headers']).toBe('*');
    expect(answer.headers['access-control-allow-credentials']).toBeUndefined();
    expect(String(answer.headers.vary).toLowerCase()).toContain('origin');
    await answer.body.dump();
    expect((await turn(url, { origin: 'https://evil.example' })).statusCode).toBe(403);
    for (const path of ['/admin/sessions', '/metrics', '/inspect'])
      expect((await request(`${url}${path}`, { headers: { origin } })).statusCode).toBe(403);
  });
});

describe('operator access', () => {
  const statusOf = async (url: string, headers: Record<string, string> = {}) =>
    (await request(`${url}/admin/sessions`, { headers })).statusCode;

  it.each([
    ['a shared key', shared],
    ['API keys', { ...shared, HOLDFAST_API_KEYS: 'acme:hk-1' }],
  ])('With %s, operators need the generated admin token, which is the same for every worker', async (_, env) => {
    const url = await start(env);
    const { adminToken } = at!.bridge;
    expect(adminToken).toMatchObject({ given: false });
    const mine = { authorization: `Bearer ${adminToken!.token}` };
    for (const path of ['/admin/sessions', '/admin/workers', '/metrics']) {
      expect((await request(`${url}${path}`)).statusCode).toBe(401);
      expect((await request(`${url}${path}`, { headers: mine })).statusCode).toBe(200);
    }
    expect((await request(`${url}/inspect/ticket`, { method: 'POST' })).statusCode).toBe(401);
    const close = { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' } as const;
    expect((await request(`${url}/admin/sessions/x/close`, close)).statusCode).toBe(401);
    await at!.restart();
    expect(at!.bridge.adminToken!.token).toBe(adminToken!.token);
    expect(JSON.stringify(await (await fetch(`${at!.url}/v1/nothing`)).json())).not.toContain(adminToken!.token);
  });

  it('Without keys, operators are accepted from this machine without a token, but not through a proxy', async () => {
    const url = await start();
    expect(at!.bridge.adminToken).toBeNull();
    expect(await statusOf(url)).toBe(200);
    for (const name of [
      'via',
      'forwarded',
      'x-real-ip',
      'x-forwarded-for',
      'x-forwarded-proto',
      'x-forwarded-host',
      'cf-ray',
    ])
      expect([name, await statusOf(url, { [name]: '1' })]).toEqual([name, 401]);
    expect((await answerTo(url, 'GET /admin/sessions HTTP/1.0\r\nHost: localhost\r\n\r\n')).status).toBe(401);
  });

  it('Without an admin token, another machine is refused whatever Host it sends', () => {
    const allow = createOperatorAccess(null);
    const from = (remoteAddress: string) => () => allow({ headers: { host: 'localhost' }, socket: { remoteAddress } });
    expect(from('127.0.0.1')).not.toThrow();
    expect(from('10.0.0.4')).toThrow();
  });
});

describe('bridge within an outer app', () => {
  let server: Server | null = null;
  afterEach(() => server?.close());

  it('The bridge’s host and origin rules apply to its own paths and not to those of the outer app', async () => {
    await start();
    const app = express();
    app.use('/ai', at!.bridge.router);
    app.get('/mine', (_req, res) => void res.send('mine'));
    app.get('/ai/mine', (_req, res) => void res.send('mine'));
    server = createServer(app).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const foreign = { headers: { host: 'app.example', origin: 'https://evil.example' } };
    expect((await request(`${url}/mine`, foreign)).statusCode).toBe(200);
    expect((await request(`${url}/ai/mine`, foreign)).statusCode).toBe(200);
    for (const path of ['/v1/models', '/admin/sessions', '/inspect'])
      expect((await request(`${url}/ai${path}`, foreign)).statusCode).toBe(403);
    expect((await request(`${url}/ai/health`)).statusCode).toBe(200);
  });

  it('Every route of the bridge is in ownPaths', async () => {
    await start();
    interface Layer {
      route?: { path: string };
      handle: { stack?: Layer[] };
    }
    const paths: string[] = [];
    const walk = (stack: Layer[]) => {
      for (const { route, handle } of stack) {
        if (route) paths.push(route.path);
        else if (handle.stack) walk(handle.stack);
      }
    };
    walk((at!.bridge.router as unknown as { stack: Layer[] }).stack);
    expect(paths.length).toBeGreaterThan(20);
    for (const path of paths)
      expect(
        ownPaths.some((own) => path === own || path.startsWith(`${own}/`)),
        path,
      ).toBe(true);
  });
});
