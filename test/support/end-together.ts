import { spawn } from 'node:child_process';
import { chmod, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/**
 * Makes all processes that this one starts from now on, directly or indirectly, end with it, however it ends. This
 * concerns above all database servers, which are made to outlive their parent. All of them share a temporary directory,
 * by which they are found.
 *
 * @returns a function that ends them all now and removes the directory
 */
export async function endTogether(): Promise<() => Promise<void>> {
  const { TMPDIR: before } = process.env;
  const dir = await mkdtemp(join(tmpdir(), 'hf-run-'));
  // The user of the database must be able to traverse it.
  await chmod(dir, 0o711);
  const reaper = spawn(process.execPath, [join(import.meta.dirname, 'reaper.ts'), dir], {
    // A separate process group, which a terminal does not signal.
    detached: true,
    stdio: ['pipe', 'ignore', 'inherit'],
  });
  const gone = new Promise<void>((resolve) => reaper.once('exit', () => resolve()));
  reaper.stdin.on('error', () => {});
  reaper.unref();
  (reaper.stdin as unknown as { unref(): void }).unref();
  process.env.TMPDIR = dir;
  return async () => {
    if (before === undefined) delete process.env.TMPDIR;
    else process.env.TMPDIR = before;
    reaper.ref();
    reaper.stdin.end();
    await gone;
  };
}
