import { createServer } from 'node:http';
import { defineEntity, MikroORM, p } from '@mikro-orm/postgresql';
import express from 'express';
import { createBridge } from 'holdfast';
import { startSimulator } from 'holdfast/testing';

const clientUrl = process.env.APP_DATABASE_URL;
if (!clientUrl) throw new Error('Set APP_DATABASE_URL to a PostgreSQL: this example brings none of its own.');

const Note = defineEntity({ name: 'Note', properties: { id: p.integer().primary(), text: p.text() } });
const orm = await MikroORM.init({ clientUrl, entities: [Note], pool: { max: 20 } });
await orm.schema.update();

// A simulated provider unless a real one is configured, so that the example needs no key.
const upstream = process.env.HOLDFAST_UPSTREAM_URL ?? (await startSimulator()).url;
const bridge = await createBridge({
  orm,
  upstream,
  // The same on every worker of this database; the first signs. In production, from a vault.
  auth: { secrets: [process.env.SECRET ?? 'example:0123456789abcdef0123456789abcdef'] },
});

const app = express();
app.use(bridge.router);
app.get('/notes', async (_req, res) => {
  res.json(await orm.em.fork().find(Note, {}));
});

const server = createServer(app);
server.on('upgrade', bridge.handleUpgrade);
server.listen(Number(process.env.PORT ?? 8787), '127.0.0.1', () => {
  const { port } = server.address() as { port: number };
  console.log(`http://127.0.0.1:${port}`);
});

for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, async () => {
    // The bridge leaves the ORM open; the app closes it last.
    await bridge.close();
    server.close();
    server.closeIdleConnections();
    await orm.close(true);
    process.exit(0);
  });
