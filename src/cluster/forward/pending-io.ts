/**
 * Calls `fn` once everything that had already arrived at this process's sockets has been delivered.
 *
 * Timers run before sockets are read. After a pause or a blocked event loop, a process therefore finds its deadlines
 * expired while the answer, or the close of the connection, is still waiting in the kernel. Code that draws conclusions
 * from silence must process pending I/O first. The first immediate ends the current iteration of the event loop, the
 * second follows a complete poll of the sockets, and the third allows for a close that this poll announced.
 */
export function afterPendingIo(fn: () => void): void {
  setImmediate(() => setImmediate(() => setImmediate(fn)));
}
