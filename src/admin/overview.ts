import { BridgeError } from '../errors.ts';
import {
  type Activity,
  type ActivitySlot,
  type ActivityWindow,
  activityWindows,
  addSlot,
  countTurn,
  emptySlot,
  type ModelPrice,
  quantileOf,
  reasonOf,
  type SparseHistogram,
} from '../observe/activity.ts';
import { type FailedRequest, type FailureFilter, failureMatcher } from '../observe/failures.ts';
import { tenantOf } from '../session/turn.ts';
import { type EndedTurn, StoreUnavailable, type WorkerRow } from '../store/port.ts';
import type { Clock } from '../system.ts';
import { type AdminPort, askAll } from './fleet.ts';

/** Rows read at a time, and at most, to complete the records of workers that are gone. */
const ROWS_A_PAGE = 1_000;
const MOST_PAGES = 20;
/** Time for which a reading of rows is used again, in milliseconds. */
const ROWS_FRESH_MS = 30_000;
/** Largest number of rows examined for one answer about turns, and number of them in it. */
const EXAMINED_PAGES = 5;
const MOST_TURNS_SHOWN = 200;
const DAY_MS = 86_400_000;
/** Largest number of failures recovered from rows. */
const MOST_ROWS_FAILED = 200;

/** Returns the window that a request names; 15 minutes where it names none. */
export function windowOf(text: unknown): ActivityWindow {
  const window = (text === undefined ? '15m' : String(text)) as ActivityWindow;
  if (!activityWindows.has(window)) {
    throw new BridgeError('bridge_invalid_request', { param: 'window', detail: 'window: 15m, 1h or 24h.' });
  }
  return window;
}

/** Filter of turns and failures. */
export interface TurnFilter extends FailureFilter {
  since: number;
  until: number;
  /** How the turn ended. */
  end?: string | undefined;
  form?: string | undefined;
}

const word = (value: unknown) => (typeof value === 'string' && value.trim() !== '' ? value.trim() : undefined);

/** Reads a filter from a query. Times are milliseconds since the epoch; by default the last day. */
export function filterOf(query: Record<string, unknown>, now: number): TurnFilter {
  const time = (name: string, given: unknown, missing: number) => {
    const value = given === undefined || given === '' ? missing : Number(given);
    if (!Number.isFinite(value) || Math.abs(value) > 8e15)
      throw new BridgeError('bridge_invalid_request', { param: name });
    return value;
  };
  return {
    of: word(query.q)?.slice(0, 200) ?? null,
    since: time('since', query.since, now - DAY_MS),
    until: time('until', query.until, now + DAY_MS),
    model: word(query.model),
    outcome: word(query.outcome),
    tenant: word(query.tenant),
    reason: word(query.reason),
    end: word(query.end),
    form: word(query.form),
  };
}

/** Fields of a row that count as those of a turn's log line do. */
const countedOf = ({ facts, usage, state, model }: EndedTurn) => ({
  outcome: facts?.outcome ?? 'unknown',
  form: facts?.form ?? null,
  terminal: state,
  fault: facts?.fault ?? null,
  upstreamStatus: facts?.upstreamStatus ?? null,
  firstEventMs: facts?.firstEventMs ?? null,
  ownMs: facts?.ownMs ?? null,
  bytesFromClient: facts?.bytesFromClient ?? 0,
  bytesSent: facts?.bytesSent ?? 0,
  tokens: usage,
  model,
});

/** Sums over rows, and whether older rows had to be left out. */
interface RowSums {
  slots: Map<number, ActivitySlot>;
  /** Time from which on the rows are complete. */
  from: number;
  readable: boolean;
}

interface OverviewMeans {
  port: AdminPort;
  clock: Pick<Clock, 'now' | 'wall'>;
  prices: ReadonlyMap<string, ModelPrice>;
}

/**
 * Creates the function that returns the overview: sums over all workers for one window. Each worker that answers reports
 * its own record. For workers that are gone or do not answer, the rows of their turns are counted, within bounds.
 */
