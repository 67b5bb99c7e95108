import { appendFileSync, readFileSync } from 'node:fs';
import { beforeEach, describe, test, vi } from 'vitest';
import type { Sweep } from './runner.ts';

/**
 * One suite for each of many mutants, up to its first failure, in one process. What was found is written down line by
 * line, so that nothing is lost when a mutant hangs.
 *
 * @param fill puts the tests into the suite, in which modules that are imported have the mutant awake
 */
export function sweepOver(fill: (file: string, number: number) => Promise<void>): void {
  const { file, numbers, found } = JSON.parse(readFileSync(process.env.MUTANT_SWEEP!, 'utf8')) as Sweep;
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
        await fill(file, number);
      } catch (error) {
        kill(`the file itself: ${error}`);
        test('does not load', () => {});
      }
    });
  });
}
