import { randomUUID } from 'node:crypto';

/** Event source whose listener threw an exception that belongs to no request, connection or turn. */
type FaultSource =
  | 'timer'
  | 'upgrade'
  | 'listener'
  | 'client connection'
  | 'upstream socket'
  | 'upstream stream'
  | 'upstream reader'
  | 'inspector'
  | 'supervisor';

/**
 * Receives a fault.
 *
 * @param suppressed number of unreported faults of this source since the last report
 */
type FaultReport = (error: unknown, source: FaultSource, suppressed: number) => void;

/** Most reports per source within `WINDOW_MS`: a recurring fault must not fill the log. */
const MOST_REPORTS = 5;
const WINDOW_MS = 60_000;

const reports: FaultReport[] = [];
const windows = new Map<FaultSource, { since: number; reported: number; suppressed: number }>();

/**
 * Registers a receiver of fault reports. With several, the last one registered is used; without any, faults become process
 * warnings.
 *
 * @returns a function that removes the receiver
 */
export function onFault(report: FaultReport): () => void {
  reports.push(report);
  return () => {
    const at = reports.indexOf(report);
    if (at >= 0) reports.splice(at, 1);
  };
}

/** Reports an exception caught at an event source, at a limited rate per source. Never throws. */
export function reportFault(error: unknown, source: FaultSource): void {
  const now = performance.now();
  let window = windows.get(source);
  if (!window || now - window.since >= WINDOW_MS) {
    window = { since: now, reported: 0, suppressed: window?.suppressed ?? 0 };
    windows.set(source, window);
  }
  if (window.reported >= MOST_REPORTS) {
    window.suppressed += 1;
    return;
  }
  window.reported += 1;
  const { suppressed } = window;
  window.suppressed = 0;
  try {
    const report = reports.at(-1);
    if (report) report(error, source, suppressed);
    else process.emitWarning(error instanceof Error ? error : new Error(String(error)));
  } catch {
    // A failing log must not undo the containment of the fault.
  }
}

/**
 * Wraps a listener of an event source so that its exceptions end here. Otherwise an exception in a listener ends the
 * process and every conversation in it.
 *
 * @param fail ends the connection, socket or turn that the event concerned; called with what `run` was called with
 */
export function guarded<A extends unknown[]>(
  source: FaultSource,
  run: (...args: A) => void,
  fail: (...args: A) => void = () => {},
): (...args: A) => void {
  return (...args) => {
    try {
      run(...args);
    } catch (error) {
      reportFault(error, source);
      try {
        fail(...args);
      } catch (second) {
        reportFault(second, source);
      }
    }
  };
}

/**
 * Time as a dependency. Deadlines use the monotonic reading; wall time appears only in output for people (logs, tokens).
 * Ownership uses neither: there the database's `now()` is the only clock.
 */
export interface Clock {
  /** Returns monotonic milliseconds; only differences are meaningful. */
  now(): number;
  /** Returns the wall clock in milliseconds since the epoch. */
  wall(): number;
  /**
   * Calls `fn` once after `ms` milliseconds.
   *
   * @returns a function that cancels the call; it may be called at any time
   */
  after(ms: number, fn: () => void): () => void;
}

/** Longest timer in milliseconds: Node fires a longer one at once. */
export const LONGEST_TIMER = 2_147_483_647;

/** A call that waits for its time. A retained cancel function does not retain `due` after that. */
interface Call {
  due: (() => void) | null;
}

// An idle session has several timers: these functions are shared by all of them.
const run = guarded('timer', (call: Call) => {
  const { due } = call;
  call.due = null;
  due?.();
});
const expire = (call: Call) => void setImmediate(run, call).unref();

/**
 * The process's own clock. Its timers do not keep the process alive, and an exception in `fn` does not end it. Pending I/O
 * is processed before a timer fires, so that a stalled process does not blame its peers.
 */
export const systemClock: Clock = {
  now: () => performance.now(),
  wall: () => Date.now(),
  after(ms, fn) {
    const call: Call = { due: fn };
    const timer = setTimeout(expire, Math.min(ms, LONGEST_TIMER), call);
    timer.unref();
    return () => {
      call.due = null;
      clearTimeout(timer);
    };
  },
};

/** Source of identifiers, injected so that a simulation can make them reproducible. */
export interface Ids {
  /** Returns a fresh UUID. Session, turn, worker, nonce and request ids all have this form. */
  uuid(): string;
}

/** Cryptographically random identifiers. */
export const randomIds: Ids = { uuid: () => randomUUID() };