export function createOverview({ port, clock, prices }: OverviewMeans) {
  const kept = new Map<string, { at: number; sums: Promise<RowSums> }>();

  /** Counts the rows of these workers within an interval. */
  async function countRows(authors: readonly string[], since: number, until: number, step: number): Promise<RowSums> {
    const slots = new Map<number, ActivitySlot>();
    let before: { endedAt: string; id: string } | undefined;
    let reached = until;
    try {
      for (let page = 0; page < MOST_PAGES; page += 1) {
        const now = clock.wall();
        const query = { withinMs: now - since, olderMs: now - until, before, limit: ROWS_A_PAGE, authors };
        const rows = await port.store.turnsEnded(query);
        for (const row of rows) {
          reached = now - row.ageMs;
          const t = Math.floor(reached / step) * step;
          const slot = slots.get(t) ?? emptySlot(t);
          slots.set(t, slot);
          countTurn(slot, countedOf(row), prices);
        }
        if (rows.length < ROWS_A_PAGE) return { slots, from: since, readable: true };
        before = rows.at(-1)!;
      }
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      return { slots, from: reached, readable: false };
    }
    return { slots, from: reached, readable: true };
  }

  function rowsOf(window: ActivityWindow, gone: readonly WorkerRow[], since: number): Promise<RowSums> {
    const now = clock.wall();
    const { step } = activityWindows.get(window)!;
    if (gone.length === 0) return Promise.resolve({ slots: new Map(), from: since, readable: true });
    const authors = gone.map(({ id }) => id).sort();
    const key = JSON.stringify([window, authors]);
    const known = kept.get(key);
    if (known && clock.now() - known.at < ROWS_FRESH_MS) return known.sums;
    kept.clear();
    // A dead worker has ended nothing after its lease; one that is alive but does not answer may still do so.
    const until = Math.max(...gone.map(({ leaseLeftMs }) => (leaseLeftMs < 0 ? now + leaseLeftMs + step : now + step)));
    const sums = countRows(authors, since, until, step);
    kept.set(key, { at: clock.now(), sums });
    return sums;
  }

  return async (window: ActivityWindow) => {
    const now = clock.wall();
    const { span, step } = activityWindows.get(window)!;
    const since = Math.floor(now / step) * step - span + step;
    const [workers, owned] = await Promise.all([port.store.workers(), port.store.ownedSessions()]);
    const answers = await askAll(port, workers, { activity: window });
    const records = new Map<string, Activity>();
    for (const { workerId, answer } of answers) if (answer.activity) records.set(workerId, answer.activity);
    const covered = new Set([...records.values()].flatMap(({ ids }) => ids));
    const gone = workers.filter(({ id }) => !covered.has(id));
    const rows = await rowsOf(window, gone, since);

    const slots = Array.from({ length: span / step }, (_, at) => emptySlot(since + at * step));
    const slotAt = (t: number) => slots[Math.round((Math.floor(t / step) * step - since) / step)];
    for (const { slots: own } of records.values()) {
      for (const each of own) {
        const slot = slotAt(each.t);
        if (slot) addSlot(slot, each, 'sum');
      }
    }
    for (const [t, each] of rows.slots) {
      const slot = slotAt(t);
      if (slot) addSlot(slot, each, 'sum');
    }
    const total = emptySlot(since);
    for (const slot of slots) addSlot(total, slot, 'max');
    const counts = new Map(owned.map(({ workerId, ...count }) => [workerId, count]));
    const load = [...records.values()].flatMap((record) => record.load ?? []);
    const sums = workers.map(({ id }) => workerSums(records.get(id)));
    const sum = (name: 'sockets' | 'queued' | 'inFlight' | 'connections') =>
      load.reduce((all, each) => all + each[name], 0);
    return {
      ...{ window, step, now, since },
      t: slots.map(({ t }) => t),
      series: seriesOf(slots),
      total: totalsOf(total),
      load: {
        sockets: sum('sockets'),
        queued: sum('queued'),
        inFlight: sum('inFlight'),
        connections: sum('connections'),
      },
      priced: prices.size > 0,
      /** Workers without a record in memory: what is known of them is in rows. */
      rows: { of: gone.length, from: rows.from, readable: rows.readable },
      workers: workers.map((worker, at) => ({
        ...{ id: worker.id, state: worker.state, leaseLeftMs: worker.leaseLeftMs, version: worker.version },
        here: worker.id === port.workerId,
        ...(counts.get(worker.id) ?? { sessions: 0, busy: 0 }),
        ...sums[at]!,
        slow: slownessOf(sums, at),
      })),
    };
  };
}

