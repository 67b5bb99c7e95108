import { expect, it } from 'vitest';
import { runCampaign } from './campaign.ts';

const SEED = Number(process.env.CHAOS_SEED ?? Math.floor(Math.random() * 1e9));

it(`Real workers that are killed, stopped, cut off and restarted lose nothing (seed ${SEED})`, async () => {
  const verdicts = await runCampaign({ seed: SEED, size: 'short', only: '', verbose: false });
  expect(verdicts.length).toBeGreaterThan(4);
  for (const { name, tally, broken } of verdicts) {
    expect({ name, wrong: tally.wrong, badTerminals: tally.badTerminals, lost: tally.lost, broken }).toEqual({
      name,
      wrong: 0,
      badTerminals: 0,
      lost: [],
      broken: [],
    });
  }
}, 1_200_000);
