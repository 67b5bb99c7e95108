import type { Readable } from 'node:stream';
import type { TopOptions } from '../command-line.ts';
import { asked } from './admin.ts';
import { CommandFailed, columns, duration, type Output, printJson, size, standardOutput } from './output.ts';
import { type Overview, readOverview } from './overview.ts';
import { sessionTable } from './sessions.ts';

const rate = (now: number, before: number, seconds: number) => (Math.max(0, now - before) / seconds).toFixed(1);

/**
 * Formats an overview for people.
 *
 * @param before the measurement before it, for rates; null at first
 * @param width longest line in characters; 0 for no limit
 */
export function overviewText(now: Overview, before: Overview | null, url: string, width = 0): string {
  const { counts, gauges } = now;
  const seconds = before ? Math.max(0.001, (now.at - before.at) / 1_000) : null;
  const perSecond = (name: 'turns' | 'faults') =>
    seconds === null || before === null ? '' : ` (${rate(counts[name], before.counts[name], seconds)}/s)`;
  const saved = counts.bytesFromClients === 0 ? 0 : Math.round((100 * counts.bytesSaved) / counts.bytesFromClients);
  const outcomes = Object.entries(counts.outcomes)
    .sort((one, other) => other[1] - one[1])
    .map(([name, count]) => `${name} ${count}`);
  const lines = [
    `${url} at ${new Date(now.at).toISOString().slice(11, 19)} UTC: ${now.workers.length} workers, ${now.sessions} sessions`,
    `turns ${counts.turns}${perSecond('turns')}, faults ${counts.faults}${perSecond('faults')}, in flight ${gauges.turnsInFlight}, waiting ${gauges.queued}`,
    `upstream sockets ${gauges.sockets}, client connections ${gauges.connections}, heartbeat ${duration(gauges.heartbeatAgeMs)} old, saved ${size(counts.bytesSaved)} (${saved} %)`,
    ...(outcomes.length > 0 ? [outcomes.join(', ')] : []),
  ];
  const workers = columns(
    ['WORKER', 'STATE', 'LEASE', 'SESSIONS', 'BUSY', 'VERSION'],
    now.workers.map(({ id, state, leaseLeftMs, sessions, busy, version, here }) => [
      `${id.slice(0, 8)}${here ? ' *' : ''}`,
      state,
      state === 'dead' ? '' : leaseLeftMs < 0 ? 'expired' : duration(leaseLeftMs),
      String(sessions),
      String(busy),
      version,
    ]),
    width,
  );
  const failures = columns(
    ['FAILED', 'REQUEST', 'REASON', 'SESSION'],
    now.failures.map(({ t, request, session, fault, cause, upstreamStatus }) => [
      `${duration(Math.max(0, now.at - t))} ago`,
      request,
      [fault ?? (upstreamStatus === null ? 'upstream error' : `upstream ${upstreamStatus}`), cause]
        .filter((each) => each !== null)
        .join(', '),
      session?.slice(0, 8) ?? '',
    ]),
    width,
  );
  const cut = lines.map((line) => `${width > 0 ? line.slice(0, width) : line}\n`).join('');
  return [
    cut,
    workers,
    now.running.length > 0 ? sessionTable(now.running, now.at, width) : 'No turn runs.\n',
    now.failures.length > 0 ? failures : 'No failed request is on record.\n',
  ].join('\n');
}

const ALTERNATE = { enter: '\u001b[?1049h\u001b[?25l', leave: '\u001b[?25h\u001b[?1049l', home: '\u001b[H\u001b[J' };

/** Keys that end the live view: `q`, Ctrl-C and Ctrl-D. */
const END_KEYS = ['q', '\u0003', '\u0004'];

/** Time between two measurements by default, in seconds. */
const INTERVAL_S = 2;

/** What a live view reads keys from. */
type Keys = Readable & { isTTY?: boolean; setRawMode?(raw: boolean): unknown };

/**
 * Shows workers, rates, running turns and failures: live on a terminal until `q` or Ctrl-C; elsewhere one measurement.
 *
 * @throws `CommandFailed` with the error of the worker that was asked
 */
export async function top(
  options: TopOptions,
  output: Output = standardOutput,
  keys: Keys = process.stdin,
): Promise<void> {
  const at = await asked(options);
  const first = await readOverview(at);
  if (options.json) return printJson(output, first);
  if (options.once || !output.terminal) return output.out(overviewText(first, null, at.url));
  const stop = new AbortController();
  const onKey = (key: Buffer) => {
    if (END_KEYS.some((each) => key.includes(each))) stop.abort();
  };
  const onSignal = () => stop.abort();
  keys.setRawMode?.(true);
  keys.on('data', onKey);
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, onSignal);
  output.out(ALTERNATE.enter);
  try {
    let before: Overview | null = null;
    let now = first;
    let trouble = '';
    while (!stop.signal.aborted) {
      const rows = process.stdout.rows ?? 0;
      const text = `${overviewText(now, before, at.url, output.columns)}${trouble}`.split('\n');
      output.out(ALTERNATE.home + text.slice(0, rows > 0 ? rows - 1 : undefined).join('\n'));
      await new Promise<void>((next) => {
        const timer = setTimeout(next, (options.interval ?? INTERVAL_S) * 1_000);
        const over = () => {
          clearTimeout(timer);
          next();
        };
        stop.signal.addEventListener('abort', over, { once: true });
      });
      if (stop.signal.aborted) break;
      try {
        const next = await readOverview(at);
        before = now;
        now = next;
        trouble = '';
      } catch (error) {
        // A worker that restarts is shown again when it is back.
        if (!(error instanceof CommandFailed)) throw error;
        trouble = `\n${error.message}\n`;
      }
    }
  } finally {
    output.out(ALTERNATE.leave);
    keys.off('data', onKey);
    keys.setRawMode?.(false);
    keys.pause();
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, onSignal);
  }
}
