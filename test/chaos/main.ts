import { parseArgs } from 'node:util';
import { endTogether } from '../support/end-together.ts';
import { runCampaign } from './campaign.ts';

/**
 * `npm run test:chaos -- [--seed N] [--short] [--only TEXT] [--verbose]`: runs the whole campaign and prints its table.
 * `npm run test:chaos -- --starved [--restarts N]`: only the starved workers, restarted 100 times.
 */
const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    short: { type: 'boolean' },
    only: { type: 'string' },
    verbose: { type: 'boolean' },
    starved: { type: 'boolean' },
    restarts: { type: 'string' },
  },
});
await endTogether();
const reports = await runCampaign({
  seed: Number(values.seed ?? Math.floor(Math.random() * 1e9)),
  size: values.short ? 'short' : 'full',
  only: values.starved ? 'starved' : (values.only ?? ''),
  restarts: values.restarts ? Number(values.restarts) : values.starved ? 100 : null,
  verbose: values.verbose ?? false,
});
process.exit(reports.some(({ ok }) => !ok) ? 1 : 0);
