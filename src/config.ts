import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { hostAndPort } from './headers.ts';
import { LONGEST_TIMER } from './system.ts';
import { InvalidSecrets, parseSecrets } from './token/keyring.ts';
import { type PassFamily, passFamilies } from './upstream/families.ts';
import { isForwardable } from './upstream/headers.ts';
import { MOST_NAMED } from './upstream/lanes.ts';
import { type ProxySettings, readProxies } from './upstream/proxies.ts';

/** Numeric setting: environment variable, default and meaning. The table in docs/settings.md is generated from these. */
interface Knob {
  variable: string;
  default: number;
  unit: 'ms' | 'bytes' | 'count';
  description: string;
}

const ms = (variable: string, value: number, description: string): Knob => ({
  variable: `HOLDFAST_${variable}_MS`,
  default: value,
  unit: 'ms',
  description,
});
const bytes = (variable: string, value: number, description: string): Knob => ({
  variable: `HOLDFAST_${variable}_BYTES`,
  default: value,
  unit: 'bytes',
  description,
});
const count = (variable: string, value: number, description: string): Knob => ({
  variable: `HOLDFAST_${variable}`,
  default: value,
  unit: 'count',
  description,
});

/**
 * Every timeout that can be set, by its name. The names are API. A machine declares a deadline under the same name; one
 * whose length is computed, such as `age` or `redial`, is not in this list.
 */
export const deadlineKnobs = {
  connect: ms('CONNECT', 10_000, 'Timeout of an upstream handshake, all attempts together.'),
  upgrade: ms(
    'UPGRADE',
    3_000,
    'Timeout of one WebSocket handshake, before the turn goes over HTTP; `auto` only, and at most half of CONNECT.',
  ),
  ping: ms('PING', 25_000, 'Ping interval of a silent WebSocket, to the upstream or to a client; 0 sends none.'),
  pong: ms('PONG', 5_000, 'Time to answer a ping before it counts as missed.'),
  firstEvent: ms('FIRST_EVENT', 60_000, 'Timeout from the frame to the first upstream event that is not telemetry.'),
  silence: ms('STREAM_SILENCE', 270_000, 'Longest silence between two upstream events; the timeout of Codex is 300 s.'),
  turnBudget: ms('TURN_BUDGET', 7_200_000, 'Longest duration of a turn.'),
  keepalive: ms('KEEPALIVE', 15_000, 'Interval of SSE comments to a waiting client.'),
  grace: ms('DISCONNECT_GRACE', 15_000, 'Time without a client before a running turn is cancelled.'),
  idle: ms('IDLE_SOCKET', 900_000, 'Idle timeout of the socket of a session reached by hard evidence.'),
  laneIdle: ms('LANE_IDLE', 600_000, 'Idle timeout of the socket of a session made beside a busy one.'),
  softIdle: ms('SOFT_IDLE', 60_000, 'Idle timeout of the socket of a session without hard evidence.'),
  socketAge: ms('SOCKET_AGE', 3_000_000, 'Age at which an idle socket is rotated.'),
  socketAgeJitter: ms('SOCKET_AGE_JITTER', 120_000, 'Random spread of that age, in both directions.'),
  onlyHolderAge: ms('ONLY_HOLDER_AGE', 3_480_000, 'The same for a socket that alone holds its conversation.'),
  statusHold: ms(
    'STATUS_HOLD',
    2_000,
    'Time for which the HTTP status waits for the first event after the frame was sent.',
  ),
  slowClient: ms(
    'SLOW_CLIENT',
    60_000,
    'Time before a client that does not read is disconnected; 15 s once it is a whole turn buffer behind a WebSocket.',
  ),
  clientIdle: ms('CLIENT_IDLE', 1_800_000, "Time without a turn after which a client's WebSocket is closed."),
  clientAge: ms(
    'CLIENT_AGE',
    3_000_000,
    "Age at which a client's WebSocket is closed at its next idle moment; 10 minutes later it accepts no turn.",
  ),
  requestHold: ms(
    'REQUEST_HOLD',
    30_000,
    'Time limit for all steps before the frame is sent, together; four times as long for a turn on a WebSocket of a client.',
  ),
  startWait: ms('START_WAIT', 5_000, 'Wait for an unanswered start before the client gets 503.'),
  settleWait: ms(
    'SETTLE_WAIT',
    1_000,
    'Wait for an unanswered settle before the client gets its terminal event anyway.',
  ),
  ownerWait: ms('OWNER_WAIT', 15_000, 'Wait for a silent owner to answer or to be declared dead, before 409.'),
  ownerPoll: ms('OWNER_POLL', 1_000, 'Longest pause between two checks of an owner during that wait.'),
  storeStatement: ms('STORE_STATEMENT', 2_000, 'Timeout of one call to the database, which then counts as unanswered.'),
  storeStart: ms(
    'STORE_START',
    60_000,
    'Time for which an unreachable database is retried at start, before the start fails.',
  ),
  heartbeat: ms('HEARTBEAT', 3_000, 'Heartbeat interval of a worker.'),
  lease: ms('LEASE', 10_000, 'Duration of the lease that a heartbeat renews, by the database clock.'),
  selfFence: ms(
    'SELF_FENCE',
    8_000,
    'Time since the last confirmed heartbeat was sent after which a worker starts nothing more.',
  ),
  leaseMargin: ms('LEASE_MARGIN', 2_000, 'Lease that must remain for a frame to be sent.'),
  advertise: ms(
    'ADVERTISE',
    5_000,
    "Time at start for a worker's announced address to answer with its own id, before the start fails.",
  ),
  drain: ms('DRAIN', 30_000, 'Time for running turns at shutdown before they are cancelled.'),
  janitor: ms('JANITOR', 600_000, 'Interval of the janitor, which removes unused rows.'),
  lameDuck: ms('LAME_DUCK', 5_000, 'Time between "not ready" and the end of admission at shutdown.'),
  forwardConnect: ms(
    'FORWARD_CONNECT',
    150,
    'Timeout of a connection to another worker, before its state is looked up in the database.',
  ),
  forwardAccepted: ms(
    'FORWARD_ACCEPTED',
    500,
    'Timeout until that worker confirms that it accepted the request, before the same look-up.',
  ),
  hook: ms('HOOK', 5_000, 'Time for a hook of the embedding application to answer, before its request is refused.'),
  forwardSilence: ms(
    'FORWARD_SILENCE',
    10_000,
    'Longest silence of a worker that accepted the request, before the same look-up.',
  ),
} satisfies Record<string, Knob>;

