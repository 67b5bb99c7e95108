import { readdirSync, readFileSync, rmSync } from 'node:fs';

/**
 * `node reaper.ts <directory>`: waits until its parent has ended for any reason, which it detects by the end of its
 * stdin. Then it ends every process whose temporary directory is the given one or lies in it, and removes the
 * directory.
 */
const dir = process.argv[2]!;
const ATTEMPTS = 100;
const PAUSE_MS = 50;

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});

/** Returns the remaining processes, as far as the system shows them. */
function left(): { pid: number; isDatabase: boolean }[] {
  const found: { pid: number; isDatabase: boolean }[] = [];
  for (const name of process.platform === 'linux' ? readdirSync('/proc') : []) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    try {
      const variables = readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0');
      if (!variables.some((each) => each === `TMPDIR=${dir}` || each.startsWith(`TMPDIR=${dir}/`))) continue;
      found.push({ pid, isDatabase: readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes('/postgres\0') });
    } catch {
      // The process is gone, or belongs to another user.
    }
  }
  return found;
}

await new Promise<void>((ended) => process.stdin.once('end', ended).once('error', ended).resume());
for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
  const processes = left();
  if (processes.length === 0) break;
  for (const { pid, isDatabase } of processes) {
    try {
      // A database server that is killed leaves shared memory behind, so it is first ended in order.
      process.kill(pid, isDatabase && attempt < ATTEMPTS / 2 ? 'SIGQUIT' : 'SIGKILL');
    } catch {
      // The process is gone.
    }
  }
  await new Promise((look) => setTimeout(look, PAUSE_MS));
}
rmSync(dir, { recursive: true, force: true, maxRetries: 5 });
