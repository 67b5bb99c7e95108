import type { FleetOverview } from '../admin/overview.ts';
import type { ActivityWindow } from '../observe/activity.ts';
import type { FailedRequest } from '../observe/failures.ts';
import type { Asked } from './admin.ts';
import { columns, duration, size } from './output.ts';
import { type ListedSession, sessionPage, sessionTable } from './sessions.ts';

/** The overview of all workers, as the page of the operators shows it, and what runs and failed last. */
export type Overview = FleetOverview & {
  /** Number of all sessions; capped, see `MOST_COUNTED`. */
  sessions: number;
  /** Sessions with a running turn, the one that changed last first. */
  running: ListedSession[];
  /** Newest first. */
  failures: FailedRequest[];
};

/** Most running turns and failures that the view shows. */
const MOST_SHOWN = 20;

/**
 * Reads the overview from the admin API.
 *
 * @param window span that the figures are for
 * @throws `CommandFailed` with the error of the worker that was asked
 */
export async function readOverview(at: Asked, window: ActivityWindow): Promise<Overview> {
  const [overview, busy, all, { failures }] = await Promise.all([
    at.json<FleetOverview>(`/admin/overview?window=${window}`),
    sessionPage(at, { busy: '1', limit: String(MOST_SHOWN) }),
    sessionPage(at, { limit: '1' }),
    at.json<{ failures: FailedRequest[] }>(`/admin/failures?limit=${MOST_SHOWN}`),
  ]);
  return { ...overview, sessions: all.total, running: busy.sessions, failures };
}

type Steps = readonly (number | null)[];

const LEVELS = '▁▂▃▄▅▆▇█';

/**
 * Draws values as one line of blocks, from 0 to the largest of them. A step without a value is a blank.
 *
 * @param width most characters; adjacent steps share one, with their mean
 */
export function sparkline(values: Steps, width: number): string {
  const length = Math.min(width, values.length);
  const means = Array.from({ length }, (_, at) => {
    const from = Math.floor((at * values.length) / length);
    const shared = values.slice(from, Math.floor(((at + 1) * values.length) / length)).filter((each) => each !== null);
    return shared.length === 0 ? null : shared.reduce((sum, each) => sum + each, 0) / shared.length;
  });
  const top = Math.max(0, ...means.map((each) => each ?? 0));
  return means
    .map((each) => {
      if (each === null) return ' ';
      return LEVELS[top === 0 ? 0 : Math.min(LEVELS.length - 1, Math.floor((each / top) * LEVELS.length))];
    })
    .join('');
}

/** Formats a duration, with a decimal where it is short. */
const time = (ms: number | null) => {
  if (ms === null) return '-';
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms >= 1_000 && ms < 60_000 ? `${(ms / 1_000).toFixed(1)} s` : duration(ms);
};
const amount = (value: number) => (value < 10 && !Number.isInteger(value) ? value.toFixed(1) : size(value, ''));
const share = (part: number, whole: number) => (whole > 0 ? `${Math.round((part / whole) * 100)} %` : '-');
const sum = (values: Steps) => values.reduce<number>((all, each) => all + (each ?? 0), 0);
/** Returns counts a step so that the running step, which is shorter than the others, compares with them. */
const even = (values: readonly number[], { t, step, now }: Overview) =>
  values.map((value, at) => (value * step) / Math.min(step, Math.max(step / 3, now - t[at]!)));
const added = (named: Record<string, number[]>, length: number) =>
  Array.from({ length }, (_, at) => sum(Object.values(named).map((values) => values[at] ?? 0)));
const byName = (named: Record<string, number[]>) =>
  Object.entries(named).map(([name, values]) => `${name} ${amount(sum(values))}`);
const quantiles = ({ p50, p99 }: { p50: number | null; p99: number | null }) =>
  p50 === null ? '-' : `p50 ${time(p50)}, p99 ${time(p99)}`;

/** One line of the figures: its course, what must fit, and what follows as far as there is room. */
interface Figure {
  name: string;
  course: Steps;
  text: string;
  more?: string[];
}

