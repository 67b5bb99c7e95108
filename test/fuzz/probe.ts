import { readdirSync, writeSync } from 'node:fs';

/**
 * Loaded into the worker before its own code: tells of an exception that nothing caught, and what the process holds when
 * it is asked for it over the channel to its parent.
 */
process.on('uncaughtExceptionMonitor', (error, origin) => {
  const stack = error instanceof Error ? String(error.stack) : String(error);
  writeSync(2, `${JSON.stringify({ uncaught: origin, stack })}\n`);
});

process.on('message', (message) => {
  if (message !== 'memory') return;
  for (let n = 0; n < 3; n += 1) (globalThis as { gc?(): void }).gc?.();
  const { rss, heapUsed, external } = process.memoryUsage();
  const { user, system } = process.cpuUsage();
  process.send?.({ rss, heapUsed, external, descriptors: descriptors(), cpuMs: (user + system) / 1000 });
});

/** Open files and sockets of this process; -1 where the system does not tell. */
function descriptors(): number {
  try {
    return readdirSync('/proc/self/fd').length;
  } catch {
    return -1;
  }
}
