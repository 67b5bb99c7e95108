import { parseArgs } from 'node:util';
import { endTogether } from '../support/end-together.ts';
import { printRolling, runRolling } from './rolling.ts';
import { ownDatabase } from './world.ts';

/**
 * `npm run test:rolling -- [--clients N] [--workers N] [--restarts N] [--think-ms N] [--seed N]`: clients on WebSockets through
 * rolling restarts. Exits with 1 if a turn was lost or continued wrongly.
 */
const { values } = parseArgs({
  options: {
    clients: { type: 'string', default: '1000' },
    workers: { type: 'string', default: '3' },
    restarts: { type: 'string', default: '6' },
    'think-ms': { type: 'string' },
    seed: { type: 'string' },
  },
});
await endTogether();
const clients = Number(values.clients);
const database = await ownDatabase();
const options = {
  seed: Number(values.seed ?? Math.floor(Math.random() * 1e9)),
  clients,
  workers: Number(values.workers),
  restarts: Number(values.restarts),
  // 50 turns a second over all clients.
  thinkMs: Number(values['think-ms'] ?? 20 * clients),
  databaseUrl: database.server().url,
  log: (line: string) => console.log(line),
};
const report = await runRolling(options).finally(() => database.close());
printRolling(options, report);
process.exit(report.wrong + report.failed.length + report.broken.length > 0 ? 1 : 0);
