import { execFileSync } from 'node:child_process';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import { startEmbeddedPostgres } from '../../src/store/embedded/index.ts';
import { seeded } from '../support/random.ts';
import { areaOf, leftOut } from './areas.ts';
import { equivalents } from './equivalent.ts';
import type { Mutant } from './generate.ts';
import { cacheDirectory, catalogue, closureOf, hashOf, ROOT, testFiles, workbench } from './workbench.ts';
import { Worker } from './worker.ts';

/**
 * `npm run test:mutants`: applies one small fault after another to the sources and counts those that no test detects.
 *
 *   --files TEXT      only files whose path contains TEXT (may be repeated)
 *   --area NAME       only files of an area of test/mutants/areas.ts (may be repeated)
 *   --only TEXT       only mutants whose report line contains TEXT (may be repeated)
 *   --sample N        N of them, drawn by --seed S
 *   --changed [REF]   only mutants on lines changed since REF, by default in the last ten commits; prints survivors and
 *                     one line of result
 *   --near            only with the tests of the area
 *   --tests TEXT      only with test files whose path contains TEXT (may be repeated)
 *   --seconds N       ends after N seconds, and measures no test file after half of them; mutants that were not run to
 *                     an end do not count
 *   --budget N        seconds of tests per mutant, by default 90
 *   --workers N       concurrent runners, by default 2
 *   --report FILE     writes everything as JSON
 *   --known FILE      an earlier report: mutants killed then, on a line with the same text, are not run again
 *   --swept           only with sweeps: mutants that these do not detect are undecided
 *   --list            prints the mutants and runs nothing
 *
 * Exits with 1 when a mutant of a strict area survives all its tests, or when the score of a run without --changed is
 * below 90 %.
 */
const args = process.argv.slice(2);
/** Stands for the last ten commits. */
const RECENT = 'recent';
const changedAt = args.indexOf('--changed');
if (changedAt >= 0 && (args[changedAt + 1] ?? '--').startsWith('--')) args.splice(changedAt + 1, 0, RECENT);
const { values } = parseArgs({
  args,
  options: {
    files: { type: 'string', multiple: true },
    area: { type: 'string', multiple: true },
    only: { type: 'string', multiple: true },
    sample: { type: 'string' },
    seed: { type: 'string', default: '1' },
    changed: { type: 'string' },
    near: { type: 'boolean', default: false },
    tests: { type: 'string', multiple: true },
    seconds: { type: 'string' },
    budget: { type: 'string', default: '90' },
    workers: { type: 'string', default: '2' },
    report: { type: 'string' },
    known: { type: 'string' },
    swept: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
  },
});
const startedAt = performance.now();
let interrupted = false;
const secondsLeft = () =>
  interrupted ? 0 : Number(values.seconds ?? Number.POSITIVE_INFINITY) - (performance.now() - startedAt) / 1_000;

/** Minimum share of killed mutants over all areas. */
const GOAL = 0.9;

/**
 * `hung`: a test did not end, which it does without the mutant. `invalid`: the mutant is no valid SQL. `undecided`: no
 * test that ran detected it, and some did not run for lack of time.
 */
type Status = 'killed' | 'hung' | 'survived' | 'not reached' | 'undecided' | 'invalid' | 'equivalent';

interface Judged {
  mutant: Mutant;
  status: Status;
  /** Test that detected the mutant. */
  by: string | null;
}

interface Measured {
  hash: string;
  passed: boolean;
  failure: string | null;
  ms: number;
  /** Mutants that the tests reach, per file. */
  reached: Record<string, number[]>;
}

const shown = ({ file, line, operator, original, mutant }: Mutant) => {
  const short = (text: string) => (text.length > 110 ? `${text.slice(0, 107)}...` : text);
  return `${file}:${line}  [${operator}]  ${short(original)}  →  ${mutant === '' ? '(taken out)' : short(mutant)}`;
};

async function namesOf(mutants: readonly Mutant[]): Promise<Map<Mutant, string>> {
  const lines = new Map<string, string[]>();
  for (const file of new Set(mutants.map((mutant) => mutant.file)))
    lines.set(file, (await readFile(join(ROOT, file), 'utf8')).split('\n'));
  const equals = new Map<string, number>();
  const names = new Map<Mutant, string>();
  for (const each of mutants) {
    const text = lines.get(each.file)![each.line - 1]!.trim();
    const name = JSON.stringify([each.file, text, each.original, each.mutant]);
    const nth = (equals.get(name) ?? 0) + 1;
    equals.set(name, nth);
    names.set(each, `${name} ${nth}`);
  }
  return names;
}

