import { once } from 'node:events';
import { createServer, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import middie from '@fastify/middie';
import { createAdaptorServer } from '@hono/node-server';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import compression from 'compression';
import express5, { type RequestHandler } from 'express';
import express4 from 'express4';
import fastify from 'fastify';
import helmet from 'helmet';
import { Hono } from 'hono';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Bridge } from '../../src/index.ts';
import { type TestBridge, testBridge } from '../../src/testing/index.ts';

let at: TestBridge;
let bridge: Bridge;
beforeAll(async () => {
  at = await testBridge();
  ({ bridge } = at);
});
afterAll(() => at.close());

const undo: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

async function listening(server: Server): Promise<string> {
  if (!server.listening) await once(server.listen(0, '127.0.0.1'), 'listening');
  undo.push(async () => {
    server.closeAllConnections();
    await new Promise((closed) => server.close(closed));
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const headers = { 'content-type': 'application/json', authorization: 'Bearer sk-client' };
const post = (url: string, body: object | string, more: Record<string, string> = {}) =>
  fetch(`${url}/v1/responses`, {
    method: 'POST',
    headers: { ...headers, ...more },
    body: typeof body === 'string' ? body : JSON.stringify({ model: 'm', input: 'Say hi.', ...body }),
  });

/** Middleware that apps put in front of everything. Types of Express 4 and 5 differ, the functions do not. */
type Use = { use(...handlers: never[]): unknown };
const use = (app: Use, ...handlers: unknown[]) => app.use(...(handlers as never[]));

interface Kind {
  name: string;
  /** Starts a server that has the bridge and a route `/own` of its own. */
  start(): Promise<string>;
}

const expressApp = (create: typeof express5, before: readonly unknown[]): Promise<string> => {
  const app = create();
  if (before.length > 0) use(app, ...before);
  use(app, bridge.router);
  app.get('/own', (_req, res) => void res.json({ from: 'the app' }));
  const server = createServer(app);
  server.on('upgrade', bridge.handleUpgrade);
  return listening(server);
};

const versions: [string, typeof express5][] = [
  ['Express 5', express5],
  ['Express 4', express4 as unknown as typeof express5],
];

const kinds: Kind[] = [
  {
    name: 'plain http',
    start: async () => {
      const server = createServer((req, res) => {
        bridge.handler(req, res, () => {
          const own = req.url === '/own';
          res
            .writeHead(own ? 200 : 404, { 'content-type': 'application/json' })
            .end(JSON.stringify({ from: 'the app' }));
        });
      });
      server.on('upgrade', bridge.handleUpgrade);
      return listening(server);
    },
  },
  ...versions.flatMap(([version, create]): Kind[] =>
    (
      [
        ['alone', []],
        ['behind json', [create.json()]],
        ['behind raw', [create.raw({ type: () => true })]],
        ['behind text', [create.text({ type: () => true })]],
        ['behind urlencoded, which leaves JSON unread', [create.urlencoded({ extended: true })]],
        ['behind compression, helmet and json', [compression(), helmet(), create.json()]],
      ] as [string, RequestHandler[]][]
    ).map(([how, before]) => ({ name: `${version} ${how}`, start: () => expressApp(create, before) })),
  ),
  {
    name: 'Fastify with middie',
    start: async () => {
      const app = fastify();
      await app.register(middie);
      app.use(bridge.handler);
      app.get('/own', async () => ({ from: 'the app' }));
      app.server.on('upgrade', bridge.handleUpgrade);
      await app.listen({ port: 0, host: '127.0.0.1' });
      undo.push(() => app.close());
      return listening(app.server);
    },
  },
  {
    name: 'Fastify behind its own parser',
    start: async () => {
      const app = fastify();
      app.all('/v1/*', (request, reply) => {
        reply.hijack();
        bridge.handler(Object.assign(request.raw, { body: request.body }), reply.raw);
      });
      app.get('/own', async () => ({ from: 'the app' }));
      app.server.on('upgrade', bridge.handleUpgrade);
      await app.listen({ port: 0, host: '127.0.0.1' });
      undo.push(() => app.close());
      return listening(app.server);
    },
  },
  {
    name: 'Hono',
    start: async () => {
      const app = new Hono<{ Bindings: { incoming: never; outgoing: never } }>();
      app.use(async (c, next) => {
        if (!bridge.serves({ url: c.req.path })) return next();
        bridge.handler(c.env.incoming, c.env.outgoing);
        return RESPONSE_ALREADY_SENT;
      });
      app.get('/own', (c) => c.json({ from: 'the app' }));
      const server = createAdaptorServer({ fetch: app.fetch }) as Server;
      server.on('upgrade', bridge.handleUpgrade);
      return listening(server);
    },
  },
];

describe.each(kinds)('the bridge in $name', ({ start }) => {
  it('Turns, streams, errors and upgrades are answered as on a server of its own, and the app keeps its routes', async () => {
    const url = await start();
    const whole = await post(url, { input: 'Grüße 🌍' });
    expect(whole.headers.get('x-holdfast-outcome')).toBe('created');
    expect(await whole.json()).toMatchObject({ status: 'completed' });
    expect(at.simulator.journal.of('create').at(-1)!.body.input).toBe('Grüße 🌍');

    const streamed = await post(url, { stream: true }, { 'accept-encoding': 'gzip' });
    expect(streamed.headers.get('content-encoding')).toBeNull();
    const events = await streamed.text();
    expect(events).toContain('event: response.created');
    expect(events).toContain('event: response.completed');

    expect(await (await post(url, { input: 7 })).json()).toMatchObject({
      error: { bridge_code: 'bridge_invalid_request' },
    });
    expect(await (await fetch(`${url}/own`)).json()).toEqual({ from: 'the app' });
    expect((await fetch(`${url}/v1/models`, { headers })).status).toBe(200);

    const upgrade = request(`${url}/v1/models`, {
      headers: { connection: 'upgrade', upgrade: 'websocket', 'sec-websocket-version': '13' },
    }).end();
    const [answer] = (await once(upgrade, 'response')) as [{ statusCode: number; destroy(): void }];
    expect(answer.statusCode).toBe(426);
    answer.destroy();
  });
});

describe('bodies that an app has read', () => {
  it('A body that was parsed counts its real size against the limit', async () => {
    await using small = await testBridge({ env: { HOLDFAST_MAX_BODY_BYTES: '2000' } });
    for (const parser of [express5.json(), express5.raw({ type: () => true })]) {
      const url = await listening(createServer(express5().use(parser).use(small.bridge.router)));
      expect((await post(url, { input: 'x'.repeat(3_000) })).status).toBe(413);
      expect((await post(url, { input: 'x'.repeat(300) })).status).toBe(200);
    }
  });

  it('A body that was read and left nowhere is refused with that reason', async () => {
    const app = express5().use((req, _res, next) => void req.resume().once('end', next), bridge.router);
    const answer = await post(await listening(createServer(app)), {});
    expect(answer.status).toBe(400);
    expect(await answer.text()).toContain('left no req.body');
  });

  it('Bytes that are no JSON are refused as such', async () => {
    const app = express5().use(express5.raw({ type: () => true }), bridge.router);
    const answer = await post(await listening(createServer(app)), 'nothing');
    expect(await answer.json()).toMatchObject({ error: { bridge_code: 'bridge_invalid_json' } });
  });
});

describe('parts of a bridge', () => {
  it('handler answers other paths with 404 unless there is a next', async () => {
    const url = await listening(createServer(bridge.handler));
    const answer = await fetch(`${url}/else`);
    expect([answer.status, await answer.json()]).toMatchObject([404, { error: { bridge_code: 'bridge_not_found' } }]);
    expect(answer.headers.get('x-powered-by')).toBeNull();
  });

  it('The router below a path of the app serves the API there', async () => {
    const url = await listening(createServer(express5().use('/llm', bridge.router)));
    expect((await post(`${url}/llm`, {})).status).toBe(200);
    expect((await post(url, {})).status).toBe(404);
  });

  it('With mountAdmin: false the operators’ paths are the app’s, and adminRouter serves them elsewhere', async () => {
    await using apart = await testBridge({ mountAdmin: false });
    const { router, adminRouter, handler, serves, handleUpgrade } = apart.bridge;
    const paths = ['/admin/sessions', '/admin/ui', '/metrics', '/inspect'];
    const outer = express5()
      .use(router)
      .use((_req, res) => void res.status(418).end());
    const outside = await listening(createServer(outer).on('upgrade', handleUpgrade));
    const alone = await listening(createServer(handler));
    const inside = await listening(createServer(express5().use(adminRouter)));
    for (const path of paths) {
      expect([path, (await fetch(`${outside}${path}`)).status]).toEqual([path, 418]);
      expect([path, (await fetch(`${alone}${path}`)).status]).toEqual([path, 404]);
      expect([path, (await fetch(`${inside}${path}`)).status]).toEqual([path, 200]);
      expect(serves({ url: path })).toBe(false);
    }
    expect((await post(outside, {})).status).toBe(200);
    expect((await fetch(`${outside}/health`)).status).toBe(200);
    expect((await post(inside, {})).status).toBe(404);
    const viewer = request(`${outside}/inspect/feed`, {
      headers: { connection: 'upgrade', upgrade: 'websocket' },
    }).end();
    const [answer] = (await once(viewer, 'response')) as [{ statusCode: number; destroy(): void }];
    expect(answer.statusCode).toBe(426);
    answer.destroy();
  });

  it('serves tells the bridge’s paths from those of the app', () => {
    for (const url of ['/v1/responses', '/v1/responses/resp_1?x', '/health', '/admin/ui/', '/metrics']) {
      expect([url, bridge.serves({ url })]).toEqual([url, true]);
    }
    for (const url of ['/', '/v1', '/v1/other', '/healthy', '/administration', undefined]) {
      expect([url, bridge.serves({ url })]).toEqual([url, false]);
    }
  });
});