/** The overview, as `/admin/overview` answers it. */
export type FleetOverview = Awaited<ReturnType<ReturnType<typeof createOverview>>>;

/** Sums of one worker over the window; null where it did not answer. */
function workerSums(record: Activity | undefined) {
  if (!record) return { load: null, turns: null, failures: null, firstEvent: null, own: null, database: null };
  const total = emptySlot(0);
  for (const slot of record.slots) addSlot(total, slot, 'max');
  const { turns, failures, firstEvent, own, database } = totalsOf(total);
  return { load: record.load, turns, failures: sumOf(failures), firstEvent, own, database };
}

/** A worker counts as slow from this median on, in milliseconds, if it is also this many times that of another one. */
const SLOW = { ms: 10, times: 3 };

/** What a worker is much slower at than another one; null for one that keeps up, or has nothing to be compared with. */
function slownessOf(all: readonly ReturnType<typeof workerSums>[], at: number) {
  for (const part of ['database', 'own'] as const) {
    const ms = all[at]![part]?.p50 ?? 0;
    const others = all.flatMap((each, index) => (index === at ? [] : [each[part]?.p50 ?? Number.POSITIVE_INFINITY]));
    const fastest = Math.min(...others);
    if (ms >= SLOW.ms && ms >= fastest * SLOW.times) return { of: part, ms, fastest };
  }
  return null;
}

const sumOf = (counts: Record<string, number>) => Object.values(counts).reduce((sum, count) => sum + count, 0);
const quantiles = (histogram: SparseHistogram) => ({
  p50: quantileOf(histogram, 0.5),
  p99: quantileOf(histogram, 0.99),
});

function totalsOf(slot: ActivitySlot) {
  const { t: _, firstEvent, own, database, samples: _n, sockets: _s, queued: _q, inFlight: _i, ...sums } = slot;
  return {
    ...sums,
    turns: sumOf(slot.outcomes),
    ...{ firstEvent: quantiles(firstEvent), own: quantiles(own), database: quantiles(database) },
  };
}

/** Arranges the steps by what they measure. Null stands for a step in which nothing was measured. */
function seriesOf(slots: readonly ActivitySlot[]) {
  const named = (field: 'outcomes' | 'ends' | 'failures') => {
    const names = [...new Set(slots.flatMap((slot) => Object.keys(slot[field])))];
    const sums = names.map((name) => [name, slots.reduce((sum, slot) => sum + (slot[field][name] ?? 0), 0)] as const);
    return Object.fromEntries(
      sums.sort(([, a], [, b]) => b - a).map(([name]) => [name, slots.map((slot) => slot[field][name] ?? 0)]),
    );
  };
  const timed = (field: 'firstEvent' | 'own' | 'database') => ({
    p50: slots.map((slot) => quantileOf(slot[field], 0.5)),
    p99: slots.map((slot) => quantileOf(slot[field], 0.99)),
  });
  const plain = (field: 'inputTokens' | 'cachedTokens' | 'saved') => slots.map((slot) => slot[field]);
  const sampled = (field: 'sockets' | 'queued' | 'inFlight') =>
    slots.map((slot) => (slot.samples > 0 ? slot[field] : null));
  return {
    ...{ outcomes: named('outcomes'), ends: named('ends'), failures: named('failures') },
    ...{ firstEvent: timed('firstEvent'), own: timed('own'), database: timed('database') },
    deltaShare: slots.map(({ sent, deltas }) => (sent > 0 ? deltas / sent : null)),
    savedBytes: slots.map(({ clientBytes, sentBytes }) => clientBytes - sentBytes),
    ...{ inputTokens: plain('inputTokens'), cachedTokens: plain('cachedTokens'), saved: plain('saved') },
    ...{ sockets: sampled('sockets'), queued: sampled('queued'), inFlight: sampled('inFlight') },
  };
}

