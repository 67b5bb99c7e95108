import { readdirSync, writeSync } from 'node:fs';

/**
 * Plain JavaScript, so that a worker of the built package loads no compiler of types, which would be part of its memory.
 *
 * Preloaded into the worker. Reports uncaught exceptions, and on request the resources of the process, over the IPC
 * channel to its parent.
 */
process.on('uncaughtExceptionMonitor', (error, origin) => {
  const stack = error instanceof Error ? String(error.stack) : String(error);
  writeSync(2, `${JSON.stringify({ uncaught: origin, stack })}\n`);
});

process.on('message', async (message) => {
  if (message !== 'memory') return;
  const { rss: residentBefore } = process.memoryUsage();
  for (let n = 0; n < 3; n += 1) {
    globalThis.gc?.();
    // What a collection has found weakly held is released after it.
    await new Promise(setImmediate);
  }
  const { rss, heapUsed, external } = process.memoryUsage();
  const { user, system } = process.cpuUsage();
  process.send?.({
    rss,
    residentBefore,
    heapUsed,
    external,
    descriptors: descriptors(),
    cpuMs: (user + system) / 1000,
  });
});

/** Returns the number of open files and sockets of this process; -1 if the system does not report it. */
function descriptors() {
  try {
    return readdirSync('/proc/self/fd').length;
  } catch {
    return -1;
  }
}
