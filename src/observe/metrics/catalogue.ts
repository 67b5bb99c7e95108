import { catalogue as faults } from '../../errors.ts';
import { outcomeTable } from '../../resolve/outcomes.ts';
import { tenantLimits } from '../../session/quota.ts';
import { failureKinds } from '../../upstream/port.ts';

/** Definition of one metric. Both the registry and the table in docs/metrics.md are generated from these. */
export interface Definition {
  kind: 'counter' | 'gauge' | 'histogram';
  help: string;
  /** Labels and all their values. Any other value is recorded as `other`. */
  labels: Readonly<Record<string, readonly string[]>>;
  /** Upper bounds of a histogram's buckets. */
  buckets?: readonly number[];
  /**
   * Exports every series from the start with value 0, so that a rate includes the first event, and a missing series
   * indicates a problem.
   */
  fromZero?: true;
  /** Aggregation over several workers that are scraped as one process: their maximum. Default: the sum. */
  together?: 'max';
}

/** Buckets in milliseconds for times that a user waits for. A turn may take minutes. */
const slow = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 1_800_000];
/** Buckets in milliseconds for one round trip to the store or one handshake. */
const quick = [0.5, 1, 2, 3, 5, 8, 12, 20, 35, 60, 100, 250, 500, 1_000, 2_000, 5_000, 10_000];

const shapes = ['fresh', 'full', 'delta'];
const forms = ['delta', 'full', 'none'];
const ends = ['completed', 'incomplete', 'failed', 'cancelled', 'lost'];
const fenceCalls = ['create', 'start', 'settle', 'claim', 'release', 'close'];
const workerCalls = ['register', 'heartbeat', 'declareExpired', 'declareDead'];
const verdicts = [
  ...['ok', 'already', 'row', 'alive', 'dead', 'missing', 'ended', 'busy', 'head_moved', 'key_taken', 'branch'],
  ...['fenced', 'lost_race', 'rejected', 'unknown'],
];

/** Results of forwarding a request to another worker, as this worker observes them. */
export const forwardResults = ['served', 'not_owner', 'unreachable', 'broken', 'client_gone'] as const;
/** Reasons for which the bridge closes a client's connection: too many from its address, or on this worker. */
export const closedReasons = ['peer', 'worker'] as const;
/** Results of a dial. */
export const connectResults = ['opened', 'refused', 'failed'] as const;

const counter = (help: string, labels: Definition['labels'] = {}): Definition => ({ kind: 'counter', help, labels });
const gauge = (help: string, labels: Definition['labels'] = {}): Definition => ({ kind: 'gauge', help, labels });
const fromZero = (definition: Definition): Definition => ({ ...definition, fromZero: true });
const greatest = (definition: Definition): Definition => ({ ...definition, together: 'max' });
const histogram = (help: string, buckets: readonly number[], labels: Definition['labels'] = {}): Definition => ({
  kind: 'histogram',
  help,
  buckets,
  labels,
});

