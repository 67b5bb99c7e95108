import { monitorEventLoopDelay } from 'node:perf_hooks';
import {
  Counter,
  collectDefaultMetrics,
  Gauge,
  type MetricObjectWithValues,
  type MetricValueWithName,
  Registry,
} from 'prom-client';
import { isFields } from '../../json.ts';
import type { TenantLimit } from '../../session/quota.ts';
import type { TurnLine } from '../../session/turn.ts';
import type { Clock } from '../../system.ts';
import type { FailureKind } from '../../upstream/port.ts';
import { version } from '../../version.ts';
import {
  catalogue,
  type closedReasons,
  type connectResults,
  type Definition,
  type forwardResults,
  type MetricName,
} from './catalogue.ts';

/** Metrics of the catalogue in one registry, written by name. Label values outside the catalogue become `other`. */
interface Instruments {
  add(name: MetricName, labels: Labels, value?: number): void;
  observe(name: MetricName, labels: Labels, value: number): void;
  set(name: MetricName, labels: Labels, value: number): void;
  /**
   * Registers a function that sets the metric's values just before each scrape. If it throws, the metric has no value.
   */
  collect(name: MetricName, read: (set: (labels: Labels, value: number) => void) => void): void;
}

/** Registers every metric of the catalogue. Throws the library's Error when the registry already has one of them. */
function createInstruments(registry: Registry): Instruments {
  const counters = new Map<MetricName, ReturnType<typeof createCounter>>();
  const gauges = new Map<MetricName, Gauge>();
  const histograms = new Map<MetricName, ReturnType<typeof createHistogram>>();
  const readers = new Map<MetricName, (set: (labels: Labels, value: number) => void) => void>();

  for (const [name, definition] of Object.entries(catalogue) as [MetricName, Definition][]) {
    const { kind, help, labels, together, fromZero } = definition;
    if (kind === 'counter') {
      const add = createCounter(registry, name, definition);
      counters.set(name, add);
      if (fromZero) for (const each of combinations(labels)) add(each, 0);
    } else if (kind === 'histogram') histograms.set(name, createHistogram(registry, name, definition));
    else {
      const labelNames = Object.keys(labels);
      const set = (given: Labels, value: number) => gauge.set(bounded(labels, given), value);
      const gauge: Gauge = new Gauge({
        name,
        help,
        labelNames,
        registers: [registry],
        aggregator: together ?? 'sum',
        collect() {
          const read = readers.get(name);
          if (!read) return;
          forget();
          try {
            read(set);
          } catch {
            forget();
          }
        },
      });
      // `reset` would leave a gauge without labels at 0, which would be a reported value; `remove` leaves it absent.
      const forget = () => (labelNames.length === 0 ? gauge.remove() : gauge.reset());
      gauges.set(name, gauge);
    }
  }

  return {
    add(name, labels, value = 1) {
      if (value > 0) counters.get(name)?.(labels, value);
    },
    observe(name, labels, value) {
      if (Number.isFinite(value)) histograms.get(name)?.(labels, Math.max(0, value));
    },
    set: (name, labels, value) => gauges.get(name)?.set(bounded(catalogue[name].labels, labels), value),
    collect: (name, read) => void readers.set(name, read),
  };
}

/** Returns every combination of label values. */
function combinations(labels: Definition['labels']): Labels[] {
  return Object.entries(labels).reduce<Labels[]>(
    (found, [label, values]) => found.flatMap((each) => values.map((value) => ({ ...each, [label]: value }))),
    [{}],
  );
}

/** Token counts of one turn. `cached` is part of `input`, `reasoning` is part of `output`. */
interface TokenCounts {
  input: number;
  cached: number;
  output: number;
  reasoning: number;
}

const tokenCount = (value: unknown): number =>
  typeof value === 'number' && Number.isFinite(value) && value > 0 ? value : 0;
const object = (value: unknown): Record<string, unknown> => (isFields(value) ? value : {});

/** Reads the provider's `usage`. Missing or non-numeric values count as 0. */
export function tokensOf(usage: unknown): TokenCounts {
  const { input_tokens, input_tokens_details, output_tokens, output_tokens_details } = object(usage);
  return {
    input: tokenCount(input_tokens),
    cached: tokenCount(object(input_tokens_details).cached_tokens),
    output: tokenCount(output_tokens),
    reasoning: tokenCount(object(output_tokens_details).reasoning_tokens),
  };
}

