import { createServer, type IncomingMessage, request } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import type { Duplex } from 'node:stream';
import { text } from 'node:stream/consumers';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { proxyFor, readProxies } from '../../src/upstream/proxies.ts';
import { createUpstreamTransport } from '../../src/upstream/transport.ts';
import { dialTo, record, startProvider } from './servers.ts';

const read = (env: Record<string, string>) => {
  const problems: string[] = [];
  return { proxies: readProxies(env, problems), problems };
};

describe('proxy settings', () => {
  it('Proxy settings are read in either spelling, lower case first, with or without a scheme', () => {
    const { proxies } = read({ HTTPS_PROXY: 'http://upper:1', https_proxy: 'http://lower:2', HTTP_PROXY: 'bare:3' });
    expect(proxyFor(proxies, 'https://api.test/v1')?.host).toBe('lower:2');
    expect(proxyFor(proxies, 'http://api.test/v1')?.host).toBe('bare:3');
    expect(proxyFor(read({ HTTP_PROXY: 'http://p:1' }).proxies, 'https://api.test')).toBeNull();
  });

  it.each(['socks5://p:1', 'http://', 'ftp://user:secret@p', 'http://p:port'])(
    'The proxy setting %s is refused with the name of its variable',
    (value) => {
      const { problems } = read({ HTTPS_PROXY: value });
      expect(problems.join()).toContain('HTTPS_PROXY');
      expect(problems.join()).not.toContain('secret');
    },
  );

  it.each([
    ['api.test', 'https://api.test/v1', true],
    ['api.test', 'https://eu.api.test/v1', true],
    ['.api.test', 'https://eu.api.test/v1', true],
    ['*.api.test', 'https://eu.api.test/v1', true],
    ['api.test', 'https://myapi.test/v1', false],
    ['other, api.test', 'https://API.test/v1', true],
    ['api.test:8443', 'https://api.test:8443/v1', true],
    ['api.test:8443', 'https://api.test/v1', false],
    ['api.test:443', 'https://api.test/v1', true],
    ['*', 'https://api.test/v1', true],
    ['127.0.0.1', 'https://127.0.0.1:9/v1', true],
    ['10.0.0.0/8', 'https://10.3.2.1/v1', true],
    ['10.0.0.0/8', 'https://11.3.2.1/v1', false],
    ['::1', 'https://[::1]:9/v1', true],
    ['[::1]:9', 'https://[::1]:9/v1', true],
    ['fd00::/8', 'https://[fd00::5]/v1', true],
    ['', 'https://127.0.0.1/v1', false],
  ])('With NO_PROXY=%s the URL %s is reached directly: %s', (none, target, direct) => {
    const { proxies } = read({ https_proxy: 'http://p:1', NO_PROXY: none });
    expect(proxyFor(proxies, target) === null).toBe(direct);
  });
});

