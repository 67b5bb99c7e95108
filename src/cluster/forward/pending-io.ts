/**
 * Calls back once everything that had already arrived at this process's sockets has been delivered.
 *
 * Timers run before sockets are read. A process that was stopped or blocked therefore finds its deadlines expired while
 * the answer, or the news that the other side left, still waits in the kernel: whoever judges by absence looks there
 * first. The first immediate ends the turn of the loop we are in, the second follows a whole look at the sockets, and
 * the third leaves room for a close that was announced by what that look brought.
 */
export function afterPendingIo(fn: () => void): void {
  setImmediate(() => setImmediate(() => setImmediate(fn)));
}