/** Records all metrics of a turn from its log line, the only source, so that log and metrics cannot differ. */
function recordTurn(instruments: Instruments, line: TurnLine): void {
  const { add, observe } = instruments;
  const { outcome, shape, terminal, transport } = line;
  const form = line.form ?? 'none';
  add('holdfast_turns_total', { outcome, shape, terminal });
  add('holdfast_client_turns_total', { transport, terminal });
  add('holdfast_turns_sent_total', { shape, form });
  if (line.fault !== null) add('holdfast_turn_faults_total', { fault: line.fault });
  if (line.heldMs !== null) observe('holdfast_turn_held_milliseconds', { shape }, line.heldMs);
  if (line.firstEventMs !== null) observe('holdfast_turn_first_event_milliseconds', { form }, line.firstEventMs);
  observe('holdfast_turn_total_milliseconds', { terminal }, line.totalMs);
  add('holdfast_turn_client_bytes_total', {}, line.bytesFromClient);
  add('holdfast_turn_upstream_bytes_total', {}, line.bytesSent);
  // A turn that was never sent saved nothing.
  if (line.form !== null) add('holdfast_turn_saved_bytes_total', {}, line.bytesFromClient - line.bytesSent);
  add('holdfast_turn_items_total', { side: 'client' }, line.itemsFromClient);
  add('holdfast_turn_items_total', { side: 'upstream' }, line.itemsSent ?? 0);
  const { input, cached, output, reasoning } = tokensOf(line.tokens);
  add('holdfast_tokens_total', { kind: 'input' }, input);
  add('holdfast_tokens_total', { kind: 'cached' }, cached);
  add('holdfast_tokens_total', { kind: 'output' }, output);
  add('holdfast_tokens_total', { kind: 'reasoning' }, reasoning);
  if (line.tokenIgnored !== null) add('holdfast_turn_state_ignored_total', { reason: line.tokenIgnored });
}

export type ForwardResult = (typeof forwardResults)[number];
type ConnectResult = (typeof connectResults)[number];
export type StoreRead = 'lookup' | 'lineage' | 'read';

/** Values read at each scrape instead of being updated all the time. */
export interface Readings {
  /** Upstream connections open now. */
  sockets?(): number;
  /** Upstream connections that several sessions may share, and the sessions on them. */
  sharedSockets?(): number;
  lanes?(): number;
  /** State names, one per session actor. A dotted name counts for its first part. */
  sessions?(): Iterable<string>;
  /** Requests waiting for their session, over all sessions. */
  queued?(): number;
  turnsInFlight?(): number;
  /** Bytes kept for clients that may reconnect, over all turns. */
  turnBufferBytes?(): number;
  /** Bytes written to clients but not read by them yet. */
  unreadBytes?(): number;
  /** Requests that count against the limits of tenants. */
  requestsInHand?(): number;
  /** Client connections open now. */
  connections?(): number;
  /** WebSockets of clients open now. */
  clientSockets?(): number;
  viewers?(): number;
}

/** Metrics of the bridge, with one function per fact. None of them throws or keeps an id. */
export interface Metrics {
  readonly registry: Registry;
  turnEnded(line: TurnLine): void;
  /**
   * Records one handshake.
   *
   * @param ms duration of the handshake, in milliseconds
   */
  upstreamConnect(result: ConnectResult, ms: number): void;
  /** Counts a connection that could not be established. */
  upstreamFailed(cause: FailureKind): void;
  /** Records one answer to a fence or worker call. `ms` is its duration in milliseconds. */
  storeAnswered(call: string, verdict: string, ms: number): void;
  /** Records one read. `ms` is its duration in milliseconds; `failed` means that the store did not answer in time. */
  storeRead(call: StoreRead, ms: number, failed: boolean): void;
  takeover(lostTurn: boolean): void;
  forwarded(result: ForwardResult): void;
  /**
   * Records a confirmed heartbeat.
   *
   * @param sentAt monotonic time just before the heartbeat was sent, in milliseconds
   */
  heartbeatConfirmed(sentAt: number): void;
  viewerCutOff(): void;
  /** Counts a request that was refused because its tenant was at a limit. */
  refused(limit: TenantLimit): void;
  bufferGivenUp(): void;
  connectionClosed(reason: (typeof closedReasons)[number]): void;
  /** Adds sources for the gauges. */
  watch(readings: Readings): void;
  /** Stops measuring the event loop. */
  stop(): void;
}

