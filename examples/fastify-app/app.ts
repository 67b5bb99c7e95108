import middie from '@fastify/middie';
import fastify from 'fastify';
import { createBridge } from 'holdfast';
import { startSimulator } from 'holdfast/testing';

// A simulated provider unless a real one is configured, so that the example needs no key.
const upstream = process.env.HOLDFAST_UPSTREAM_URL ?? (await startSimulator()).url;
const bridge = await createBridge({ upstream });

const app = fastify();
await app.register(middie);
// Runs before Fastify parses bodies. Requests that are not for the bridge go on to the routes of the app.
app.use(bridge.handler);
app.get('/hello', async () => ({ from: 'the app' }));
app.server.on('upgrade', bridge.handleUpgrade);
bridge.guardConnections(app.server);
console.log(await app.listen({ port: Number(process.env.PORT ?? 8787), host: '127.0.0.1' }));

for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, async () => {
    // Drains first: the server must still be there for the answers that are running.
    await bridge.close();
    await app.close();
    process.exit(0);
  });
