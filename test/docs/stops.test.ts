import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { freshDatabase } from '../support/database.ts';

/** The program exits with 1, and names the files, when a warm turn passes more than it may. */
it('A warm turn passes no more source files than the documents promise', async () => {
  const database = await freshDatabase();
  try {
    const { stdout } = await promisify(execFile)(process.execPath, ['bench/stops.ts', '--database', database.url]);
    expect(stdout).toMatch(/a warm turn +│ \d+/);
  } finally {
    await database.drop();
  }
});