export const limitKnobs = {
  queueLength: count('QUEUE_LENGTH', 8, 'Requests that may wait for one session.'),
  sockets: count(
    'MAX_SOCKETS',
    10_000,
    'Upstream sockets of one worker; idle ones are evicted first, busy ones never.',
  ),
  frameBytes: bytes(
    'MAX_FRAME',
    16_777_216,
    'Largest frame to or from the upstream; a larger request goes over plain HTTP.',
  ),
  bodyBytes: bytes('MAX_BODY', 33_554_432, 'Largest request body, decompressed.'),
  passBytes: bytes(
    'MAX_PASS',
    536_870_912,
    'Largest body of a call that is passed on as a stream, such as an upload. It is not held in memory.',
  ),
  bodiesBytes: bytes(
    'BODIES',
    268_435_456,
    'Request bodies held at the same time, decompressed; a request beyond it gets 503 before its body is read.',
  ),
  turnBufferBytes: bytes('TURN_BUFFER', 8_388_608, 'Events of one turn kept for a client that reconnects.'),
  transcriptBytes: bytes(
    'MAX_TRANSCRIPT',
    67_108_864,
    'Items of one conversation that one worker stores at once; beyond it they are not stored, and only its socket or the provider can continue it.',
  ),
  retentionHours: count('RETENTION_HOURS', 24, 'Hours for which unused sessions and turns are kept.'),
  recordedEvents: count('RECORDED_EVENTS', 64, 'Machine events recorded per session, for its trace.'),
  inspectViewers: count('INSPECT_VIEWERS', 8, 'Viewers of the inspector at the same time.'),
  inspectSessions: count('INSPECT_SESSIONS', 50, 'Sessions of a sample shown to one viewer at the same time.'),
  inspectBufferBytes: bytes('INSPECT_BUFFER', 8_388_608, 'Data queued for one viewer before it is disconnected.'),
  poolSize: count('POOL_SIZE', 10, 'Database connections of one worker, plus one for its heartbeat.'),
  tenantSockets: count(
    'TENANT_SOCKETS',
    0,
    'Upstream sockets of one tenant on one worker; at the limit its own idle ones are evicted. 0: no limit of its own.',
  ),
  tenantTurns: count('TENANT_TURNS', 0, 'Concurrent turns of one tenant on one worker. 0: no limit of its own.'),
  tenantWaiting: count('TENANT_WAITING', 2_000, 'Requests of one tenant held by one worker without a running turn.'),
  tenantBodyBytes: bytes(
    'TENANT_BODIES',
    0,
    'Request bodies of one tenant held by one worker, until their turns end; at least one of MAX_BODY. 0: no limit of its own.',
  ),
  tenantRequests: count(
    'TENANT_REQUESTS_PER_MINUTE',
    0,
    'Requests per minute that one worker accepts from one tenant, possibly all at once. 0: no limit.',
  ),
  turnBuffersBytes: bytes(
    'TURN_BUFFERS',
    536_870_912,
    'Events of all turns of one worker kept for clients that reconnect; beyond it the largest buffer is dropped.',
  ),
  connections: count(
    'MAX_CONNECTIONS',
    16_384,
    'Client connections of one worker; some are reserved for health, admin and new clients.',
  ),
  peerConnections: count(
    'PEER_CONNECTIONS',
    8_192,
    'Connections from one address (IPv6: one /64) without an authenticated request in flight; beyond it the oldest is closed.',
  ),
} satisfies Record<string, Knob>;

type Values<T> = { readonly [K in keyof T]: number };

