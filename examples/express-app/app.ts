import { createServer } from 'node:http';
import express from 'express';
import { createBridge } from 'holdfast';
import { startSimulator } from 'holdfast/testing';

// A simulated provider unless a real one is configured, so that the example needs no key.
const upstream = process.env.HOLDFAST_UPSTREAM_URL ?? (await startSimulator()).url;
// Every other setting comes from the environment; without DATABASE_URL a PostgreSQL is started in .holdfast/.
const bridge = await createBridge({ upstream });

const app = express();
app.get('/hello', (_req, res) => {
  res.json({ from: 'the app' });
});
// The bridge reads its bodies itself, in slices: mount it before the body parsers of the app.
app.use(bridge.router);
app.use(express.json());
app.post('/echo', (req, res) => {
  res.json(req.body);
});

const server = createServer(app);
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
