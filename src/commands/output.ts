/** Exit codes of every command. */
export const EXIT = {
  /** Done, and nothing is wrong. */
  done: 0,
  /** The command failed, or found a fault. */
  failed: 1,
  /** The command line is wrong. */
  usage: 2,
  /** No Holdfast answers at the address that was asked. */
  unreachable: 3,
} as const;

/** A command cannot do what it was asked for. The message says why, and what to do about it. */
export class CommandFailed extends Error {
  override readonly name = 'CommandFailed';
  readonly exitCode: number;

  constructor(message: string, exitCode: number = EXIT.failed, options?: ErrorOptions) {
    super(message, options);
    this.exitCode = exitCode;
  }
}

/** Names of errors whose messages are complete; a stack trace adds nothing. By name, so that no code is loaded for them. */
const complete = ['CommandFailed', 'ConfigError', 'DatabaseUnusable', 'DataDirInUse'];

/** Prints why this process cannot go on, and exits. */
export function fail(error: Error & { code?: string }): void {
  const message =
    error.code === 'EADDRINUSE' ? 'The port is in use: choose another with PORT or --port.' : error.message;
  process.stderr.write(`holdfast: ${message}\n`);
  if (!complete.includes(error.name) && process.env.HOLDFAST_LOG_LEVEL === 'debug')
    process.stderr.write(`${error.stack}\n`);
  process.exit(error instanceof CommandFailed ? error.exitCode : EXIT.failed);
}

/** Where a command writes. */
export interface Output {
  /** Writes the result, to standard output. */
  out(text: string): void;
  /** Writes progress and remarks, to standard error. */
  err(text: string): void;
  /** Standard output is a terminal. */
  terminal: boolean;
  /** Standard error is a terminal. */
  errTerminal: boolean;
  /** Width and height of the terminal in characters; 0 without one. */
  readonly columns: number;
  readonly rows: number;
}

export const standardOutput: Output = {
  out: (text) => void process.stdout.write(text),
  err: (text) => void process.stderr.write(text),
  terminal: process.stdout.isTTY === true,
  errTerminal: process.stderr.isTTY === true,
  // Read each time: the window may be resized.
  get columns() {
    return process.stdout.columns ?? 0;
  },
  get rows() {
    return process.stdout.rows ?? 0;
  },
};

/** Prints a value as JSON. */
export const printJson = ({ out }: Output, value: unknown): void => out(`${JSON.stringify(value, null, 2)}\n`);

/** Replaces characters that could steer a terminal: names in the data are chosen by clients. */
export const printable = (text: string): string => text.replace(/[\p{Cc}\p{Cf}]/gu, '?');

/**
 * Formats rows as columns.
 *
 * @param width longest line in characters; 0 for no limit
 */
export function columns(head: readonly string[], rows: readonly (readonly string[])[], width = 0): string {
  const cells = [head, ...rows].map((row) => row.map(printable));
  const widths = head.map((_, at) => Math.max(...cells.map((row) => row[at]?.length ?? 0)));
  const lines = cells.map((row) =>
    row
      .map((cell, at) => cell.padEnd(widths[at]!))
      .join('  ')
      .trimEnd(),
  );
  return lines.map((line) => `${width > 0 ? line.slice(0, width) : line}\n`).join('');
}

/** Formats a duration with its largest unit: `850 ms`, `12 s`, `3 min`, `5 h`, `2 d`. */
export function duration(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 120_000) return `${Math.round(ms / 1_000)} s`;
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  return ms < 172_800_000 ? `${Math.round(ms / 3_600_000)} h` : `${Math.round(ms / 86_400_000)} d`;
}

/**
 * Formats a number of bytes, or of something else.
 *
 * @param of unit
 */
export function size(number: number, of = 'B'): string {
  const prefixes = ['', 'k', 'M', 'G', 'T'];
  let value = number;
  let power = 0;
  for (; value >= 1_000 && power < prefixes.length - 1; power += 1) value /= 1_000;
  return `${power === 0 ? Math.round(value) : value.toFixed(value < 10 ? 1 : 0)} ${prefixes[power]}${of}`.trimEnd();
}

/** Progress of one long step. */
export interface Progress {
  /** Reports how much is done; both in the same unit. */
  at(done: number, total: number): void;
  /** Ends the step with its last line. */
  end(text: string): void;
}

/** Shortest time between two updates of a terminal's line, in milliseconds. */
const REDRAW_MS = 100;
/** Share of the whole between two lines in a pipe. */
const LINE_SHARE = 0.1;

/**
 * Shows the progress of a step: one line that is redrawn on a terminal, with the time left; plain lines elsewhere.
 *
 * @param shown formats an amount, default: as bytes
 */
export function progress(output: Output, label: string, shown: (amount: number) => string = size): Progress {
  const startedAt = performance.now();
  let drawnAt = Number.NEGATIVE_INFINITY;
  let lineAt = 0;
  const clear = () => output.errTerminal && output.err('\r\u001b[2K');
  output.err(output.errTerminal ? label : `${label}\n`);
  return {
    at(done, total) {
      const now = performance.now();
      const share = total === 0 ? 1 : Math.min(1, done / total);
      const leftMs = share === 0 ? null : ((now - startedAt) * (1 - share)) / share;
      const left = leftMs === null || share === 1 ? '' : `, ${duration(Math.max(1_000, leftMs))} left`;
      const line = `${label}: ${Math.floor(share * 100)} %, ${shown(done)} of ${shown(total)}${left}`;
      if (output.errTerminal) {
        if (now - drawnAt < REDRAW_MS && share < 1) return;
        drawnAt = now;
        clear();
        output.err(line);
      } else if (share - lineAt >= LINE_SHARE || (share === 1 && lineAt < 1)) {
        lineAt = share;
        output.err(`${line}\n`);
      }
    },
    end(text) {
      clear();
      output.err(`${text}\n`);
    },
  };
}
