import { type Report, scenarios } from './scenarios.ts';
import { ownDatabase } from './world.ts';

export interface CampaignOptions {
  seed: number;
  size: 'short' | 'full';
  /** Runs only scenarios whose name contains this text. */
  only: string;
  /** Restarts of the scenarios that restart workers in turn; null: the default of the chosen size. */
  restarts?: number | null;
  verbose: boolean;
}

export interface Verdict extends Report {
  ok: boolean;
  seconds: number;
}

const percentile = (values: readonly number[], p: number) => {
  if (values.length === 0) return '-';
  const sorted = [...values].sort((a, b) => a - b);
  return `${Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * p))]!)}`;
};

/** Runs the scenarios one after another, each with its own workers and database, and prints their reports. */
export async function runCampaign({ seed, size, only, restarts = null, verbose }: CampaignOptions): Promise<Verdict[]> {
  console.log(`seed ${seed}, ${size} form`);
  const verdicts: Verdict[] = [];
  const database = await ownDatabase();
  const { server } = database;
  let count = 0;
  const fresh = async () => {
    const { default: pg } = await import('pg');
    const client = new pg.Client({ connectionString: server().url });
    await client.connect();
    const name = `chaos_${count++}`;
    await client.query(`create database ${name}`);
    await client.end();
    const url = new URL(server().url);
    url.pathname = `/${name}`;
    return url.href;
  };
  try {
    for (const each of scenarios) {
      if ((size === 'short' && !each.short && only === '') || !each.name.includes(only)) continue;
      const startedAt = performance.now();
      const report = await each.run({ seed, size, restarts, verbose, databaseUrl: fresh });
      const { tally, broken } = report;
      const ok = tally.wrong === 0 && tally.badTerminals === 0 && tally.lost.length === 0 && broken.length === 0;
      verdicts.push({ ...report, ok, seconds: (performance.now() - startedAt) / 1_000 });
      if (verbose) console.log(tally.outcomes, tally.failures);
      for (const line of [...broken, ...tally.lost.slice(0, 5)]) console.log(`  ${each.name}: ${line}`);
    }
  } finally {
    await database.close();
  }
  console.table(
    verdicts.map(({ name, faults, tally, ok, seconds }) => ({
      scenario: name,
      faults,
      turns: tally.turns,
      requests: tally.requests,
      'wrong continuations': tally.wrong,
      'bad terminals': tally.badTerminals,
      'turns lost': tally.lost.length,
      'recovery p50 ms': percentile(tally.recoveries, 0.5),
      'recovery p99 ms': percentile(tally.recoveries, 0.99),
      seconds: Math.round(seconds),
      verdict: ok ? 'held' : 'BROKEN',
    })),
  );
  for (const { name, figures } of verdicts) for (const line of figures) console.log(`${name}: ${line}`);
  return verdicts;
}
