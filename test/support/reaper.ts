import { readdirSync, readFileSync, rmSync } from 'node:fs';

/**
 * `node reaper.ts <directory>`: waits for the end of what started it, which the end of its input tells, whatever it was that
 * ended it; then ends every process whose temporary directory is that one or lies in it, and removes it.
 */
const dir = process.argv[2]!;
const ATTEMPTS = 100;
const PAUSE_MS = 50;

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});

/** Processes that are left, as far as the system shows it. */
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
      // Gone, or another user's.
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
      // A database server that is killed leaves shared memory behind.
      process.kill(pid, isDatabase && attempt < ATTEMPTS / 2 ? 'SIGQUIT' : 'SIGKILL');
    } catch {
      // Gone.
    }
  }
  await new Promise((look) => setTimeout(look, PAUSE_MS));
}
rmSync(dir, { recursive: true, force: true, maxRetries: 5 });
