import { appendFileSync, readFileSync } from 'node:fs';
import { beforeEach, describe, test, vi } from 'vitest';
import type { Sweep } from './runner.ts';

/**
 * Runs one suite for each of many mutants, up to its first failure, in one process. Results are written line by line,
 * so that none is lost when a mutant hangs.
 *
 * @param fill adds the tests to the suite; modules that it imports have the mutant active
 */
export function sweepOver(fill: (sweep: Sweep, kill: (by: string) => void) => Promise<void>): void {
  const sweep = JSON.parse(readFileSync(process.env.MUTANT_SWEEP!, 'utf8')) as Sweep;
  const { numbers, found } = sweep;
  const note = (line: string) => appendFileSync(found, `${line}\n`);
  numbers.forEach((number, nth) => {
    describe(String(nth), async () => {
      let isKilled = false;
      const kill = (by: string) => {
        if (!isKilled) note(`killed ${nth} ${by.replaceAll('\n', ' ')}`);
        isKilled = true;
      };
      beforeEach(({ skip, task, onTestFailed }) => {
        if (isKilled) skip();
        note(`at ${nth}`);
        onTestFailed(() => kill(task.name));
      });
      note(`load ${nth}`);
      process.env.MUTANT_AWAKE = String(number);
      vi.resetModules();
      try {
        await fill(sweep, kill);
      } catch (error) {
        kill(`the file itself: ${error}`);
        test('does not load', () => {});
      }
    });
  });
}