/** The validated configuration. Times are in milliseconds unless a name states another unit. */
export interface Config {
  server: {
    host: string;
    port: number;
    /** Names accepted in `Host` beside this machine's own, `name` or `name:port` in lower case; `*` for any. */
    publicHosts: readonly string[];
    /** Origins of pages that may use `/v1`, in lower case; `*` for any. */
    corsOrigins: readonly string[];
  };
  databaseUrl: string | null;
  /** Schema of the tables; null: the one that holds them, else `holdfast`. */
  databaseSchema: string | null;
  dataDir: string;
  /** Directory of the liveness sockets, when all workers share one machine and an external database. */
  livenessDir: string | null;
  /** Number of processes behind one port. */
  workers: number;
  upstream: {
    /** Base URL of the API: no endpoint, no trailing slash, always http(s). */
    url: string;
    key: string | null;
    transport: 'auto' | 'websocket' | 'http';
    /** False: no request sends `previous_response_id`. */
    anchors: boolean;
    proxies: ProxySettings;
    /** Further client headers to pass upstream, names in lower case. */
    forwardHeaders: readonly string[];
    /** Families of calls that are passed on, beside those of the Responses API. */
    pass: readonly PassFamily[];
    /** Most conversations of one scope on one WebSocket; 0: each has its own. */
    lanes: number;
  };
  security: {
    /** `kid:secret,...`; null: generated and stored in the data directory. */
    secrets: string | null;
    apiKeys: readonly { tenant: string; key: string }[];
    adminToken: string | null;
    /** The embedding application tells clients apart, with its hook `authenticate`. */
    byHook: boolean;
  };
  /**
   * Listener for other workers. `host` null: chosen by `internalHost`; `advertiseUrl` null: derived from the listening
   * address.
   */
  internal: { host: string | null; port: number; advertiseUrl: string | null };
  /** Viewer that `/inspect` frames, and whether it gets more than the harmless fields. */
  inspect: { url: string; content: boolean };
  /** Prices per million tokens by model; `*` for all others. */
  prices: ReadonlyMap<string, { input: number; cached: number }>;
  instancePolicy: 'forward' | 'reject';
  logLevel: string;
  /** Traces and metrics of OpenTelemetry; `auto`: if the environment or the application asks for them. */
  otel: 'auto' | 'on' | 'off';
  deadlines: Values<typeof deadlineKnobs>;
  limits: Values<typeof limitKnobs>;
}

const transports = ['auto', 'websocket', 'http'] as const;
const policies = ['forward', 'reject'] as const;
const telemetry = ['auto', 'on', 'off'] as const;
const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;

/** How a setting is written as an option of `createBridge`: its type there, or the words that it may be. */
export type OptionKind = 'text' | 'number' | 'list' | 'keys' | 'proxy' | 'switch' | readonly string[];

/** Setting that is not a number. */
interface Setting {
  variable: string;
  /** Path in the options of `createBridge`. */
  option: string;
  as: OptionKind;
  default: string;
  description: string;
  /**
   * The value must not be shown. It may also come from the file that the variable with the suffix `_FILE` names. `list`: an
   * entry may stand on a line of its own there.
   */
  secret?: 'one' | 'list';
}

