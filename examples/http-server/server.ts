import { createServer } from 'node:http';
import { createBridge } from 'holdfast';
import { startSimulator } from 'holdfast/testing';

// A simulated provider unless a real one is configured, so that the example needs no key.
const upstream = process.env.HOLDFAST_UPSTREAM_URL ?? (await startSimulator()).url;
const bridge = await createBridge({ upstream });

const server = createServer((req, res) => {
  // Requests that are not for the bridge come back through the third argument.
  bridge.handler(req, res, () => {
    if (req.url !== '/hello') return res.writeHead(404).end();
    res.writeHead(200, { 'content-type': 'application/json' }).end('{"from":"the app"}');
  });
});
server.on('upgrade', bridge.handleUpgrade);
bridge.guardConnections(server);
server.listen(Number(process.env.PORT ?? 8787), '127.0.0.1', () => {
  const { port } = server.address() as { port: number };
  console.log(`http://127.0.0.1:${port}`);
});

for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, async () => {
    // Drains first: the server must still be there for the answers that are running.
    await bridge.close();
    server.close(() => process.exit(0));
    server.closeIdleConnections();
  });
