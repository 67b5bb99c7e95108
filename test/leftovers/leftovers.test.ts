import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { isRunning, type Program, startProgram } from '../support/program.ts';
import { until } from '../support/until.ts';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 180_000 });

const ROOT = join(import.meta.dirname, '..', '..');
let home: string;
let run: Program | null = null;
let left: { pids: number[]; dataDir: string } | null = null;
afterEach(async () => {
  run?.signalGroup('SIGKILL');
  for (const pid of left?.pids ?? []) if (isRunning(pid)) process.kill(pid, 'SIGKILL');
  await run?.gone;
  await rm(home, { recursive: true, force: true });
});

const config = `
export default {
  root: ${JSON.stringify(ROOT)},
  test: {
    include: ['test/leftovers/hanging.ts'],
    pool: 'forks',
    globalSetup: [${JSON.stringify(join(ROOT, 'test', 'support', 'global-setup.ts'))}],
  },
};
`;

it.runIf(process.platform === 'linux').each([
  ['SIGINT', 'a program that takes no notice'],
  ['SIGTERM', 'a program that takes no notice'],
  ['SIGKILL', 'a worker'],
] as const)('A test run that is ended by %s leaves behind no process of %s, and no data', async (signal, what) => {
  home = await mkdtemp(join(tmpdir(), 'hf-leftovers-'));
  const file = join(home, 'started.json');
  await writeFile(join(home, 'vitest.config.mjs'), config);
  const vitest = join(ROOT, 'node_modules', 'vitest', 'vitest.mjs');
  run = startProgram(process.execPath, [vitest, 'run', '--config', join(home, 'vitest.config.mjs')], {
    env: { LEFTOVERS_FILE: file, LEFTOVERS_OF: what },
  });
  await Promise.race([
    until(async () => (await stat(file).catch(() => null)) !== null, 3_600_000),
    run.gone.then(() => Promise.reject(new Error(`the run ended by itself:\n${run!.text()}`))),
  ]);
  left = JSON.parse(await readFile(file, 'utf8')) as { pids: number[]; dataDir: string };
  expect(left.pids.every(isRunning)).toBe(true);
  run.signal(signal);
  const { pids, dataDir } = left;
  await until(() => !pids.some(isRunning), 60_000);
  await until(async () => (await stat(dataDir).catch(() => null)) === null, 60_000);
});