describe('a transport behind a proxy', () => {
  const cleanup: (() => unknown)[] = [];
  afterEach(async () => {
    for (const undo of cleanup.splice(0).reverse()) await undo();
  });

  /** Starts a forward proxy that leads to `port` for any requested host, or refuses. */
  async function startProxy(port: number, does: 'pass' | 'refuse' | 'hang' = 'pass') {
    const seen: { line: string; auth: string | undefined }[] = [];
    const note = ({ method, url, headers }: IncomingMessage) =>
      seen.push({ line: `${method} ${url}`, auth: headers['proxy-authorization'] });
    const sockets = new Set<Duplex>();
    const server = createServer((req, res) => {
      note(req);
      const { pathname, search } = new URL(req.url!);
      const { method, headers } = req;
      const onward = request({ host: '127.0.0.1', port, path: pathname + search, method, headers }, (answer) => {
        res.writeHead(answer.statusCode!, answer.headers);
        answer.pipe(res);
      });
      req.pipe(onward);
    });
    server.on('connection', (socket) => {
      sockets.add(socket);
      socket.on('close', () => sockets.delete(socket));
    });
    server.on('connect', (req: IncomingMessage, socket: Duplex) => {
      note(req);
      socket.on('error', () => {});
      if (does === 'hang') return void socket.on('end', () => socket.end()).resume();
      if (does === 'refuse') return void socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n');
      const onward = connect(port, '127.0.0.1', () => socket.write('HTTP/1.1 200 OK\r\n\r\n'));
      onward.on('error', () => socket.destroy());
      socket.pipe(onward).pipe(socket);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    cleanup.push(() => {
      for (const socket of sockets) socket.destroy();
      server.close();
    });
    const url = `http://user:pass%3A1@127.0.0.1:${(server.address() as AddressInfo).port}`;
    const problems: string[] = [];
    const transport = createUpstreamTransport({
      closeTimeoutMs: 300,
      proxies: readProxies({ http_proxy: url, https_proxy: url }, problems),
    });
    cleanup.push(() => transport.shutdown());
    const deserted = () => vi.waitUntil(() => sockets.size === 0, { timeout: 10_000 });
    return { seen, transport, deserted };
  }

  it('A transport behind a proxy tunnels WebSockets, and sends exchanges and calls through it with its credentials', async () => {
    const provider = await startProvider({
      http: (req, res) => void req.resume().on('end', () => res.end(`at ${req.url}`)),
      websocket: (peer) => peer.on('message', (data) => peer.send(`echo ${data}`)),
    });
    cleanup.push(() => provider.close());
    const { seen, transport } = await startProxy(Number(new URL(provider.url).port));
    const dialled = await transport.dial(dialTo('http://provider.invalid/v1'));
    if (dialled.kind !== 'open') throw new Error(JSON.stringify(dialled));
    const socket = record(dialled.connection);
    dialled.connection.send('hello');
    await socket.count(1);
    expect(socket.frames).toEqual(['echo hello']);

    const target = { id: 't', baseUrl: 'http://provider.invalid/v1' };
    const call = await transport.call({ target, method: 'GET', path: '/models', headers: {}, body: null });
    expect(await text(call.body)).toBe('at /v1/models');
    const exchange = transport.exchange(dialTo('http://provider.invalid/v1'));
    const seenThere = record(exchange);
    exchange.send('{"type":"response.create"}');
    await seenThere.ended;
    expect(seen.map(({ line }) => line)).toEqual([
      'CONNECT provider.invalid:80',
      'GET http://provider.invalid/v1/models',
      'POST http://provider.invalid/v1/responses',
    ]);
    const auth = `Basic ${Buffer.from('user:pass:1').toString('base64')}`;
    expect(seen.every((each) => each.auth === auth)).toBe(true);
  });

  it('A transport behind a proxy aborts a tunnel that is not established in time', async () => {
    const { transport, deserted } = await startProxy(0, 'hang');
    const result = await transport.dial(dialTo('http://provider.invalid/v1', {}, 300));
    expect(result).toMatchObject({
      kind: 'failed',
      unreachable: {
        text: expect.stringMatching(/^no answer .* at provider\.invalid through the proxy 127\.0\.0\.1:\d+$/),
      },
    });
    await deserted();
  });

  it('A transport behind a proxy reports a refusal of the proxy, and never connects directly', async () => {
    const provider = await startProvider({});
    cleanup.push(() => provider.close());
    const { transport } = await startProxy(Number(new URL(provider.url).port), 'refuse');
    const exchange = transport.exchange(dialTo(provider.url.replace('http:', 'https:')));
    const seen = record(exchange);
    exchange.send('{"type":"response.create"}');
    const { unreachable } = (await seen.ended) as { unreachable?: { text: string } };
    expect(unreachable?.text).toMatch(/^PROXY_ANSWERED_403 at 127\.0\.0\.1:\d+ through the proxy 127\.0\.0\.1:\d+$/);
    expect(unreachable?.text).not.toContain('pass');
    // It is no refusal of the provider, which would be relayed.
    const dialled = await transport.dial(dialTo(provider.url));
    expect(dialled).toMatchObject({ kind: 'failed', unreachable: { text: unreachable?.text, byProxy: true } });
    expect(provider.sockets.size).toBe(0);
  });
});
