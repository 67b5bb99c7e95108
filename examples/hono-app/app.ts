import type { Server } from 'node:http';
import { type HttpBindings, serve } from '@hono/node-server';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { createBridge } from 'holdfast';
import { startSimulator } from 'holdfast/testing';
import { Hono } from 'hono';

// A simulated provider unless a real one is configured, so that the example needs no key.
const upstream = process.env.HOLDFAST_UPSTREAM_URL ?? (await startSimulator()).url;
const bridge = await createBridge({ upstream });

const app = new Hono<{ Bindings: HttpBindings }>();
app.use(async (c, next) => {
  const { incoming, outgoing } = c.env;
  if (!bridge.serves(incoming)) return next();
  // The bridge writes to Node's own response.
  bridge.handler(incoming, outgoing);
  return RESPONSE_ALREADY_SENT;
});
app.get('/hello', (c) => c.json({ from: 'the app' }));

const port = Number(process.env.PORT ?? 8787);
const server = serve({ fetch: app.fetch, port, hostname: '127.0.0.1' }, (at) => {
  console.log(`http://127.0.0.1:${at.port}`);
}) as Server;
server.on('upgrade', bridge.handleUpgrade);
bridge.guardConnections(server);

for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, async () => {
    // Drains first: the server must still be there for the answers that are running.
    await bridge.close();
    server.close(() => process.exit(0));
    server.closeIdleConnections();
  });