/** Returns the output of git; null when it fails. */
function git(...command: string[]): string | null {
  try {
    return execFileSync('git', command, {
      cwd: ROOT,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
      maxBuffer: 2 ** 28,
    }).trim();
  } catch {
    return null;
  }
}

/** Returns the commit before the last ten, or the oldest that a shallow clone has; null without any commit before. */
function recent(): string | null {
  const commits = git('rev-list', '--first-parent', '--max-count=11', 'HEAD')?.split('\n') ?? [];
  return commits.length > 1 ? commits.at(-1)! : null;
}

/** Returns the changed lines by file; null when git cannot report them. */
function changedLines(ref: string): Map<string, Set<number>> | null {
  const diff = git('diff', '-U0', '--no-color', '--no-ext-diff', ref, '--', 'src', 'machines');
  if (diff === null) return null;
  const lines = new Map<string, Set<number>>();
  let current = new Set<number>();
  for (const line of diff.split('\n')) {
    const file = /^\+\+\+ b\/(.+)$/.exec(line)?.[1];
    if (file) lines.set(file, (current = new Set()));
    const hunk = /^@@ -\S+ \+(\d+)(?:,(\d+))? @@/.exec(line);
    if (hunk) for (let nth = 0; nth < Number(hunk[2] ?? 1); nth += 1) current.add(Number(hunk[1]) + nth);
  }
  return lines;
}

function shuffled<T>(list: readonly T[], seed: number): T[] {
  const next = seeded(seed);
  const out = [...list];
  for (let at = out.length - 1; at > 0; at -= 1) {
    const other = Math.floor(next() * (at + 1));
    [out[at], out[other]] = [out[other]!, out[at]!];
  }
  return out;
}

/** Returns the 95 % Wilson score interval. */
function interval(hits: number, all: number): [number, number] {
  const z = 1.96;
  const share = hits / all;
  const middle = share + (z * z) / (2 * all);
  const width = z * Math.sqrt((share * (1 - share)) / all + (z * z) / (4 * all * all));
  return [(middle - width) / (1 + (z * z) / all), (middle + width) / (1 + (z * z) / all)];
}

const isKilled = ({ status }: Judged) => status === 'killed' || status === 'hung';
const isAlive = ({ status }: Judged) =>
  status === 'survived' || status === 'not reached' || (status === 'undecided' && values.seconds === undefined);
/** Test files that start a complete bridge. */
const isSlow =
  /^test\/(?:bridge|field|recordings|property|simulation|model|invariants|observe|cluster\/forward|hostile)\//;
/** Test files without anything that lives as long as their process: most are unit tests. */
const isSwept =
  /^test\/(?:upstream\/(?:corpus|frames|abilities|flow|pulse|request|sse|redact)|session|transcript|resolve|machines|token|json|http\/(?:owned|authentication)|field\/accounts|hostile\/tenancy|bridge\/contents)\b/;
/** Swept as well, with the functions of the database replaced in place. */
const CONTRACT = 'test/store/postgres.test.ts';
/** Number of mutants in one sweep. */
const SWEPT = 150;
const percent = (share: number) => `${(100 * share).toFixed(1)} %`;

const all = await catalogue();
const since = values.changed === RECENT ? recent() : values.changed;
const changed = since == null ? null : changedLines(since);
if (values.changed !== undefined && changed === null) {
  console.log('mutants: skipped, since git has no commit here to compare with (a shallow clone?)');
  process.exit(0);
}
const progress = (line: string) => {
  if (changed === null) console.log(line);
};
const isEquivalent = ({ file, original, mutant }: Mutant) =>
  equivalents.some((each) => each.file === file && each.original === original && each.mutant === mutant);
