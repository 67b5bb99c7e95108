import { createVitest } from 'vitest/node';

/** Asks for test files to be run, one after the other, up to the first that fails. */
export interface RunRequest {
  /** Number of the mutant that is awake; -1 for none. */
  mutant: number;
  files: readonly string[];
  /** File that takes the numbers of all mutants reached. */
  reached: string | null;
}

export type RunEvent =
  | { type: 'ready' }
  | { type: 'file'; file: string; passed: boolean; failure: string | null; message: string; ms: number }
  | { type: 'done' };

/** Runs test files on request in one vitest, so that its start and its transforms are paid once. */
const vitest = await createVitest(
  {
    root: process.cwd(),
    watch: false,
    bail: 1,
    maxWorkers: 1,
    reporters: [{}],
    silent: true,
    printConsoleTrace: false,
  },
  { cacheDir: `${process.cwd()}/.cache-${process.pid}`, logLevel: 'silent' },
);
const project = vitest.projects[0]!;
const send = (event: RunEvent) => process.send!(event);

async function run(file: string): Promise<boolean> {
  const startedAt = performance.now();
  const path = `${process.cwd()}/${file}`;
  const { testModules, unhandledErrors } = await vitest.runTestSpecifications(
    [project.createSpecification(path)],
    false,
  );
  const module = testModules.find(({ moduleId }) => moduleId === path);
  const tests = module ? [...module.children.allTests()] : [];
  const failed = tests.find((test) => test.result().state === 'failed');
  const errors = [
    ...(failed?.result().errors ?? []),
    ...(module?.errors() ?? []),
    ...(unhandledErrors as { message?: string }[]),
    ...(module ? [...module.children.allSuites()].flatMap((suite) => suite.errors()) : []),
  ];
  const passed = module?.state() === 'passed' || (module?.state() === 'skipped' && errors.length === 0);
  send({
    type: 'file',
    file,
    passed: passed && unhandledErrors.length === 0,
    failure: failed ? failed.fullName : passed ? null : 'the file itself',
    message: errors
      .map(({ message }) => message ?? '')
      .join('\n')
      .slice(0, 2_000),
    ms: performance.now() - startedAt,
  });
  return passed && unhandledErrors.length === 0;
}

process.on('message', async ({ mutant, files, reached }: RunRequest) => {
  process.env.MUTANT_AWAKE = String(mutant);
  if (reached === null) delete process.env.MUTANT_REACHED;
  else process.env.MUTANT_REACHED = reached;
  for (const file of files) if (!(await run(file))) break;
  send({ type: 'done' });
});
process.on('disconnect', () => process.exit(0));
send({ type: 'ready' });