/** Returns the figures of the page's charts, in their order. */
function figuresOf(overview: Overview): Figure[] {
  const { series, total, load, priced, now, since, t } = overview;
  const minutes = Math.max(1 / 60, (now - since) / 60_000);
  const failed = sum(Object.values(total.failures));
  const saved = Math.max(0, total.clientBytes - total.sentBytes);
  return [
    {
      name: 'turns',
      course: even(added(series.outcomes, t.length), overview),
      text: `${amount(total.turns / minutes)} a minute`,
      more: [`${amount(total.turns)} in all`, ...byName(series.outcomes)],
    },
    {
      name: 'failures',
      course: even(added(series.failures, t.length), overview),
      text: `${amount(failed / minutes)} a minute`,
      more: [`${amount(failed)} in all`, ...byName(series.failures)],
    },
    { name: 'to first event', course: series.firstEvent.p50, text: quantiles(total.firstEvent) },
    { name: 'own share', course: series.own.p50, text: quantiles(total.own) },
    {
      name: 'sent as delta',
      course: series.deltaShare,
      text: share(total.deltas, total.sent),
      more: [`of ${amount(total.sent)} sent`],
    },
    {
      name: 'bytes saved',
      course: even(
        series.savedBytes.map((each) => Math.max(0, each)),
        overview,
      ),
      text: size(saved),
      more: [`${share(saved, total.clientBytes)} of ${size(total.clientBytes)}`],
    },
    {
      name: 'cached tokens',
      course: even(series.cachedTokens, overview),
      text: share(total.cachedTokens, total.inputTokens),
      more: [`of ${amount(total.inputTokens)} in`],
    },
    ...(priced
      ? [
          {
            name: 'cost saved',
            course: even(series.saved, overview),
            text: total.saved.toFixed(total.saved < 10 ? 3 : 2),
          },
        ]
      : []),
    {
      name: 'sockets',
      course: series.sockets,
      text: amount(load.sockets),
      more: [`${amount(load.connections)} connections of clients`],
    },
    {
      name: 'running',
      course: series.inFlight,
      text: `${amount(load.inFlight)}, waiting ${amount(load.queued)}`,
    },
    { name: 'database', course: series.database.p50, text: quantiles(total.database) },
  ];
}

/** Widest and narrowest course; without room for the latter there is none. */
const COURSE = { most: 60, least: 8 };

/** Formats the figures, one a line, with their courses where the width allows it. */
function figureLines(figures: readonly Figure[], width: number): string[] {
  const names = Math.max(...figures.map(({ name }) => name.length));
  const texts = Math.max(...figures.map(({ text }) => text.length));
  const room = (width || Number.POSITIVE_INFINITY) - names - texts - 4;
  const course = room < COURSE.least ? 0 : Math.min(COURSE.most, width === 0 ? 30 : Math.floor(room * 0.6));
  return figures.map(({ name, course: values, text, more = [] }) => {
    const drawn = course === 0 ? '' : `  ${sparkline(values, course).padEnd(Math.min(course, values.length))}`;
    let line = `${name.padEnd(names)}${drawn}  ${text}`;
    for (const each of more) {
      const next = `${each.startsWith('of ') ? ' ' : ', '}${each}`;
      if (width > 0 && line.length + next.length > width) break;
      line += next;
    }
    return line;
  });
}

/** Formats the workers. Columns that do not fit are left out, the least telling ones first. */
function workerTable(workers: Overview['workers'], width: number): string {
  const percent = (part: number | undefined) => (part === undefined ? '' : share(part, 1));
  const shown = workers.map((each) => {
    const { id, here, state, leaseLeftMs, sessions, busy, turns, failures, firstEvent, own, database, load, slow } =
      each;
    return {
      WORKER: `${id.slice(0, 8)}${here ? ' *' : ''}`,
      STATE: slow ? `${state}, slow: ${slow.of} ${time(slow.ms)}` : state,
      LEASE: state === 'dead' ? '' : leaseLeftMs < 0 ? 'expired' : duration(leaseLeftMs),
      SESSIONS: String(sessions),
      BUSY: String(busy),
      TURNS: turns === null ? 'no answer' : amount(turns),
      FAILED: failures === null ? '' : amount(failures),
      'FIRST P50': time(firstEvent?.p50 ?? null),
      'OWN P99': time(own?.p99 ?? null),
      'DB P99': time(database?.p99 ?? null),
      LOOP: percent(load?.loop),
      CPU: percent(load?.processor),
      MEMORY: load ? size(load.memoryBytes) : '',
      SOCKETS: load ? String(load.sockets) : '',
      VERSION: each.version,
    };
  });
  /** The first of them are left out first. */
  const dispensable = ['VERSION', 'SOCKETS', 'MEMORY', 'FIRST P50', 'BUSY', 'CPU', 'FAILED', 'SESSIONS', 'LEASE'];
  let names = Object.keys(shown[0] ?? {}) as (keyof (typeof shown)[number])[];
  const table = () =>
    columns(
      names,
      shown.map((row) => names.map((name) => row[name])),
      width,
    );
  const widest = () =>
    names.reduce((all, name) => all + 2 + Math.max(name.length, ...shown.map((row) => row[name].length)), -2);
  for (const name of dispensable) {
    if (width === 0 || widest() <= width) break;
    names = names.filter((each) => each !== name);
  }
  return shown.length === 0 ? 'No worker is registered.\n' : table();
}

