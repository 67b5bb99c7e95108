import { monitorEventLoopDelay } from 'node:perf_hooks';
import { collectDefaultMetrics, Registry } from 'prom-client';
import type { Clock } from '../../clock.ts';
import type { TenantLimit } from '../../session/quota.ts';
import type { FailureKind } from '../../upstream/unreachable.ts';
import { version } from '../../version.ts';
import type { TurnLine } from '../log.ts';
import type { closedReasons, connectResults, forwardResults } from './catalogue.ts';
import { createInstruments } from './instruments.ts';
import { recordTurn } from './turn.ts';

export type ForwardResult = (typeof forwardResults)[number];
export type ConnectResult = (typeof connectResults)[number];
export type StoreRead = 'lookup' | 'lineage' | 'read';

/** Values read at each scrape instead of being updated all the time. */
export interface Readings {
  /** Upstream connections open now. */
  sockets?(): number;
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

export interface MetricsOptions {
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
    turnEnded: (line) => recordTurn(instruments, line),
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
  queued: 'holdfast_queue_length',
  turnsInFlight: 'holdfast_turns_in_flight',
  turnBufferBytes: 'holdfast_turn_buffer_bytes',
  unreadBytes: 'holdfast_unread_bytes',
  requestsInHand: 'holdfast_requests_in_hand',
  connections: 'holdfast_connections',
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
