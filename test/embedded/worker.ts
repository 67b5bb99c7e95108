import { startEmbeddedPostgres } from '../../src/store/embedded/index.ts';

/** A process that holds an embedded database until it receives SIGTERM or is killed. */
const server = await startEmbeddedPostgres({ dataDir: process.argv[2]! });
process.once('SIGTERM', async () => {
  await server.stop();
  process.exit(0);
});
process.stdout.write(`${JSON.stringify({ pid: server.pid, url: server.url, adopted: server.adopted })}\n`);
setInterval(() => {}, 60_000);