const failureTable = ({ failures, now }: Overview, width: number) =>
  failures.length === 0
    ? 'No failed request is on record.\n'
    : columns(
        ['FAILED', 'GOT', 'REASON', 'REQUEST', 'SESSION'],
        failures.map(({ t, request, session, fault, cause, upstreamStatus, status }) => [
          `${duration(Math.max(0, now - t))} ago`,
          status === null || status === undefined ? '-' : String(status),
          [fault ?? (upstreamStatus === null ? 'upstream error' : `upstream ${upstreamStatus}`), cause]
            .filter((each) => each !== null)
            .join(', '),
          request,
          session?.slice(0, 8) ?? '',
        ]),
        width,
      );

/** Spans by name, in words. */
const spans: Record<ActivityWindow, string> = { '15m': 'last 15 min', '1h': 'last hour', '24h': 'last 24 h' };

/** Returns the answer to the first question of an operator, as the page does. */
function verdictOf({ total, workers }: Overview): string {
  const failed = Object.entries(total.failures).sort(([, a], [, b]) => b - a);
  const serving = workers.filter(({ state, leaseLeftMs }) => state === 'serving' && leaseLeftMs > 0).length;
  const silent = workers.filter(({ state, leaseLeftMs }) => state !== 'dead' && leaseLeftMs <= 0).length;
  const several = (count: number, one: string, more: string) => `${count} ${count === 1 ? one : more}`;
  const count = failed.reduce((all, [, each]) => all + each, 0);
  return [
    serving === 0 ? 'No worker serves.' : `${several(serving, 'worker serves', 'workers serve')}.`,
    ...workers.flatMap(({ id, slow }) => (slow ? [`Worker ${id.slice(0, 8)} is slow.`] : [])),
    ...(silent > 0 ? [`${several(silent, 'worker is', 'workers are')} silent.`] : []),
    count > 0
      ? `${several(count, 'request', 'requests')} failed or refused, most often ${failed[0]![0]}.`
      : total.turns > 0
        ? `All ${total.turns} turns ended well.`
        : 'No turn ended.',
  ].join(' ');
}

/** Breaks a text into lines between its words. */
function wrapped(text: string, width: number): string {
  let lines = '';
  let line = '';
  for (const word of text.split(' ')) {
    if (width > 0 && line !== '' && line.length + 1 + word.length > width) {
      lines += `${line}\n`;
      line = word;
    } else line += line === '' ? word : ` ${word}`;
  }
  return `${lines}${width > 0 ? line.slice(0, width) : line}\n`;
}

/** Parts of the overview that can be shown alone. */
export const parts = ['overview', 'workers', 'running', 'failures'] as const;
export type Part = (typeof parts)[number];

/**
 * Formats an overview for people.
 *
 * @param url address that was asked
 * @param width longest line in characters; 0 for no limit
 * @param part `overview` for everything, the figures first
 */
export function overviewText(now: Overview, url: string, width = 0, part: Part = 'overview'): string {
  const cut = (line: string) => `${width > 0 ? line.slice(0, width) : line}\n`;
  const at = new Date(now.now).toISOString().slice(11, 19);
  const head =
    cut(`${spans[now.window]} to ${at} UTC, ${now.sessions} sessions, ${url}`) + wrapped(verdictOf(now), width);
  const living = now.workers.filter(({ state }) => state !== 'dead');
  const dead = now.workers.length - living.length;
  const written = {
    overview: () => figureLines(figuresOf(now), width).map(cut).join(''),
    workers: () =>
      part === 'workers'
        ? workerTable(now.workers, width)
        : `${workerTable(living, width)}${dead > 0 ? cut(`and ${dead} dead`) : ''}`,
    running: () => (now.running.length > 0 ? sessionTable(now.running, now.now, width) : 'No turn runs.\n'),
    failures: () => failureTable(now, width),
  };
  const chosen = part === 'overview' ? parts : [part];
  return [head, ...chosen.map((each) => written[each]())].join('\n');
}