/** Settings other than deadlines and limits. */
export const settings: readonly Setting[] = [
  { variable: 'HOST', option: 'server.host', as: 'text', default: '127.0.0.1', description: 'Address to serve on.' },
  {
    variable: 'PORT',
    option: 'server.port',
    as: 'number',
    default: '8787',
    description: 'Port to serve on; 0 takes a free one.',
  },
  {
    variable: 'HOLDFAST_PUBLIC_HOSTS',
    option: 'server.publicHosts',
    as: 'list',
    default: 'none',
    description:
      'Names under which clients reach the bridge beside its own addresses, `name` or `name:port,...`; `*` takes any `Host`.',
  },
  {
    variable: 'HOLDFAST_CORS_ORIGINS',
    option: 'server.corsOrigins',
    as: 'list',
    default: 'none',
    description: 'Origins of web pages that may use `/v1`, `https://name,...`; `*` for any. All others get 403.',
  },
  {
    variable: 'DATABASE_URL',
    option: 'database.url',
    as: 'text',
    secret: 'one',
    default: 'embedded',
    description: 'A PostgreSQL of 15 or newer, shared by any number of workers.',
  },
  {
    variable: 'HOLDFAST_DB_SCHEMA',
    option: 'database.schema',
    as: 'text',
    default: 'found, else holdfast',
    description:
      "Schema of Holdfast's tables. Default: the schema of an earlier start, found by the user's `search_path`; in a database without one a schema `holdfast`, which is created.",
  },
  {
    variable: 'HOLDFAST_DATA_DIR',
    option: 'database.dataDir',
    as: 'text',
    default: '.holdfast',
    description: 'Directory of the embedded database and its secrets.',
  },
  {
    variable: 'HOLDFAST_WORKERS',
    option: 'workers',
    as: 'number',
    default: '1',
    description: 'Worker processes behind one port, kept running by a supervisor (`--workers N`).',
  },
  {
    variable: 'HOLDFAST_LIVENESS_DIR',
    option: 'database.livenessDir',
    as: 'text',
    default: 'none',
    description:
      'Directory of liveness sockets, for workers of an external database that all share one machine: a death is then detected at once.',
  },
  {
    variable: 'HOLDFAST_UPSTREAM_URL',
    option: 'upstream.url',
    as: 'text',
    default: 'https://api.openai.com/v1',
    description: 'The Responses API behind the bridge: its base, or its `/responses` endpoint.',
  },
  {
    variable: 'HOLDFAST_UPSTREAM_KEY',
    option: 'upstream.key',
    as: 'text',
    secret: 'one',
    default: 'none',
    description: "Shared upstream key; without it the client's Authorization is passed through.",
  },
  {
    variable: 'HOLDFAST_UPSTREAM_TRANSPORT',
    option: 'upstream.transport',
    as: transports,
    default: 'auto',
    description: '`auto` (WebSocket, else HTTP), `websocket` or `http`.',
  },
  {
    variable: 'HOLDFAST_UPSTREAM_ANCHORS',
    option: 'upstream.anchors',
    as: 'switch',
    default: 'on',
    description:
      '`off` for an upstream that ignores `previous_response_id` and does not show it: it gets whole conversations.',
  },
  {
    variable: 'HTTP_PROXY',
    option: 'upstream.httpProxy',
    as: 'proxy',
    default: 'none',
    description: 'Proxy for an upstream at an `http` address, for WebSockets too. Lower case wins.',
  },
  {
    variable: 'HTTPS_PROXY',
    option: 'upstream.httpsProxy',
    as: 'proxy',
    default: 'none',
    description: 'The same for an upstream at an `https` address.',
  },
  {
    variable: 'NO_PROXY',
    option: 'upstream.noProxy',
    as: 'list',
    default: 'none',
    description: 'Hosts, domains, `host:port`, addresses, ranges or `*` that are reached directly.',
  },
  {
    variable: 'HOLDFAST_FORWARD_HEADERS',
    option: 'upstream.forwardHeaders',
    as: 'list',
    default: 'none',
    description: 'Further request headers that go upstream, `name,...`, beside those of OpenAI and Codex.',
  },
  {
    variable: 'HOLDFAST_PASS',
    option: 'upstream.pass',
    as: 'list',
    default: 'all',
    description:
      'Families of calls that are passed on beside the Responses API, `chat,embeddings,files,...`; empty or `none`: none.',
  },
  {
    variable: 'HOLDFAST_UPSTREAM_LANES',
    option: 'upstream.lanes',
    as: 'number',
    default: '0',
    description:
      'Conversations of one tenant or credential that share an upstream WebSocket, at most 32; 0: each has its own. Needs an upstream that knows `stream_id`.',
  },
  {
    variable: 'HOLDFAST_SECRETS',
    option: 'auth.secrets',
    as: 'list',
    secret: 'list',
    default: 'generated',
    description:
      'Secrets that sign turn-state tokens and calls between workers, `kid:secret,...`: the first signs, all verify. Required with DATABASE_URL.',
  },
  {
    variable: 'HOLDFAST_API_KEYS',
    option: 'auth.apiKeys',
    as: 'keys',
    secret: 'list',
    default: 'off',
    description: '`tenant:key,...`; needs HOLDFAST_UPSTREAM_KEY. Required when HOST is not loopback.',
  },
  {
    variable: 'HOLDFAST_ADMIN_TOKEN',
    option: 'auth.adminToken',
    as: 'text',
    secret: 'one',
    default: 'generated',
    description:
      'Admin token. With HOLDFAST_API_KEYS or HOLDFAST_UPSTREAM_KEY one is generated when none is set; without those, admin paths answer on loopback only.',
  },
  {
    variable: 'HOLDFAST_INTERNAL_HOST',
    option: 'internal.host',
    as: 'text',
    default: 'derived',
    description:
      'Address on which other workers reach this one. Default: loopback, or with a database on another machine its only private address; never a public one.',
  },
  {
    variable: 'HOLDFAST_INTERNAL_PORT',
    option: 'internal.port',
    as: 'number',
    default: '0',
    description: 'Port of that address; 0 takes a free one.',
  },
  {
    variable: 'HOLDFAST_ADVERTISE_URL',
    option: 'internal.advertiseUrl',
    as: 'text',
    default: 'derived',
    description:
      'URL under which other workers reach that address, `http://address:port`; it must lead to this very worker.',
  },
  {
    variable: 'HOLDFAST_INSTANCE_POLICY',
    option: 'instancePolicy',
    as: policies,
    default: 'forward',
    description: '`forward` or `reject` a request whose session another worker owns.',
  },
  {
    variable: 'HOLDFAST_INSPECT_URL',
    option: 'inspector.url',
    as: 'text',
    default: 'https://stately.ai/inspect',
    description: 'The viewer that `/inspect/stately` frames and feeds with machine events.',
  },
  {
    variable: 'HOLDFAST_INSPECT_CONTENT',
    option: 'inspector.content',
    as: 'switch',
    default: 'off',
    description: '`on` shows viewers of `/inspect` whole events and contexts instead of the harmless fields.',
  },
  {
    variable: 'HOLDFAST_PRICES',
    option: 'prices',
    as: 'list',
    default: 'none',
    description:
      'Prices of input tokens by model, `model=full/cached,...` per million, `*` for all others: the overview then shows what cached tokens saved.',
  },
  {
    variable: 'HOLDFAST_LOG_LEVEL',
    option: 'logLevel',
    as: logLevels,
    default: 'info',
    description: '`trace` to `fatal`, or `silent`.',
  },
  {
    variable: 'HOLDFAST_OTEL',
    option: 'otel',
    as: telemetry,
    default: 'auto',
    description:
      'OpenTelemetry: `on`, `off`, or `auto`: on with OTEL_EXPORTER_OTLP_ENDPOINT, or where an embedding application has registered a tracer provider.',
  },
];

