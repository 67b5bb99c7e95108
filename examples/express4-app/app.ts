import { createServer } from 'node:http';
// In a project of your own: import express from 'express'. Here version 4 has another name, because version 5 is installed too.
import express from 'express4';
import helmet from 'helmet';
import { createBridge } from 'holdfast';
import { startSimulator } from 'holdfast/testing';

// A simulated provider unless a real one is configured, so that the example needs no key.
const upstream = process.env.HOLDFAST_UPSTREAM_URL ?? (await startSimulator()).url;
const bridge = await createBridge({ upstream });

const app = express();
// The usual middleware may come first: the bridge takes a body that was parsed from req.body.
app.use(helmet(), express.json({ limit: '32mb' }));
app.get('/hello', (_req, res) => {
  res.json({ from: 'the app' });
});
app.use(bridge.router);

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