/** All metrics of the bridge. Their names are part of the API. No label ever contains an id. */
export const catalogue = {
  holdfast_build_info: greatest(gauge('Always 1; the version is in its label.', { version: [] })),

  holdfast_turns_total: counter(
    'Turns ended, by how the request was placed, how it ended and how its client was connected.',
    {
      outcome: outcomeTable().map(({ outcome }) => outcome),
      shape: shapes,
      terminal: ends,
    },
  ),
  holdfast_client_turns_total: counter('Turns ended, by how the client was connected and how they ended.', {
    transport: ['http', 'websocket'],
    terminal: ends,
  }),
  holdfast_turns_sent_total: counter(
    'Turns by the form in which their context went upstream; none: nothing was sent.',
    {
      shape: shapes,
      form: forms,
    },
  ),
  holdfast_turn_faults_total: counter('Turns the bridge itself ended or refused, by its reason.', {
    fault: Object.keys(faults),
  }),
  holdfast_turn_held_milliseconds: histogram('Time from reading the request to sending its frame.', slow, {
    shape: shapes,
  }),
  holdfast_turn_first_event_milliseconds: histogram(
    'Time from reading the request to the first upstream event.',
    slow,
    {
      form: forms,
    },
  ),
  holdfast_turn_total_milliseconds: histogram('Time from reading the request to its terminal event.', slow, {
    terminal: ends,
  }),
  holdfast_turn_client_bytes_total: counter('Bytes of request bodies received from clients.'),
  holdfast_turn_upstream_bytes_total: counter('Bytes of frames sent upstream.'),
  holdfast_turn_saved_bytes_total: counter('Bytes received from clients that deltas saved on the upstream link.'),
  holdfast_turn_items_total: counter('Input items, as clients sent them and as they went upstream.', {
    side: ['client', 'upstream'],
  }),
  holdfast_tokens_total: counter("Tokens from the provider's usage; cached is part of input, reasoning of output.", {
    kind: ['input', 'cached', 'output', 'reasoning'],
  }),
  holdfast_turn_state_ignored_total: counter('Turn-state tokens that were ignored, by reason.', {
    reason: ['foreign', 'unknown_key', 'other_version', 'other_credential', 'expired'],
  }),

  holdfast_upstream_connects_total: counter('Upstream handshakes by result.', { result: connectResults }),
  holdfast_upstream_connect_milliseconds: histogram('One upstream handshake.', quick, { result: connectResults }),
  holdfast_upstream_failures_total: fromZero(
    counter('Failed connections to the upstream, by cause; http_*: it answered instead of upgrading.', {
      cause: failureKinds,
    }),
  ),
  holdfast_upstream_sockets: gauge('Upstream connections open now.'),
  holdfast_upstream_shared_sockets: gauge('Upstream connections open now that several sessions may share.'),
  holdfast_upstream_lanes: gauge('Sessions that use a shared upstream connection now.'),
  holdfast_sessions: gauge('Sessions with an actor on this worker, by state.', {
    state: ['connecting', 'live', 'reconnecting', 'stale', 'closed'],
  }),
  holdfast_queue_length: gauge('Requests waiting for a session to be free.'),
  holdfast_turns_in_flight: gauge('Turns whose clients are still waiting.'),
  holdfast_turn_buffer_bytes: gauge('Bytes of events kept for clients that may reconnect.'),
  holdfast_unread_bytes: gauge('Bytes of events written to clients that have not read them yet.'),
  holdfast_turn_buffers_given_up_total: counter(
    'Turns whose event buffer was dropped because all buffers together were too large.',
  ),

  holdfast_requests_in_hand: gauge('Requests that count against the limits of tenants now.'),
  holdfast_tenant_refusals_total: counter('Requests refused because their tenant was at a limit, by limit.', {
    limit: tenantLimits,
  }),
  holdfast_connections: gauge('Client connections open now.'),
  holdfast_client_websockets: gauge('WebSockets of clients open now; each is one of the client connections.'),
  holdfast_connections_closed_total: counter(
    'Client connections without an authenticated request that were closed to make room, by whose limit.',
    { reason: closedReasons },
  ),

  holdfast_store_verdicts_total: counter('Answers of the store, by call; unknown: it did not answer in time.', {
    call: [...fenceCalls, ...workerCalls],
    verdict: verdicts,
  }),
  holdfast_store_call_milliseconds: histogram('One call to the store, commits included.', quick, {
    call: [...fenceCalls, ...workerCalls, 'lookup', 'lineage', 'read'],
  }),
  holdfast_store_read_failures_total: counter('Reads the store did not answer in time.', {
    call: ['lookup', 'lineage', 'read'],
  }),
  holdfast_takeovers_total: counter('Sessions claimed, by whether the former owner left a turn behind.', {
    lost_turn: ['yes', 'no'],
  }),
  holdfast_forwards_total: counter('Requests proxied to the worker that owns the session, by result.', {
    result: forwardResults,
  }),

  holdfast_heartbeat_age_milliseconds: greatest(
    gauge(
      'Time since the last confirmed heartbeat was sent; at the self-fence deadline the worker starts no more turns.',
    ),
  ),
  holdfast_event_loop_lag_milliseconds: greatest(
    gauge('Delay of the event loop since the last scrape.', { quantile: ['p50', 'p99', 'max'] }),
  ),
  holdfast_inspect_viewers: gauge('Inspector viewers connected now.'),
  holdfast_inspect_cut_off_total: counter('Viewers cut off because they read too slowly.'),
} satisfies Record<string, Definition>;

export type MetricName = keyof typeof catalogue;