interface MetricsOptions {
  clock: Clock;
  /**
   * True to report the metrics of the process as well: memory, CPU, file descriptors, garbage collection. Default true.
   */
  defaults?: boolean;
}

/** Creates metrics in a registry of their own. The event loop is measured until `stop` is called. */
export function createMetrics({ clock, defaults = true }: MetricsOptions): Metrics {
  const registry = new Registry();
  const instruments = createInstruments(registry);
  const { add, observe, set, collect } = instruments;
  if (defaults) collectDefaultMetrics({ register: registry });
  set('holdfast_build_info', { version }, 1);

  const loop = monitorEventLoopDelay({ resolution: 10 });
  loop.enable();
  collect('holdfast_event_loop_lag_milliseconds', (write) => {
    const ms = (nanoseconds: number) => (Number.isFinite(nanoseconds) ? nanoseconds / 1e6 : 0);
    write({ quantile: 'p50' }, ms(loop.percentile(50)));
    write({ quantile: 'p99' }, ms(loop.percentile(99)));
    write({ quantile: 'max' }, loop.count > 0 ? ms(loop.max) : 0);
    loop.reset();
  });

  let confirmedAt: number | null = null;
  collect('holdfast_heartbeat_age_milliseconds', (write) => {
    if (confirmedAt !== null) write({}, Math.max(0, clock.now() - confirmedAt));
  });

  return {
    registry,
    turnEnded: recordTurn.bind(undefined, instruments),
    upstreamConnect(result, ms) {
      add('holdfast_upstream_connects_total', { result });
      observe('holdfast_upstream_connect_milliseconds', { result }, ms);
    },
    upstreamFailed: (cause) => add('holdfast_upstream_failures_total', { cause }),
    storeAnswered(call, verdict, ms) {
      add('holdfast_store_verdicts_total', { call, verdict });
      observe('holdfast_store_call_milliseconds', { call }, ms);
    },
    storeRead(call, ms, failed) {
      observe('holdfast_store_call_milliseconds', { call }, ms);
      if (failed) add('holdfast_store_read_failures_total', { call });
    },
    takeover: (lostTurn) => add('holdfast_takeovers_total', { lost_turn: lostTurn ? 'yes' : 'no' }),
    forwarded: (result) => add('holdfast_forwards_total', { result }),
    heartbeatConfirmed(sentAt) {
      confirmedAt = sentAt;
    },
    viewerCutOff: () => add('holdfast_inspect_cut_off_total', {}),
    refused: (limit) => add('holdfast_tenant_refusals_total', { limit }),
    bufferGivenUp: () => add('holdfast_turn_buffers_given_up_total', {}),
    connectionClosed: (reason) => add('holdfast_connections_closed_total', { reason }),
    watch({ sessions, ...single }) {
      for (const [name, read] of Object.entries(single)) {
        if (read) collect(gaugeOf[name as keyof typeof gaugeOf], (write) => write({}, read()));
      }
      if (sessions) collect('holdfast_sessions', (write) => count(sessions(), write));
    },
    stop: () => void loop.disable(),
  };
}

const gaugeOf = {
  sockets: 'holdfast_upstream_sockets',
  sharedSockets: 'holdfast_upstream_shared_sockets',
  lanes: 'holdfast_upstream_lanes',
  queued: 'holdfast_queue_length',
  turnsInFlight: 'holdfast_turns_in_flight',
  turnBufferBytes: 'holdfast_turn_buffer_bytes',
  unreadBytes: 'holdfast_unread_bytes',
  requestsInHand: 'holdfast_requests_in_hand',
  connections: 'holdfast_connections',
  clientSockets: 'holdfast_client_websockets',
  viewers: 'holdfast_inspect_viewers',
} as const;

/** Writes all states, including those with a count of 0: an alert cannot be defined on a series that disappears. */
function count(states: Iterable<string>, write: (labels: Record<string, string>, value: number) => void): void {
  const counts = new Map(['connecting', 'live', 'reconnecting', 'stale', 'closed'].map((state) => [state, 0]));
  for (const state of states) {
    const top = state.split('.', 1)[0]!;
    counts.set(top, (counts.get(top) ?? 0) + 1);
  }
  for (const [state, value] of counts) write({ state }, value);
}

