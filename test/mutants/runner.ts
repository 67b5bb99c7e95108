import { createVitest } from 'vitest/node';

/** Request to run test files one after the other, up to the first that fails. */
export interface RunRequest {
  /** Number of the active mutant; -1 for none. */
  mutant: number;
  files: readonly string[];
  /** File to which the numbers of all reached mutants are written. */
  reached: string | null;
  /** File that contains a `Sweep`, for the sweeping test files. */
  sweep?: string;
}

/** Task of a sweeping test file: one file of tests for many mutants. */
export interface Sweep {
  file: string;
  /** Numbers of mutants; -1 for none. */
  numbers: readonly number[];
  /**
   * File to which lines are written: `load NTH` and `at NTH` for each step with one of `numbers`, `killed NTH TEST`
   * when a test detected it.
   */
  found: string;
  /** True to run only the tests that are most likely to detect a mutant. */
  closest: boolean;
}

export type RunEvent =
  | { type: 'ready' }
  | { type: 'file'; file: string; passed: boolean; failure: string | null; message: string; ms: number }
  | { type: 'done' };

/** Runs test files on request in one vitest instance, so that its start and its transforms happen once. */
const vitest = await createVitest(
  {
    // One project for files of every kind.
    config: false,
    root: process.cwd(),
    include: ['test/**/*.test.ts', 'test/mutants/{fence,sweep}.ts'],
    pool: 'forks',
    globalSetup: ['test/support/global-setup.ts'],
    watch: false,
    bail: 1,
    maxWorkers: 1,
    reporters: [{}],
    silent: true,
    // The campaign limits the time of a file: a busy machine must not fail a test.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    printConsoleTrace: false,
  },
  { cacheDir: `${process.cwd()}/.cache-${process.pid}`, logLevel: 'silent' },
);
const project = vitest.projects[0]!;
const send = (event: RunEvent) => process.send!(event);

/** Vitest's message about a worker that a busy machine did not start in time; it means nothing about the tests. */
const LATE_START = /\[vitest-pool\].*(?:Timeout starting|Failed to start)/;

async function attempt(file: string, path: string): Promise<Omit<Extract<RunEvent, { type: 'file' }>, 'type' | 'ms'>> {
  const specification = project.createSpecification(path);
  const { testModules, unhandledErrors } = await vitest.runTestSpecifications([specification], false);
  const module = testModules.find(({ moduleId }) => moduleId === path);
  const tests = module ? [...module.children.allTests()] : [];
  const failed = tests.find((test) => test.result().state === 'failed');
  const errors = [
    ...(failed?.result().errors ?? []),
    ...(module?.errors() ?? []),
    ...(unhandledErrors as { message?: string }[]),
    ...(module ? [...module.children.allSuites()].flatMap((suite) => suite.errors()) : []),
  ];
  const isWhole = module?.state() === 'passed' || (module?.state() === 'skipped' && errors.length === 0);
  const passed = isWhole && unhandledErrors.length === 0;
  const message = errors.map(({ message: text }) => text ?? '').join('\n');
  return {
    file,
    passed,
    failure: failed?.fullName ?? (passed ? null : 'the file itself'),
    message: message.slice(0, 2_000),
  };
}

async function run(file: string): Promise<boolean> {
  for (let nth = 1; ; nth += 1) {
    const startedAt = performance.now();
    const result = await attempt(file, `${process.cwd()}/${file}`).catch((error: unknown) => {
      const all = error instanceof AggregateError ? [error, ...error.errors] : [error];
      return { file, passed: false, failure: 'the file itself', message: all.map(String).join('\n') };
    });
    if (LATE_START.test(result.message) && nth < 4) continue;
    send({ type: 'file', ...result, ms: performance.now() - startedAt });
    return result.passed;
  }
}

process.on('message', async ({ mutant, files, reached, sweep }: RunRequest) => {
  // A sweep continues after a detection.
  vitest.config.bail = project.config.bail = sweep === undefined ? 1 : 0;
  if (sweep !== undefined) process.env.MUTANT_SWEEP = sweep;
  process.env.MUTANT_AWAKE = String(mutant);
  if (reached === null) delete process.env.MUTANT_REACHED;
  else process.env.MUTANT_REACHED = reached;
  for (const file of files) if (!(await run(file))) break;
  send({ type: 'done' });
});
process.on('disconnect', () => process.exit(0));
send({ type: 'ready' });