let chosen = all.mutants.filter(
  (mutant) =>
    (!values.files || values.files.some((text) => mutant.file.includes(text))) &&
    (!values.area || values.area.includes(areaOf(mutant)!.name)) &&
    (!changed || changed.get(mutant.file)?.has(mutant.line)) &&
    (!values.only || values.only.some((text) => shown(mutant).includes(text))),
);
const population = chosen.length;
if (values.sample || values.seconds) chosen = shuffled(chosen, Number(values.seed));
if (values.sample) chosen = chosen.slice(0, Number(values.sample));
// With little time the strict areas come first, but a sample stays one of all areas: those that were not run do not count.
if (values.seconds) chosen.sort((a, b) => Number(areaOf(b)!.strict) - Number(areaOf(a)!.strict));
if (values.list) {
  for (const mutant of chosen) console.log(shown(mutant));
  console.log(`${chosen.length} mutants`);
  process.exit(0);
}
if (chosen.length === 0) {
  console.log(since ? `mutants on lines changed since ${since.slice(0, 12)}: none` : 'no mutants there');
  process.exit(0);
}

/**
 * Stable names of the mutants, independent of other lines of their files: the text of the line, and the position among
 * equal ones.
 */
const keys = await namesOf(all.mutants);
const dataDir = await mkdtemp(join(tmpdir(), 'mutants-database-'));
const server = await startEmbeddedPostgres({
  dataDir,
  settings: ['fsync=off', 'max_connections=300', 'full_page_writes=off'],
});
const workers: Worker[] = [];
const judged: Judged[] = [];
// Report the results so far, and leave no process behind.
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => {
    interrupted = true;
    for (const worker of workers) void worker.stop();
  });