type Labels = Record<string, string>;

/**
 * Returns the labels as they are recorded: unknown values become `other`, so that they create no series of their own. An
 * empty list of values allows any value; the process then sets only one.
 */
function bounded(allowed: Definition['labels'], labels: Labels): Labels {
  return Object.fromEntries(
    Object.entries(labels).map(([label, value]) => {
      const values = allowed[label];
      return [label, !values || values.length === 0 || values.includes(value) ? value : 'other'];
    }),
  );
}

interface Branch<T> {
  readonly below: Map<string, Branch<T>>;
  /** What is recorded for the values up to here; null above the last label. */
  series: T | null;
}

/** What is recorded for each set of labels of one metric, found without making a key of them. */
class SeriesOf<T> {
  readonly all: T[] = [];
  readonly #allowed: Definition['labels'];
  readonly #names: readonly string[];
  readonly #make: (labels: Labels) => T;
  readonly #root: Branch<T> = { below: new Map(), series: null };

  constructor(allowed: Definition['labels'], make: (labels: Labels) => T) {
    this.#allowed = allowed;
    this.#names = Object.keys(allowed);
    this.#make = make;
  }

  of(labels: Labels): T {
    let at: Branch<T> | undefined = this.#root;
    for (const name of this.#names) {
      at = at.below.get(labels[name]!);
      if (at === undefined) break;
    }
    return at?.series ?? this.#add(bounded(this.#allowed, labels));
  }

  #add(labels: Labels): T {
    let at = this.#root;
    for (const name of this.#names) {
      const value = labels[name]!;
      let next = at.below.get(value);
      if (next === undefined) at.below.set(value, (next = { below: new Map(), series: null }));
      at = next;
    }
    if (at.series === null) this.all.push((at.series = this.#make(labels)));
    return at.series;
  }
}

/** Counts in plain numbers. The library's counter, which takes far longer for each addition, gets them when it is read. */
function createCounter(
  registry: Registry,
  name: string,
  { help, labels }: Pick<Definition, 'help' | 'labels'>,
): (given: Labels, value: number) => void {
  const series = new SeriesOf(labels, (given) => ({ given, pending: 0 }));
  const counter = new Counter({
    name,
    help,
    labelNames: Object.keys(labels),
    registers: [registry],
    collect() {
      for (const each of series.all) {
        counter.inc(each.given, each.pending);
        each.pending = 0;
      }
    },
  });
  return (given, value) => {
    series.of(given).pending += value;
  };
}

/** A histogram in plain numbers, in the form in which the library's registry reads its own. */
function createHistogram(
  registry: Registry,
  name: string,
  { help, labels, buckets = [] }: Pick<Definition, 'help' | 'labels' | 'buckets'>,
): (given: Labels, value: number) => void {
  /** `counts` has one number for each bucket, without the values of smaller buckets, and one for the rest. */
  const series = new SeriesOf(labels, (given) => ({
    given,
    counts: new Array<number>(buckets.length + 1).fill(0),
    sum: 0,
  }));
  const valuesOf = ({ given, counts, sum }: (typeof series.all)[number]) => {
    let below = 0;
    const values: MetricValueWithName<string>[] = counts.map((count, nth) => {
      below += count;
      return { metricName: `${name}_bucket`, labels: { le: buckets[nth] ?? '+Inf', ...given }, value: below };
    });
    values.push({ metricName: `${name}_sum`, labels: given, value: sum });
    values.push({ metricName: `${name}_count`, labels: given, value: below });
    return values;
  };
  const metric = {
    name,
    get: async (): Promise<Omit<MetricObjectWithValues<MetricValueWithName<string>>, 'collect'>> => ({
      name,
      help,
      type: 'histogram' as never,
      values: series.all.flatMap(valuesOf),
      aggregator: 'sum',
    }),
  };
  registry.registerMetric(metric as never);
  return (given, value) => {
    const found = series.of(given);
    const bucket = buckets.findIndex((bound) => value <= bound);
    found.counts[bucket < 0 ? buckets.length : bucket]! += 1;
    found.sum += value;
  };
}
