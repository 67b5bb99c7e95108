import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import setup from '../support/global-setup.ts';
import { campaign, caseOf, type Finding, shrink, targetNames } from './run.ts';
import { slopeOf, soak } from './soak.ts';
import { type Mode, modes } from './world.ts';

/**
 * Fuzzes a worker with hostile input and reports violated properties.
 *
 *   npm run fuzz -- [--seed N] [--count N] [--target NAME] [--mode NAME,...] [--minutes M] [--no-shrink] [--save]
 *   npm run fuzz -- --seed N --show K           prints the case of that number
 *   npm run fuzz -- --soak MINUTES [--mode NAME]   mixed load; prints the worker's resources as slopes per hour
 */
const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    count: { type: 'string', default: '20000' },
    target: { type: 'string' },
    mode: { type: 'string' },
    minutes: { type: 'string' },
    show: { type: 'string' },
    soak: { type: 'string' },
    /** Prints findings as found, without shrinking. */
    'no-shrink': { type: 'boolean', default: false },
    /** Stores findings in test/fuzz/findings, where `npm test` replays them. */
    save: { type: 'boolean', default: false },
  },
});

const seed = Number(values.seed ?? Math.floor(Math.random() * 1e9));
const only = values.target;
const list = values.mode ? modes.filter((mode) => values.mode!.split(',').includes(mode)) : modes;

if (values.show !== undefined) {
  console.log(JSON.stringify(caseOf(seed, Number(values.show), list[0] as Mode, only), null, 1));
  process.exit(0);
}

console.log(`seed ${seed}${only ? `, ${only} only` : `: ${targetNames.join(', ')}`}`);
const stop = await setup();
if (values.soak !== undefined) {
  try {
    process.exitCode = await runSoak(Number(values.soak));
  } finally {
    await stop();
  }
  process.exit();
}
try {
  const { ran, total, findings, memory, lines, tookMs } = await campaign({
    seed,
    count: Number(values.count),
    modes: list,
    ...(only ? { only } : {}),
    ...(values.minutes ? { within: Number(values.minutes) * 60_000 } : {}),
    onFinding: ({ property, signature, from }) => console.log(`FOUND ${property}: ${signature} (${from})`),
    onProgress: (line) => console.log(line),
  });
  const seconds = tookMs / 1000;
  console.log(`\n${total} cases in ${Math.round(seconds)} s (${Math.round(total / seconds)}/s)`);
  const { user, system } = process.cpuUsage();
  const spent = [...memory.values()].reduce((sum, { before, after }) => sum + after.cpuMs - before.cpuMs, 0);
  console.log(
    `processor time a case: ${(spent / total).toFixed(2)} ms in the workers, ${((user + system) / 1000 / total).toFixed(2)} ms here`,
  );
  for (const [name, times] of ran) console.log(`  ${name} ${times}`);
  for (const [mode, { before, after }] of memory) {
    const mb = (bytes: number) => Math.round(bytes / 1e6);
    console.log(
      `  ${mode}: ${mb(before.rss)} to ${mb(after.rss)} MB resident, heap ${mb(before.heapUsed)} to ${mb(after.heapUsed)} MB, descriptors ${before.descriptors} to ${after.descriptors}`,
    );
  }
  console.log('log lines:');
  for (const [kind, times] of [...lines].sort(([, a], [, b]) => b - a).slice(0, 25)) console.log(`  ${times} ${kind}`);
  console.log(`\n${findings.length} findings`);
  for (const finding of findings) {
    const small = values['no-shrink'] ? finding : ((await shrink(finding, { tries: 250, within: 60_000 })) ?? finding);
    print(small);
    if (values.save) save(small);
  }
  process.exitCode = findings.length === 0 ? 0 : 1;
} finally {
  await stop();
}

/** @returns the exit code */
async function runSoak(minutes: number): Promise<number> {
  const mb = (bytes: number) => (bytes / 1e6).toFixed(1);
  console.log('minute  cases  RSS MB  heap MB  external MB  descriptors');
  const { samples, cases, violations, crashes } = await soak({
    seed,
    minutes,
    mode: list[0] as Mode,
    onSample: ({ minute, cases: n, rss, heapUsed, external, descriptors }) =>
      console.log(`${minute.toFixed(1)}  ${n}  ${mb(rss)}  ${mb(heapUsed)}  ${mb(external)}  ${descriptors}`),
  });
  console.log(`\n${cases} cases, half of them well-formed conversations, ${crashes} crashes`);
  console.log(`RSS ${mb(slopeOf(samples, ({ rss }) => rss))} MB/h`);
  console.log(`heap ${mb(slopeOf(samples, ({ heapUsed }) => heapUsed))} MB/h`);
  console.log(`external ${mb(slopeOf(samples, ({ external }) => external))} MB/h`);
  console.log(`descriptors ${slopeOf(samples, ({ descriptors }) => descriptors).toFixed(1)} per hour`);
  for (const [kind, times] of violations) console.log(`  ${times} ${kind}`);
  return crashes > 0 || violations.size > 0 ? 1 : 0;
}

function print({ property, signature, detail, from, times, case: one }: Finding): void {
  console.log(
    `\n## ${property}: ${signature}\n${from}; seen ${times} times\n${detail}\n${JSON.stringify(one).slice(0, 4_000)}`,
  );
}

function save({ property, signature, case: one }: Finding): void {
  const name = `${property} ${signature}`
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .slice(0, 80)
    .replaceAll(/^-|-$/g, '');
  const directory = join(import.meta.dirname, 'findings');
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, `${name}.json`), `${JSON.stringify({ property, signature, case: one }, null, 2)}\n`);
}