try {
  await using bench = await workbench(all);
  // Seeds are fixed: a test with random seeds gives no repeatable verdict.
  const env = {
    // The settings of the caller must not reach the workers in tests.
    ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('HOLDFAST_'))),
    TEST_DATABASE_URL: server.url,
    TEST_MIGRATES_EACH: '1',
    PROPERTY_RUNS: '150',
    PROPERTY_SEED: '1',
    MODEL_SEED: '1',
    DIFFERENTIAL_SEED: '1',
    SIM_SEEDS: '100',
  };
  for (let nth = 0; nth < Number(values.workers); nth += 1) workers.push(new Worker(bench.home, env));

  /** Processes every item of a list on the next free worker. */
  async function share<T>(
    list: readonly T[],
    use: (worker: Worker, item: T) => Promise<void>,
    reserve = 0,
  ): Promise<void> {
    const left = [...list].reverse();
    await Promise.all(
      workers.map(async (worker) => {
        while (secondsLeft() > reserve) {
          const item = left.pop();
          if (item === undefined) return;
          await use(worker, item);
        }
      }),
    );
  }

  // First run, without mutants: which mutants each test file reaches, and its duration.
  const near = [...new Set(chosen.map((mutant) => areaOf(mutant)!.near))];
  const tests = (await testFiles()).filter(
    (test) =>
      !leftOut.test(test) &&
      (!values.near || near.some((pattern) => pattern.test(test))) &&
      (!values.tests || values.tests.some((text) => test.includes(text))),
  );
  const cache = await cacheDirectory();
  const texts = new Map<string, Promise<string | null>>();
  const measured = new Map<string, Measured>();
  const missing: { test: string; hash: string; loads: number }[] = [];
  const files = [...new Set(chosen.map(({ file }) => file))];
  const cachedAt = (test: string) => join(cache, `${test.replaceAll('/', '.')}.json`);
  for (const test of tests) {
    const kept = await readFile(cachedAt(test), 'utf8').then(
      (text) => JSON.parse(text) as Measured,
      () => null,
    );
    const closure = await closureOf(test, texts);
    const hash = hashOf(closure);
    if (kept?.passed && kept.hash === hash) measured.set(test, kept);
    else missing.push({ test, hash, loads: files.filter((file) => closure.has(file)).length });
  }
  if (missing.length > 0) progress(`measuring ${missing.length} of ${tests.length} test files`);
  // The fastest tests first, and of these the ones that load most of the mutated files.
  const speed = (test: string) => (isSlow.test(test) ? 2 : isSwept.test(test) ? 0 : 1);
  missing.sort((a, b) => speed(a.test) - speed(b.test) || b.loads - a.loads);
  const reserve = values.seconds ? Number(values.seconds) / 2 : 0;
  const measure = async (worker: Worker, { test, hash }: (typeof missing)[number]) => {
    const reachedFile = join(bench.home, `reached-${test.replaceAll('/', '.')}`);
    const limit = Math.min(300_000, (secondsLeft() - reserve) * 1_000);
    const outcome = await worker.run({ mutant: -1, files: [test], reached: reachedFile }, () => limit);
    const result = outcome.files[0];
    // A measurement cut short says nothing.
    if (!result && secondsLeft() <= reserve) return;
    const reached: Record<string, number[]> = {};
    for (const number of (await readFile(reachedFile, 'utf8').catch(() => '')).split('\n')) {
      const mutant = number === '' ? undefined : all.byNumber(Number(number));
      if (mutant) (reached[mutant.file] ??= []).push(mutant.index);
    }
    for (const list of Object.values(reached)) list.sort((a, b) => a - b);
    const entry: Measured = {
      hash,
      passed: result?.passed ?? false,
      failure: result ? `${result.failure}: ${result.message}` : 'it did not end',
      ms: Math.round(result?.ms ?? 0),
      reached,
    };
    measured.set(test, entry);
    await writeFile(cachedAt(test), JSON.stringify(entry));
    if (!entry.passed) console.log(`left out, since it fails without a mutant: ${test}: ${entry.failure}`);
  };
  await share(missing, measure, reserve);
  const unmeasured = tests.filter((test) => !measured.has(test));
  const reaching = new Map<string, string[]>();
  for (const [test, { passed, reached }] of measured) {
    if (!passed) continue;
    for (const [file, indices] of Object.entries(reached))
      for (const index of indices) {
        const key = `${file}:${index}`;
        const known = reaching.get(key);
        if (known) known.push(test);
        else reaching.set(key, [test]);
      }
  }

  /** Returns whether a test file is named after a source file. Such a test detects the most of its mutants. */
  const isNamed = (test: string, file: string) => basename(file, '.ts') === basename(test, '.test.ts');
  // Statistics of detections: each verdict improves the order of tests for the next mutant of the same file.
  const tries = new Map<string, { runs: number; kills: number }>();
  const costOf = (test: string, mutant: Mutant) => {
    const { runs, kills } = tries.get(`${test} ${mutant.file}`) ?? { runs: 0, kills: 0 };
    const expected = isNamed(test, mutant.file) ? 4 : areaOf(mutant)!.near.test(test) ? 1.5 : 0.2;
    const likely = (kills + expected) / (runs + 3);
    return (measured.get(test)!.ms + 200) / likely;
  };
  const limitOf = (test: string) => Math.min(measured.get(test)!.ms * 4 + 10_000, secondsLeft() * 1_000);

  /**
   * Verdicts of sweeps and of an earlier run. Only detections count: a survivor is tested again with each test in its
   * own process.
   */
  const swept = new Map<Mutant, Judged>();
  if (values.known) {
    const { mutants } = JSON.parse(await readFile(values.known, 'utf8')) as { mutants: (Judged & { key: string })[] };
    const killed = new Map(mutants.filter(isKilled).map((each) => [each.key, each.by]));
    for (const mutant of chosen) {
      const by = killed.get(keys.get(mutant)!);
      if (by !== undefined) swept.set(mutant, { mutant, status: 'killed', by });
    }
    console.log(`${swept.size} of ${chosen.length} are known`);
  }
  /** Mutants that were running when a process stopped responding: a busy machine may have been the cause. */
  const passedOver = new Set<Mutant>();

  /**
   * Runs one test file for many mutants in one process. Discards the results of a process that also fails without a
   * mutant.
   */
  async function sweep(
    worker: Worker,
    by: string,
    file: string,
    mutants: readonly Mutant[],
    closest = false,
  ): Promise<void> {
    const path = join(bench.home, `sweep-${workers.indexOf(worker)}.json`);
    const found = `${path}.found`;
    let attempts = 0;
    for (let left = [...mutants]; left.length > 0 && secondsLeft() > 0; ) {
      const part = left.splice(0, SWEPT);
      const numbers = [-1, ...part.map((mutant) => all.numberOf(mutant)), -1];
      await writeFile(found, '');
      await writeFile(path, JSON.stringify({ file, numbers, found, closest }));
      let [size, heardAt] = [0, performance.now()];
      const watch = setInterval(async () => {
        const now = await stat(found).then(
          ({ size: bytes }) => bytes,
          // The copy is being removed, because the time is over.
          () => size,
        );
        if (now > size) [size, heardAt] = [now, performance.now()];
        else if (performance.now() - heardAt > limitOf(file) || secondsLeft() <= 0) await worker.stop();
      }, 500);
      await worker.run({ mutant: -1, files: [by], reached: null, sweep: path }, () => 3_600_000);
      clearInterval(watch);
      const steps = [...(await readFile(found, 'utf8')).matchAll(/^(load|at|killed) (\d+) ?(.*)$/gm)];
      const last = steps.at(-1);
      if (last === undefined) {
        // A busy machine may not start the process of the tests in time.
        attempts += 1;
        left.unshift(...part);
        if (attempts < 3) continue;
        console.log(`not swept: ${file} does not start`);
        return;
      }
      if (steps.some(([, what, nth]) => what === 'killed' && (nth === '0' || Number(nth) === numbers.length - 1))) {
        console.log(`not swept: ${file} fails without a mutant in this company`);
        return;
      }
      for (const [, what, nth, name] of steps) {
        const mutant = part[Number(nth) - 1];
        if (what === 'killed' && mutant) swept.set(mutant, { mutant, status: 'killed', by: `${file} > ${name}` });
      }
      const lastAt = Number(last[2]);
      if (lastAt === numbers.length - 1 && last[1] !== 'load') continue;
      // The process did not finish: the current mutant hung it, or the file itself cannot be swept.
      const mutant = part[lastAt - 1];
      if (!mutant) return;
      passedOver.add(mutant);
      const isLeft = (each: Mutant, nth: number) =>
        !swept.has(each) && !passedOver.has(each) && (last[1] === 'load' || nth >= lastAt);
      left.unshift(...part.filter(isLeft));
    }
  }

  async function judge(worker: Worker, mutant: Mutant): Promise<Judged> {
    if (isEquivalent(mutant)) return { mutant, status: 'equivalent', by: null };
    const known = swept.get(mutant);
    if (known) return known;
    if (values.swept) return { mutant, status: 'undecided', by: null };
    const { near: close } = areaOf(mutant)!;
    const found = (reaching.get(`${mutant.file}:${mutant.index}`) ?? [])
      .filter((test) => !values.near || close.test(test))
      .map((test) => ({ test, cost: costOf(test, mutant) }))
      .sort((a, b) => a.cost - b.cost);
    const isPartial = unmeasured.some((test) => !values.near || close.test(test));
    if (found.length === 0) return { mutant, status: isPartial ? 'undecided' : 'not reached', by: null };
    const files: string[] = [];
    let spent = 0;
    for (const { test } of found) {
      if (files.length > 0 && spent + measured.get(test)!.ms > Number(values.budget) * 1_000) continue;
      spent += measured.get(test)!.ms;
      files.push(test);
    }
    const outcome = await worker.run({ mutant: all.numberOf(mutant), files, reached: null }, limitOf);
    const failed = outcome.files.find(({ passed }) => !passed);
    for (const { file, passed } of outcome.files) {
      const key = `${file} ${mutant.file}`;
      const known = tries.get(key) ?? { runs: 0, kills: 0 };
      tries.set(key, { runs: known.runs + 1, kills: known.kills + (passed ? 0 : 1) });
    }
    if (failed) {
      const isInvalid = mutant.operator.startsWith('sql') && /syntax error at/.test(failed.message);
      return { mutant, status: isInvalid ? 'invalid' : 'killed', by: `${failed.file} > ${failed.failure}` };
    }
    if (outcome.hung) return { mutant, status: secondsLeft() > 0 ? 'hung' : 'undecided', by: outcome.hung };
    return { mutant, status: isPartial || files.length < found.length ? 'undecided' : 'survived', by: null };
  }

  const isReachedBy = (test: string, mutant: Mutant) =>
    reaching.get(`${mutant.file}:${mutant.index}`)?.includes(test) === true;
  const sweeps = [...measured].filter(([test, { passed }]) => passed && (isSwept.test(test) || test === CONTRACT));
  sweeps.sort(([, a], [, b]) => a.ms - b.ms);
  const passes = [
    ...sweeps.map(([test]) => ({ test, only: (file: string) => isNamed(test, file) })),
    ...sweeps.map(([test]) => ({ test, only: () => true })),
  ];
  await share(passes, async (worker, { test, only }) => {
    const isOpen = (mutant: Mutant) =>
      !swept.has(mutant) &&
      !passedOver.has(mutant) &&
      !isEquivalent(mutant) &&
      only(mutant.file) &&
      isReachedBy(test, mutant) &&
      areaOf(mutant)!.near.test(test) &&
      (test !== CONTRACT || areaOf(mutant)!.name === 'fence');
    const open = chosen.filter(isOpen);
    if (open.length < 4) return;
    if (test === CONTRACT) {
      // One group of the contract detects most mutants of a function, in a tenth of the time.
      await sweep(worker, 'test/mutants/fence.ts', test, open, true);
      await sweep(worker, 'test/mutants/fence.ts', test, open.filter(isOpen));
    } else await sweep(worker, 'test/mutants/sweep.ts', test, open);
    const seconds = Math.round((performance.now() - startedAt) / 1_000);
    progress(
      `swept ${open.length} with ${test}: ${open.filter((each) => !swept.has(each)).length} left after ${seconds} s`,
    );
  });

  await share(chosen, async (worker, mutant) => {
    const one = await judge(worker, mutant);
    if (interrupted) return;
    judged.push(one);
    if (isAlive(one)) console.log(`${one.status.toUpperCase()}  ${shown(mutant)}`);
    else if (values.only) console.log(`${one.status}  ${shown(mutant)}: ${one.by ?? '-'}`);
    if (judged.length % 25 === 0) {
      const seconds = Math.round((performance.now() - startedAt) / 1_000);
      progress(`… ${judged.length} of ${chosen.length} after ${seconds} s`);
    }
  });
  // A run that ends early keeps the results of the sweeps.
  for (const [mutant, verdict] of swept) if (!judged.some((one) => one.mutant === mutant)) judged.push(verdict);
} finally {
  await Promise.all(workers.map((worker) => worker.stop()));
  await server.stop();
  await rm(dataDir, { recursive: true, force: true });
}

