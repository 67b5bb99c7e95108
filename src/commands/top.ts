import type { Readable } from 'node:stream';
import type { TopOptions } from '../command-line.ts';
import type { ActivityWindow } from '../observe/activity.ts';
import { asked } from './admin.ts';
import { CommandFailed, type Output, printJson, standardOutput } from './output.ts';
import { overviewText, type Part, parts, readOverview } from './overview.ts';

const ALTERNATE = { enter: '\u001b[?1049h\u001b[?25l', leave: '\u001b[?25h\u001b[?1049l', home: '\u001b[H\u001b[J' };

/** Keys that end the live view: `q`, Ctrl-C and Ctrl-D. */
const END_KEYS = ['q', '\u0003', '\u0004'];
/** Keys that choose the span of time. */
const WINDOW_KEYS: ReadonlyMap<string, ActivityWindow> = new Map([
  ['1', '15m'],
  ['2', '1h'],
  ['3', '24h'],
]);

/** Time between two measurements by default, in seconds. */
const INTERVAL_S = 2;

/** What a live view reads keys from. */
type Keys = Readable & { isTTY?: boolean; setRawMode?(raw: boolean): unknown };

/** Emphasises titles, what is chosen and what is wrong. Escape sequences are added after lines are cut to their width. */
function dressed(text: string): string {
  const bold = (line: string) => `\u001b[1m${line}\u001b[22m`;
  return text
    .split('\n')
    .map((line, at) => {
      if (at === 1) return /failed or refused|silent|slow|No worker/.test(line) ? `\u001b[33m${line}\u001b[39m` : line;
      return at === 0 || /^(?:WORKER|SESSION|FAILED) /.test(line) ? bold(line) : line;
    })
    .join('\n');
}

/** Returns the line of keys, as much of it as fits. */
function keyLine(window: ActivityWindow, part: Part, width: number): string {
  const chosen = (text: string, isChosen: boolean) => (isChosen ? `[${text}]` : text);
  const texts = [
    ...[...WINDOW_KEYS].map(([key, each]) => chosen(`${key} ${each}`, each === window)),
    ...parts.map((each) => chosen(each, each === part)),
    'q quit',
  ];
  let line = '';
  for (const text of texts) if (width === 0 || line.length + text.length + 2 <= width) line += `${text}  `;
  return line.trimEnd();
}

/**
 * Shows the overview of all workers, running turns and failures: live on a terminal until `q` or Ctrl-C; elsewhere one
 * measurement.
 *
 * @throws `CommandFailed` with the error of the worker that was asked
 */
export async function top(
  options: TopOptions,
  output: Output = standardOutput,
  keys: Keys = process.stdin,
): Promise<void> {
  const at = await asked(options);
  let window: ActivityWindow = options.window ?? '15m';
  let now = await readOverview(at, window);
  if (options.json) return printJson(output, now);
  if (options.once || !output.terminal) return output.out(overviewText(now, at.url, output.columns));
  let part: Part = 'overview';
  let trouble = '';
  let isOver = false;
  /** Ends the present wait for the next measurement. */
  let wake = () => {};

  const draw = () => {
    const { columns, rows } = output;
    const lines = dressed(overviewText(now, at.url, columns, part))
      .trimEnd()
      .split('\n');
    const last = trouble === '' ? keyLine(window, part, columns) : trouble.slice(0, columns || undefined);
    const shown = rows > 0 ? lines.slice(0, Math.max(1, rows - 2)) : lines;
    output.out(`${ALTERNATE.home}${shown.join('\n')}\n\n${last}`);
  };
  const end = () => {
    isOver = true;
    wake();
  };
  const onKey = (data: Buffer) => {
    for (const key of String(data)) {
      if (END_KEYS.includes(key)) return end();
      const chosen = parts.find((each) => each.startsWith(key));
      if (chosen) {
        part = chosen;
        draw();
      }
      const span = WINDOW_KEYS.get(key);
      if (span && span !== window) {
        window = span;
        wake();
      }
    }
  };
  keys.setRawMode?.(true);
  keys.on('data', onKey);
  process.stdout.on('resize', draw);
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, end);
  output.out(ALTERNATE.enter);
  try {
    while (!isOver) {
      draw();
      await new Promise<void>((next) => {
        const timer = setTimeout(next, (options.interval ?? INTERVAL_S) * 1_000);
        wake = () => {
          clearTimeout(timer);
          next();
        };
        // A key may have been pressed while the figures were read.
        if (isOver || now.window !== window) wake();
      });
      if (isOver) break;
      try {
        now = await readOverview(at, window);
        trouble = '';
      } catch (error) {
        // A worker that restarts is shown again when it is back.
        if (!(error instanceof CommandFailed)) throw error;
        trouble = error.message;
        window = now.window;
      }
    }
  } finally {
    output.out(ALTERNATE.leave);
    keys.off('data', onKey);
    keys.setRawMode?.(false);
    keys.pause();
    process.stdout.off('resize', draw);
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, end);
  }
}
