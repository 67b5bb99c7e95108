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

/** A call in the future. A retained cancel function does not retain what it would have called. */
class Call {
  fn: (() => void) | null;
  /** Monotonic milliseconds. */
  readonly due: number;
  /** Place in its span. */
  place = 0;

  constructor(fn: () => void, due: number) {
    this.fn = fn;
    this.due = due;
  }
}

const make = guarded('timer', (call: Call) => {
  const { fn } = call;
  call.fn = null;
  fn?.();
});

/** Pending I/O is processed before a call, so that a stalled process does not blame its peers. */
const makeSoon = (call: Call) => void setImmediate(make, call).unref();

/** From this delay on, calls share timers, in milliseconds: most are deadlines that are cancelled long before they expire. */
const SHARED_FROM = 1_000;
/** Calls that are made together, by the end of the span in which they are due, in monotonic milliseconds. */
const spans = new Map<number, Call[]>();

function endSpan(end: number): void {
  const span = spans.get(end)!;
  spans.delete(end);
  for (const call of span.splice(0).sort((one, other) => one.due - other.due)) make(call);
}

const endSpanSoon = (end: number) => void setImmediate(endSpan, end).unref();

/** Returns the calls of the span in which this delay ends. A span is at most a 128th of the delay, and has one timer of Node. */
function spanOf(ms: number, now: number): Call[] {
  const width = 1 << (31 - Math.clz32(ms >>> 7));
  const end = Math.ceil((now + ms) / width) * width;
  let span = spans.get(end);
  if (span === undefined) {
    spans.set(end, (span = []));
    setTimeout(endSpanSoon, Math.min(Math.ceil(end - now), LONGEST_TIMER), end).unref();
  }
  return span;
}

/**
 * The process's own clock. Its timers do not keep the process alive, and an exception in `fn` does not end it. A call is never
 * early; one after a second or more may be late by a 128th of its delay.
 */
export const systemClock: Clock = {
  now: () => performance.now(),
  wall: () => Date.now(),
  after(ms, fn) {
    const now = performance.now();
    const call = new Call(fn, now + ms);
    if (!(ms >= SHARED_FROM)) {
      const timer = setTimeout(makeSoon, ms, call);
      timer.unref();
      return () => {
        call.fn = null;
        clearTimeout(timer);
      };
    }
    const span = spanOf(Math.min(ms, LONGEST_TIMER), now);
    call.place = span.push(call) - 1;
    return () => {
      call.fn = null;
      if (span[call.place] !== call) return;
      const last = span.pop()!;
      if (last === call) return;
      last.place = call.place;
      span[last.place] = last;
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