const failureOf = (row: EndedTurn, now: number): FailedRequest => {
  const { id, sessionId, responseId, scope, authorWorkerId, facts, model, ageMs } = row;
  return {
    t: Math.round(now - ageMs),
    workerId: authorWorkerId,
    // The id of a request is not stored.
    request: '',
    ...{ session: sessionId, turn: id, response: responseId, cause: null, ending: null, key: null, model },
    fault: facts?.fault ?? null,
    upstreamStatus: facts?.upstreamStatus ?? null,
    outcome: facts?.outcome ?? null,
    ...{ tenant: tenantOf(scope), status: null, code: null, action: null, method: 'POST', path: null, upgrade: false },
    fromRow: true,
  };
};

const agesOf = ({ since, until }: TurnFilter, now: number) => ({
  withinMs: now - since,
  olderMs: until > now ? undefined : now - until,
});

/** Returns failed turns from their rows: those of workers that are gone too. Empty where the store does not answer. */
export async function failuresOfRows(port: AdminPort, filter: TurnFilter, now: number): Promise<FailedRequest[]> {
  try {
    const query = { ...agesOf(filter, now), limit: MOST_ROWS_FAILED, failed: true };
    const rows = await port.store.turnsEnded(query);
    return rows.map((row) => failureOf(row, now)).filter(failureMatcher(filter));
  } catch (error) {
    if (error instanceof StoreUnavailable) return [];
    throw error;
  }
}

const shownRow = ({ usage: _, error: _e, scope, ageMs, ...row }: EndedTurn, now: number) => ({
  ...row,
  tenant: tenantOf(scope),
  t: Math.round(now - ageMs),
});

/**
 * Returns the ended turns that match a filter, the last one first, with a cursor for the next page. At most
 * `EXAMINED_PAGES * ROWS_A_PAGE` rows are examined for one answer, so a page may be short and still have a cursor.
 */
export async function turnsBehind(
  port: AdminPort,
  filter: TurnFilter,
  cursor: { updatedAt: string; id: string } | undefined,
  now: number,
) {
  const { of, model, outcome, tenant, reason, end, form } = filter;
  const matches = (row: EndedTurn) =>
    (of === null || row.id.startsWith(of) || row.sessionId.startsWith(of) || row.responseId === of) &&
    (model === undefined || row.model === model) &&
    (outcome === undefined || (row.facts?.outcome ?? 'unknown') === outcome) &&
    (tenant === undefined || tenantOf(row.scope) === tenant) &&
    (reason === undefined || reasonOf(countedOf(row)) === reason) &&
    (end === undefined || row.state === end) &&
    (form === undefined || row.facts?.form === form);
  const found: EndedTurn[] = [];
  let before = cursor && { endedAt: cursor.updatedAt, id: cursor.id };
  let more = true;
  for (let page = 0; page < EXAMINED_PAGES && more && found.length < MOST_TURNS_SHOWN; page += 1) {
    const query = { ...agesOf(filter, now), before, limit: ROWS_A_PAGE };
    const rows = await port.store.turnsEnded(query);
    more = rows.length === ROWS_A_PAGE;
    for (const [index, row] of rows.entries()) {
      before = row;
      if (matches(row)) found.push(row);
      if (found.length < MOST_TURNS_SHOWN) continue;
      more ||= index < rows.length - 1;
      break;
    }
  }
  const next = more && before ? Buffer.from(`${before.endedAt}\n${before.id}`).toString('base64url') : null;
  return { turns: found.map((row) => shownRow(row, now)), cursor: next };
}
