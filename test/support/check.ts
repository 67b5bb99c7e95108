import { spawnSync } from 'node:child_process';

/** `npm run check`: runs every gate, with its output, and names those that failed in the last line. */
const gates = ['format', 'types', 'unused', 'words', 'docstrings'];

const failed = gates.filter((gate) => {
  const { status } = spawnSync('npm', ['run', '-s', `check:${gate}`], { stdio: 'inherit' });
  return status !== 0;
});
console.log(
  failed.length === 0 ? 'check: passed' : `check: FAILED: ${failed.map((gate) => `check:${gate}`).join(', ')}`,
);
process.exitCode = failed.length === 0 ? 0 : 1;
