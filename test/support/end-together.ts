import { spawn } from 'node:child_process';
import { chmod, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/**
 * Whatever this process starts from here on, directly or not, ends with it, however it ends: servers of databases above
 * all, which are made to outlive what started them. All of it has a temporary directory of its own, and is known by that.
 *
 * @returns ends everything now, and takes the directory away
 */
export async function endTogether(): Promise<() => Promise<void>> {
  const { TMPDIR: before } = process.env;
  const dir = await mkdtemp(join(tmpdir(), 'hf-run-'));
  // The database's own user has to get through.
  await chmod(dir, 0o711);
  const reaper = spawn(process.execPath, [join(import.meta.dirname, 'reaper.ts'), dir], {
    // Out of the group that a terminal signals.
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