/** Prints the score of each file. */
function printFiles(): void {
  const byFile = Map.groupBy(judged, ({ mutant }) => `${mutant.file}${areaOf(mutant)!.strict ? '  (strict)' : ''}`);
  console.log('\n  score    killed  survived  not reached   undecided  equivalent  file');
  for (const [file, list] of [...byFile].sort(([a], [b]) => a.localeCompare(b))) {
    const [dead, living] = [list.filter(isKilled).length, list.filter(isAlive).length];
    const has = (status: Status) => list.filter((each) => each.status === status).length;
    const share = dead + living === 0 ? '-' : percent(dead / (dead + living));
    const columns = [dead, has('survived'), has('not reached'), has('undecided'), has('equivalent')];
    const widths = [9, 9, 12, 11, 11];
    const figures = columns.map((each, nth) => String(each).padStart(widths[nth]!)).join(' ');
    console.log(`${share.padStart(7)} ${figures}  ${file}`);
  }
}

const killed = judged.filter(isKilled).length;
const alive = judged.filter(isAlive);
const strict = alive.filter(({ mutant, status }) => areaOf(mutant)!.strict && status !== 'undecided');
const counted = killed + alive.length;
const score = counted === 0 ? 1 : killed / counted;
const count = (status: Status) => judged.filter((each) => each.status === status).length;
const uncounted = `${count('invalid')} invalid, ${count('equivalent')} equivalent`;
if (since) {
  const left = population - counted - count('invalid') - count('equivalent');
  console.log(
    `mutants on lines changed since ${since.slice(0, 12)}: ${population}; ${killed} killed, ${alive.length} alive, ` +
      `${strict.length} of them in strict areas; ${left} undecided for lack of time, ${uncounted}`,
  );
} else {
  printFiles();
  const [low, high] = counted === 0 ? [1, 1] : interval(killed, counted);
  const isSampled = judged.length < population;
  console.log(
    `\n${judged.length} of ${population} mutants: ${killed} killed (${count('hung')} by a hang), ` +
      `${alive.length} alive, ${strict.length} of them in strict areas; ${uncounted}\n` +
      `score ${percent(score)}${isSampled ? `, 95 % confidence ${percent(low)} to ${percent(high)}, seed ${values.seed}` : ''}`,
  );
}
if (values.report) {
  const mutants = judged.map(({ mutant, status, by }) => ({ ...mutant, key: keys.get(mutant), status, by }));
  await writeFile(
    values.report,
    `${JSON.stringify({ population, killed, alive: alive.length, score, mutants }, null, 1)}\n`,
  );
}
process.exit(strict.length > 0 || (changed === null && score < GOAL) ? 1 : 0);