/** Every variable that is a setting of its own, with its default as text. */
export const allSettings: readonly Omit<Setting, 'option' | 'as'>[] = [
  ...settings,
  ...[...Object.values(deadlineKnobs), ...Object.values(limitKnobs)].map(({ default: value, ...knob }) => ({
    ...knob,
    default: String(value),
  })),
];

/** Suffix of the variable that names the file of a secret setting, as Docker and Kubernetes mount secrets. */
export const FILE_SUFFIX = '_FILE';

/** Most bytes of such a file. */
const LARGEST_FILE = 65_536;

/** The configuration is invalid. The message lists every problem and contains no secret. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  /** One sentence for each problem. */
  readonly problems: readonly string[];

  constructor(message: string, problems: readonly string[] = [message]) {
    super(message);
    this.problems = problems;
  }
}

const optional = (value: string | undefined) => (value === undefined || value.trim() === '' ? null : value.trim());
/** Returns whether an address means this machine and nothing else. */
export const isLoopback = (host: string) => host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);

/** Removes the quotes around a value that was pasted with them. */
const unquoted = (text: string) => /^(["'`])(.*)\1$/s.exec(text)?.[2]?.trim() ?? text;

/** Returns the base URL of a pasted address: the full endpoint and the WebSocket address mean the same place. */
function upstreamBase(text: string): string {
  const url = URL.parse(unquoted(text).replace(/^ws(s?):\/\//i, 'http$1://'));
  if (url === null) return text;
  url.pathname = url.pathname
    .replace(/\/+$/, '')
    .replace(/\/responses$/, '')
    .replace(/\/+$/, '');
  url.hash = '';
  return url.href.replace(/\/(?=$|\?)/, '');
}

/** Returns whether a client can send the key as a bearer token. Any other key would never match. */
export const isSendable = (key: string) => /^[\x21-\x7e]+$/.test(key);

/** Returns the bare key of a pasted value: the value of the header, or the whole line, mean the same key. */
function upstreamKeyOf(text: string | null, problems: string[]): string | null {
  if (text === null) return null;
  const key = unquoted(
    unquoted(text)
      .replace(/^authorization *: */i, '')
      .replace(/^bearer +/i, ''),
  );
  if (!isSendable(key)) {
    problems.push('HOLDFAST_UPSTREAM_KEY must be one key, without blanks or line breaks in it');
  }
  return key;
}

/** Returns the base URL of an upstream; null for text that is none. */
export function upstreamUrlOf(text: string): string | null {
  const parsed = strings.shape.upstreamUrl.safeParse(upstreamBase(text.trim()));
  return parsed.success ? parsed.data : null;
}

function isOrigin(text: string): boolean {
  const url = URL.parse(text);
  return url !== null && /^https?:$/.test(url.protocol) && text.replace(/\/$/, '').toLowerCase() === url.origin;
}

/** Most processes behind one port. */
export const MOST_WORKERS = 256;

/** Returns the schema of a whole number, whose only message names the variable and the range. */
function whole(variable: string, min: number, max: number) {
  const error = `${variable} must be a whole number from ${min} to ${max}`;
  return z
    .string()
    .regex(/^[+-]?\d+(?:\.0+)?$/, error)
    .transform(Number)
    .refine((value) => value >= min && value <= max, error);
}

const strings = z.object({
  host: z.string().regex(/^[^\s/\\[\]]+$/, 'HOST must be an address or a name, without a scheme, path or brackets'),
  port: whole('PORT', 0, 65_535),
  upstreamUrl: z
    .url({ protocol: /^https?$/, error: 'HOLDFAST_UPSTREAM_URL must be an http(s) URL' })
    .refine(
      (url) => !/\/(?:completions|models|embeddings)$/.test(URL.parse(url)?.pathname ?? ''),
      'HOLDFAST_UPSTREAM_URL names an endpoint of another kind: give the base of the Responses API, https://host/v1',
    ),
  transport: z.enum(transports, 'HOLDFAST_UPSTREAM_TRANSPORT must be auto, websocket or http'),
  anchors: z.enum(['on', 'off'], 'HOLDFAST_UPSTREAM_ANCHORS must be on or off'),
  workers: whole('HOLDFAST_WORKERS', 1, MOST_WORKERS),
  lanes: whole('HOLDFAST_UPSTREAM_LANES', 0, MOST_NAMED),
  logLevel: z.enum(logLevels, 'HOLDFAST_LOG_LEVEL must be trace, debug, info, warn, error, fatal or silent'),
  otel: z.enum(telemetry, 'HOLDFAST_OTEL must be auto, on or off'),
  internalPort: whole('HOLDFAST_INTERNAL_PORT', 0, 65_535),
  advertiseUrl: z
    .string()
    .refine(isOrigin, 'HOLDFAST_ADVERTISE_URL must be of the form http://address:port and nothing more')
    .nullable(),
  inspectUrl: z.url({ protocol: /^https?$/, error: 'HOLDFAST_INSPECT_URL must be an http(s) URL' }),
  inspectContent: z.enum(['on', 'off'], 'HOLDFAST_INSPECT_CONTENT must be on or off'),
  policy: z.enum(policies, 'HOLDFAST_INSTANCE_POLICY must be forward or reject'),
});

function numbers<T extends Record<string, Knob>>(knobs: T, env: NodeJS.ProcessEnv, problems: string[]): Values<T> {
  const values: Record<string, number> = {};
  for (const [name, knob] of Object.entries(knobs)) {
    const text = optional(env[knob.variable]);
    const value = text === null ? knob.default : Number(text);
    if (!Number.isSafeInteger(value) || value < 0)
      problems.push(`${knob.variable} must be a whole number of ${knob.unit}`);
    else if (knob.unit === 'ms' && value > LONGEST_TIMER)
      problems.push(`${knob.variable} must be at most ${LONGEST_TIMER} ms`);
    values[name] = value;
  }
  return values as Values<T>;
}

function apiKeys(text: string | null, problems: string[]): { tenant: string; key: string }[] {
  if (text === null) return [];
  const tenants = new Map<string, string>();
  return text.split(',').map((entry, index) => {
    const at = entry.indexOf(':');
    const tenant = entry.slice(0, Math.max(0, at)).trim();
    const key = entry.slice(at + 1).trim();
    if (tenant === '' || key === '')
      problems.push(`HOLDFAST_API_KEYS: entry ${index + 1} is not of the form tenant:key`);
    else if (!isSendable(key))
      problems.push(`HOLDFAST_API_KEYS: the key of entry ${index + 1} must be ASCII without blanks in it`);
    else if ((tenants.get(key) ?? tenant) !== tenant)
      problems.push(`HOLDFAST_API_KEYS: entry ${index + 1} has the key of another tenant`);
    tenants.set(key, tenant);
    return { tenant, key };
  });
}

function headerNames(text: string | null, problems: string[]): string[] {
  const names = (text ?? '').split(',').map((name) => name.trim().toLowerCase());
  return [...new Set(names)].filter((name) => {
    if (name !== '' && !isForwardable(name))
      problems.push(`HOLDFAST_FORWARD_HEADERS: ${JSON.stringify(name.slice(0, 64))} cannot be sent upstream`);
    return name !== '';
  });
}

/** Parses the families of calls that are passed on. An empty value means none, and an absent one all. */
function families(text: string | undefined, problems: string[]): readonly PassFamily[] {
  if (text === undefined || text.trim() === 'all') return passFamilies;
  const names = text.split(',').map((name) => name.trim().toLowerCase());
  for (const name of names) {
    if (name === '' || name === 'none' || passFamilies.some((family) => family === name)) continue;
    problems.push(`HOLDFAST_PASS: ${JSON.stringify(name.slice(0, 64))} is not one of ${passFamilies.join(', ')}`);
  }
  return passFamilies.filter((family) => names.includes(family));
}

/** Parses a comma-separated list to lower case; empty entries are ignored. */
function list(
  text: string | undefined,
  isValid: (entry: string) => boolean,
  problems: string[],
  problem: (position: number) => string,
): string[] {
  const entries = (text ?? '').split(',').map((entry) => entry.trim().toLowerCase());
  return entries.filter((entry, index) => {
    if (entry !== '' && !isValid(entry)) problems.push(problem(index + 1));
    return entry !== '';
  });
}

/** Reads `model=full/cached,...`. */
function readPrices(text: string | null, problems: string[]): Map<string, { input: number; cached: number }> {
  const prices = new Map<string, { input: number; cached: number }>();
  for (const [index, entry] of (text?.split(',') ?? []).entries()) {
    const parts = /^\s*([^=\s]+)\s*=\s*(\d+(?:\.\d+)?)\/(\d+(?:\.\d+)?)\s*$/.exec(entry);
    if (parts) prices.set(parts[1]!, { input: Number(parts[2]), cached: Number(parts[3]) });
    else
      problems.push(
        `HOLDFAST_PRICES: entry ${index + 1} is not of the form model=full/cached, as in gpt-5.5=1.25/0.125`,
      );
  }
  return prices;
}

const isHostName = (entry: string) => entry === '*' || hostAndPort(entry) !== null;
const isPageOrigin = (entry: string) => entry === '*' || /^[a-z][a-z0-9+.-]*:\/\/[^\s/?#@]+$/.test(entry);

/** Matches variables that Kubernetes derives from a service's name, which may start like a setting. */
const ofKubernetes = (name: string, value: string) =>
  /_SERVICE_(?:HOST|PORT(?:_\w+)?)$|_PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?$/.test(name) ||
  (name.endsWith('_PORT') && /^(?:tcp|udp|sctp):\/\//.test(value));

/** Returns the edit distance between two names, in single characters. */
export function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}

/** Variable of the environment that looks like a setting and is none. */
interface UnknownSetting {
  name: string;
  /** The setting with the most similar name; null when none is similar. */
  closest: string | null;
}

/** Returns the unknown variables: a misspelled setting would silently keep its default. */
export function unknownSettings(env: NodeJS.ProcessEnv): UnknownSetting[] {
  const known = allSettings.flatMap(({ variable, secret }) =>
    secret === undefined ? [variable] : [variable, variable + FILE_SUFFIX],
  );
  return Object.entries(env).flatMap(([name, value]) => {
    if (value === undefined || !name.startsWith('HOLDFAST_')) return [];
    if (known.includes(name) || ofKubernetes(name, value)) return [];
    const given = name.slice(0, 80);
    const away = (each: string) => (each.startsWith(`${given}_`) ? 0 : distance(given, each));
    const [closest] = known.map((each) => ({ each, away: away(each) })).sort((a, b) => a.away - b.away);
    return [{ name, closest: closest && closest.away <= 6 ? closest.each : null }];
  });
}

/**
 * Returns the environment with the secrets that files hold in place of the names of these files.
 *
 * @param problems receives one sentence per file that cannot be used, with its path
 */
export function withSecretFiles(env: NodeJS.ProcessEnv, problems: string[]): NodeJS.ProcessEnv {
  const filled = { ...env };
  for (const { variable, secret } of allSettings) {
    const path = secret && optional(env[variable + FILE_SUFFIX]);
    if (!path) continue;
    const named = variable + FILE_SUFFIX;
    if (optional(env[variable]) !== null) {
      problems.push(`${variable} and ${named} are both set: keep one of them`);
      continue;
    }
    try {
      const text = readFileSync(path, 'utf8');
      const entries = text.split(/\r?\n/).filter((line) => line.trim() !== '');
      if (text.length > LARGEST_FILE) problems.push(`${named}: ${path} is larger than ${LARGEST_FILE} bytes`);
      else if (entries.length === 0) problems.push(`${named}: ${path} is empty`);
      else filled[variable] = secret === 'list' ? entries.join(',') : text;
    } catch (error) {
      problems.push(`${named}: ${path} cannot be read (${(error as NodeJS.ErrnoException).code})`);
    }
  }
  return filled;
}

/** What an embedding application decides in code. */
export interface Embedding {
  /** Its hook `authenticate` tells clients apart. */
  authenticates?: boolean;
  /** It hands in the database: DATABASE_URL is not used. */
  database?: boolean;
  /** Problems that were found in its options. */
  problems?: readonly string[];
  /** Returns a problem with variables replaced by the names of options. */
  named?(problem: string): string;
}

/**
 * Reads and validates the whole configuration.
 *
 * @param embedding what the embedding application decides in code; default: there is none
 * @throws `ConfigError` naming every problem at once
 */
export function readConfig(given: NodeJS.ProcessEnv, embedding: Embedding = {}): Config {
  const { authenticates: byHook = false, named = String } = embedding;
  const problems: string[] = [];
  const env = withSecretFiles(given, problems);
  const parsed = strings.safeParse({
    host: optional(env.HOST) ?? '127.0.0.1',
    port: optional(env.PORT) ?? '8787',
    upstreamUrl: upstreamBase(optional(env.HOLDFAST_UPSTREAM_URL) ?? 'https://api.openai.com/v1'),
    transport: optional(env.HOLDFAST_UPSTREAM_TRANSPORT) ?? 'auto',
    anchors: optional(env.HOLDFAST_UPSTREAM_ANCHORS) ?? 'on',
    internalPort: optional(env.HOLDFAST_INTERNAL_PORT) ?? '0',
    advertiseUrl: optional(env.HOLDFAST_ADVERTISE_URL),
    inspectUrl: optional(env.HOLDFAST_INSPECT_URL) ?? 'https://stately.ai/inspect',
    inspectContent: optional(env.HOLDFAST_INSPECT_CONTENT) ?? 'off',
    policy: optional(env.HOLDFAST_INSTANCE_POLICY) ?? 'forward',
    logLevel: optional(env.HOLDFAST_LOG_LEVEL) ?? 'info',
    otel: optional(env.HOLDFAST_OTEL) ?? 'auto',
    workers: optional(env.HOLDFAST_WORKERS) ?? '1',
    lanes: optional(env.HOLDFAST_UPSTREAM_LANES) ?? '0',
  });
  if (!parsed.success) problems.push(...parsed.error.issues.map(({ message }) => message));
  for (const { name, closest } of unknownSettings(env)) {
    const hint = closest === null ? '' : `: did you mean ${closest}?`;
    problems.push(`${name.slice(0, 80)} is not a setting of Holdfast${hint}`);
  }
  const deadlines = numbers(deadlineKnobs, env, problems);
  const limits = numbers(limitKnobs, env, problems);
  for (const knob of ['bodiesBytes', 'tenantWaiting', 'connections', 'peerConnections'] as const) {
    if (limits[knob] === 0) problems.push(`${limitKnobs[knob].variable} must be at least 1`);
  }
  const keys = apiKeys(optional(env.HOLDFAST_API_KEYS), problems);
  const forwardHeaders = headerNames(optional(env.HOLDFAST_FORWARD_HEADERS), problems);
  const pass = families(env.HOLDFAST_PASS, problems);
  const publicHosts = list(env.HOLDFAST_PUBLIC_HOSTS, isHostName, problems, (position) => {
    return `HOLDFAST_PUBLIC_HOSTS: entry ${position} is not of the form name, name:port or *`;
  });
  const corsOrigins = list(env.HOLDFAST_CORS_ORIGINS, isPageOrigin, problems, (position) => {
    return `HOLDFAST_CORS_ORIGINS: entry ${position} is not of the form https://name, https://name:port or *`;
  });
  const prices = readPrices(optional(env.HOLDFAST_PRICES), problems);
  const databaseUrl = embedding.database ? null : optional(env.DATABASE_URL);
  const databaseSchema = optional(env.HOLDFAST_DB_SCHEMA);
  if (
    databaseSchema !== null &&
    (!/^[\p{L}_][\p{L}\p{N}_$]{0,30}$/u.test(databaseSchema) || /^pg_/i.test(databaseSchema))
  ) {
    problems.push(
      'HOLDFAST_DB_SCHEMA must be a name of letters, digits, _ and $, at most 31 long and not beginning with pg_',
    );
  }
  const secrets = optional(env.HOLDFAST_SECRETS);
  if (secrets !== null) {
    try {
      parseSecrets(secrets);
    } catch (error) {
      if (!(error instanceof InvalidSecrets)) throw error;
      problems.push(`HOLDFAST_SECRETS: ${error.message}`);
    }
  }
  const upstreamKey = upstreamKeyOf(optional(env.HOLDFAST_UPSTREAM_KEY), problems);
  const proxies = readProxies(env, problems);
  const host = parsed.data?.host ?? '127.0.0.1';
  const adminToken = optional(env.HOLDFAST_ADMIN_TOKEN);
  if (adminToken !== null && !isSendable(adminToken)) {
    problems.push('HOLDFAST_ADMIN_TOKEN must be ASCII without blanks in it');
  }
  if (keys.some(({ key }) => key === adminToken)) {
    problems.push('HOLDFAST_ADMIN_TOKEN must not be a key of HOLDFAST_API_KEYS: its tenant would be an operator');
  }
  if (keys.length > 0 && upstreamKey === null) {
    problems.push(
      'HOLDFAST_API_KEYS needs HOLDFAST_UPSTREAM_KEY: otherwise the keys of this bridge would go to the provider',
    );
  }
  if (byHook && keys.length > 0) {
    problems.push('HOLDFAST_API_KEYS and the hook authenticate exclude each other: only one can tell clients apart');
  }
  if (!isLoopback(host) && keys.length === 0 && !byHook) {
    problems.push(`HOST=${host} is reachable by others: set HOLDFAST_API_KEYS, or serve on a loopback address`);
  }
  if ((databaseUrl !== null || embedding.database) && secrets === null) {
    problems.push('HOLDFAST_SECRETS is required with DATABASE_URL, and must be the same on every worker');
  }
  if (deadlines.selfFence >= deadlines.lease) problems.push('HOLDFAST_SELF_FENCE_MS must be below HOLDFAST_LEASE_MS');
  if (deadlines.heartbeat * 2 > deadlines.selfFence) {
    problems.push('HOLDFAST_HEARTBEAT_MS must be at most half of HOLDFAST_SELF_FENCE_MS');
  }
  const found = [...(embedding.problems ?? []), ...problems.map(named)];
  if (found.length > 0 || !parsed.success) {
    const listed = found.map((each) => `  - ${each}`).join('\n');
    throw new ConfigError(`The configuration is invalid:\n${listed}`, found);
  }
  const { port, upstreamUrl, transport, internalPort, advertiseUrl, policy, inspectUrl, inspectContent } = parsed.data;
  return {
    server: { host, port, publicHosts, corsOrigins },
    databaseUrl,
    databaseSchema,
    dataDir: optional(env.HOLDFAST_DATA_DIR) ?? '.holdfast',
    livenessDir: optional(env.HOLDFAST_LIVENESS_DIR),
    workers: parsed.data.workers,
    upstream: {
      url: upstreamUrl,
      key: upstreamKey,
      transport,
      anchors: parsed.data.anchors === 'on',
      proxies,
      forwardHeaders,
      pass,
      lanes: parsed.data.lanes,
    },
    security: { secrets, apiKeys: keys, adminToken, byHook },
    internal: {
      host: optional(env.HOLDFAST_INTERNAL_HOST),
      port: internalPort,
      advertiseUrl: advertiseUrl === null ? null : new URL(advertiseUrl).origin,
    },
    inspect: { url: inspectUrl, content: inspectContent === 'on' },
    prices,
    instancePolicy: policy,
    logLevel: parsed.data.logLevel,
    otel: parsed.data.otel,
    deadlines,
    limits,
  };
}
