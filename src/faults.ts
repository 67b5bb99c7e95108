/** Where an exception was caught that no request, connection or turn was there to take. */
export type FaultSource =
  | 'timer'
  | 'upgrade'
  | 'listener'
  | 'client connection'
  | 'upstream socket'
  | 'upstream stream'
  | 'upstream reader'
  | 'inspector'
  | 'supervisor';

/** @param suppressed faults of this source since the last report, which were not reported */
type FaultReport = (error: unknown, source: FaultSource, suppressed: number) => void;

/** Reports of one source in `WINDOW_MS`: a fault that repeats must not fill the log. */
const MOST_REPORTS = 5;
const WINDOW_MS = 60_000;

const reports: FaultReport[] = [];
const windows = new Map<FaultSource, { since: number; reported: number; suppressed: number }>();

/**
 * Where faults are reported from now on; of several the one that was added last is used. The returned function takes it
 * out again. Without any, faults are warnings of the process.
 */
export function onFault(report: FaultReport): () => void {
  reports.push(report);
  return () => {
    const at = reports.indexOf(report);
    if (at >= 0) reports.splice(at, 1);
  };
}

/** Reports an exception that ends at an event source, at a bounded rate for each source. Never throws. */
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
    // A log that cannot be written must not end what was saved from the fault.
  }
}

/**
 * The guard of an event source: a listener whose exceptions end here. Without it, an exception in a listener ends the
 * process and every conversation in it.
 *
 * @param fail ends what the event was about: its connection, socket or turn
 */
export function guarded<A extends unknown[]>(
  source: FaultSource,
  run: (...args: A) => void,
  fail: () => void = () => {},
): (...args: A) => void {
  return (...args) => {
    try {
      run(...args);
    } catch (error) {
      reportFault(error, source);
      try {
        fail();
      } catch (second) {
        reportFault(second, source);
      }
    }
  };
}
