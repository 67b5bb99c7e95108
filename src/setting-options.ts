// Generated from the declarations in `src/config.ts` by `npm run docs:readme`: do not edit.

/** Address of the bridge, and from where it may be used. */
export interface ServerSettings {
  /** Address to serve on. Default: 127.0.0.1. Variable: HOST. */
  host?: string | undefined;
  /** Port to serve on; 0 takes a free one. Default: 8787. Variable: PORT. */
  port?: number | undefined;
  /**
   * Names under which clients reach the bridge beside its own addresses, `name` or `name:port,...`; `*` takes any `Host`.
   * Default: none. Variable: HOLDFAST_PUBLIC_HOSTS.
   */
  publicHosts?: readonly string[] | undefined;
  /**
   * Origins of web pages that may use `/v1`, `https://name,...`; `*` for any. All others get 403. Default: none. Variable:
   * HOLDFAST_CORS_ORIGINS.
   */
  corsOrigins?: readonly string[] | undefined;
}

/** Database: its URL, or more about it. Default: an embedded PostgreSQL. */
export interface DatabaseSettings {
  /** A PostgreSQL of 15 or newer, shared by any number of workers. Default: embedded. Variable: DATABASE_URL. */
  url?: string | undefined;
  /**
   * Schema of Holdfast's tables. Default: the schema of an earlier start, found by the user's `search_path`; in a database
   * without one a schema `holdfast`, which is created. Default: found, else holdfast. Variable: HOLDFAST_DB_SCHEMA.
   */
  schema?: string | undefined;
  /** Directory of the embedded database and its secrets. Default: .holdfast. Variable: HOLDFAST_DATA_DIR. */
  dataDir?: string | undefined;
  /**
   * Directory of liveness sockets, for workers of an external database that all share one machine: a death is then detected
   * at once. Default: none. Variable: HOLDFAST_LIVENESS_DIR.
   */
  livenessDir?: string | undefined;
}

/** The Responses API behind the bridge: its base URL, or more about it. */
export interface UpstreamSettings {
  /**
   * The Responses API behind the bridge: its base, or its `/responses` endpoint. Default: https://api.openai.com/v1.
   * Variable: HOLDFAST_UPSTREAM_URL.
   */
  url?: string | undefined;
  /**
   * Shared upstream key; without it the client's Authorization is passed through. Default: none. Variable:
   * HOLDFAST_UPSTREAM_KEY.
   */
  key?: string | undefined;
  /** `auto` (WebSocket, else HTTP), `websocket` or `http`. Default: auto. Variable: HOLDFAST_UPSTREAM_TRANSPORT. */
  transport?: 'auto' | 'websocket' | 'http' | undefined;
  /**
   * `off` for an upstream that ignores `previous_response_id` and does not show it: it gets whole conversations. Default:
   * on. Variable: HOLDFAST_UPSTREAM_ANCHORS.
   */
  anchors?: boolean | undefined;
  /**
   * Proxy for an upstream at an `http` address, for WebSockets too. Lower case wins. Default: none. Variable: HTTP_PROXY.
   */
  httpProxy?: string | false | undefined;
  /** The same for an upstream at an `https` address. Default: none. Variable: HTTPS_PROXY. */
  httpsProxy?: string | false | undefined;
  /** Hosts, domains, `host:port`, addresses, ranges or `*` that are reached directly. Default: none. Variable: NO_PROXY. */
  noProxy?: readonly string[] | undefined;
  /**
   * Further request headers that go upstream, `name,...`, beside those of OpenAI and Codex. Default: none. Variable:
   * HOLDFAST_FORWARD_HEADERS.
   */
  forwardHeaders?: readonly string[] | undefined;
  /**
   * Families of calls that are passed on beside the Responses API, `chat,embeddings,files,...`; empty or `none`: none.
   * Default: all. Variable: HOLDFAST_PASS.
   */
  pass?: readonly string[] | undefined;
  /**
   * Conversations of one tenant or credential that share an upstream WebSocket, at most 32; 0: each has its own. Needs an
   * upstream that knows `stream_id`. Default: 0. Variable: HOLDFAST_UPSTREAM_LANES.
   */
  lanes?: number | undefined;
}

/** Secrets, keys of clients and the token of operators. */
export interface AuthSettings {
  /**
   * Secrets that sign turn-state tokens and calls between workers, `kid:secret,...`: the first signs, all verify. Required
   * with database.url. Default: generated. Variable: HOLDFAST_SECRETS.
   */
  secrets?: readonly string[] | undefined;
  /**
   * `tenant:key,...`; needs upstream.key. Required when server.host is not loopback. Default: off. Variable:
   * HOLDFAST_API_KEYS.
   */
  apiKeys?: readonly { tenant: string; key: string }[] | undefined;
  /**
   * Admin token. With auth.apiKeys or upstream.key one is generated when none is set; without those, admin paths answer on
   * loopback only. Default: generated. Variable: HOLDFAST_ADMIN_TOKEN.
   */
  adminToken?: string | undefined;
}

/** Listener for the other workers of the same database. */
export interface InternalSettings {
  /**
   * Address on which other workers reach this one. Default: loopback, or with a database on another machine its only
   * private address; never a public one. Default: derived. Variable: HOLDFAST_INTERNAL_HOST.
   */
  host?: string | undefined;
  /** Port of that address; 0 takes a free one. Default: 0. Variable: HOLDFAST_INTERNAL_PORT. */
  port?: number | undefined;
  /**
   * URL under which other workers reach that address, `http://address:port`; it must lead to this very worker. Default:
   * derived. Variable: HOLDFAST_ADVERTISE_URL.
   */
  advertiseUrl?: string | undefined;
}

/** The viewer of live session machines. */
export interface InspectorSettings {
  /**
   * The viewer that `/inspect/stately` frames and feeds with machine events. Default: https://stately.ai/inspect. Variable:
   * HOLDFAST_INSPECT_URL.
   */
  url?: string | undefined;
  /**
   * `on` shows viewers of `/inspect` whole events and contexts instead of the harmless fields. Default: off. Variable:
   * HOLDFAST_INSPECT_CONTENT.
   */
  content?: boolean | undefined;
}

/** Waits, in milliseconds. */
export interface DeadlinesSettings {
  /**
   * Timeout of an upstream handshake, all attempts together. In milliseconds. Default: 10000. Variable:
   * HOLDFAST_CONNECT_MS.
   */
  connect?: number | undefined;
  /**
   * Timeout of one WebSocket handshake, before the turn goes over HTTP; `auto` only, and at most half of CONNECT. In
   * milliseconds. Default: 3000. Variable: HOLDFAST_UPGRADE_MS.
   */
  upgrade?: number | undefined;
  /**
   * Ping interval of a silent WebSocket, to the upstream or to a client; 0 sends none. In milliseconds. Default: 25000.
   * Variable: HOLDFAST_PING_MS.
   */
  ping?: number | undefined;
  /** Time to answer a ping before it counts as missed. In milliseconds. Default: 5000. Variable: HOLDFAST_PONG_MS. */
  pong?: number | undefined;
  /**
   * Timeout from the frame to the first upstream event that is not telemetry. In milliseconds. Default: 60000. Variable:
   * HOLDFAST_FIRST_EVENT_MS.
   */
  firstEvent?: number | undefined;
  /**
   * Longest silence between two upstream events; the timeout of Codex is 300 s. In milliseconds. Default: 270000. Variable:
   * HOLDFAST_STREAM_SILENCE_MS.
   */
  silence?: number | undefined;
  /** Longest duration of a turn. In milliseconds. Default: 7200000. Variable: HOLDFAST_TURN_BUDGET_MS. */
  turnBudget?: number | undefined;
  /** Interval of SSE comments to a waiting client. In milliseconds. Default: 15000. Variable: HOLDFAST_KEEPALIVE_MS. */
  keepalive?: number | undefined;
  /**
   * Time without a client before a running turn is cancelled. In milliseconds. Default: 15000. Variable:
   * HOLDFAST_DISCONNECT_GRACE_MS.
   */
  grace?: number | undefined;
  /**
   * Idle timeout of the socket of a session reached by hard evidence. In milliseconds. Default: 900000. Variable:
   * HOLDFAST_IDLE_SOCKET_MS.
   */
  idle?: number | undefined;
  /**
   * Idle timeout of the socket of a session made beside a busy one. In milliseconds. Default: 600000. Variable:
   * HOLDFAST_LANE_IDLE_MS.
   */
  laneIdle?: number | undefined;
  /**
   * Idle timeout of the socket of a session without hard evidence. In milliseconds. Default: 60000. Variable:
   * HOLDFAST_SOFT_IDLE_MS.
   */
  softIdle?: number | undefined;
  /** Age at which an idle socket is rotated. In milliseconds. Default: 3000000. Variable: HOLDFAST_SOCKET_AGE_MS. */
  socketAge?: number | undefined;
  /**
   * Random spread of that age, in both directions. In milliseconds. Default: 120000. Variable:
   * HOLDFAST_SOCKET_AGE_JITTER_MS.
   */
  socketAgeJitter?: number | undefined;
  /**
   * The same for a socket that alone holds its conversation. In milliseconds. Default: 3480000. Variable:
   * HOLDFAST_ONLY_HOLDER_AGE_MS.
   */
  onlyHolderAge?: number | undefined;
  /**
   * Time for which the HTTP status waits for the first event after the frame was sent. In milliseconds. Default: 2000.
   * Variable: HOLDFAST_STATUS_HOLD_MS.
   */
  statusHold?: number | undefined;
  /**
   * Time before a client that does not read is disconnected; 15 s once it is a whole turn buffer behind a WebSocket. In
   * milliseconds. Default: 60000. Variable: HOLDFAST_SLOW_CLIENT_MS.
   */
  slowClient?: number | undefined;
  /**
   * Time without a turn after which a client's WebSocket is closed. In milliseconds. Default: 1800000. Variable:
   * HOLDFAST_CLIENT_IDLE_MS.
   */
  clientIdle?: number | undefined;
  /**
   * Age at which a client's WebSocket is closed at its next idle moment; 10 minutes later it accepts no turn. In
   * milliseconds. Default: 3000000. Variable: HOLDFAST_CLIENT_AGE_MS.
   */
  clientAge?: number | undefined;
  /**
   * Time limit for all steps before the frame is sent, together; four times as long for a turn on a WebSocket of a client.
   * In milliseconds. Default: 30000. Variable: HOLDFAST_REQUEST_HOLD_MS.
   */
  requestHold?: number | undefined;
  /**
   * Wait for an unanswered start before the client gets 503. In milliseconds. Default: 5000. Variable:
   * HOLDFAST_START_WAIT_MS.
   */
  startWait?: number | undefined;
  /**
   * Wait for an unanswered settle before the client gets its terminal event anyway. In milliseconds. Default: 1000.
   * Variable: HOLDFAST_SETTLE_WAIT_MS.
   */
  settleWait?: number | undefined;
  /**
   * Wait for a silent owner to answer or to be declared dead, before 409. In milliseconds. Default: 15000. Variable:
   * HOLDFAST_OWNER_WAIT_MS.
   */
  ownerWait?: number | undefined;
  /**
   * Longest pause between two checks of an owner during that wait. In milliseconds. Default: 1000. Variable:
   * HOLDFAST_OWNER_POLL_MS.
   */
  ownerPoll?: number | undefined;
  /**
   * Timeout of one call to the database, which then counts as unanswered. In milliseconds. Default: 2000. Variable:
   * HOLDFAST_STORE_STATEMENT_MS.
   */
  storeStatement?: number | undefined;
  /**
   * Time for which an unreachable database is retried at start, before the start fails. In milliseconds. Default: 60000.
   * Variable: HOLDFAST_STORE_START_MS.
   */
  storeStart?: number | undefined;
  /** Heartbeat interval of a worker. In milliseconds. Default: 3000. Variable: HOLDFAST_HEARTBEAT_MS. */
  heartbeat?: number | undefined;
  /**
   * Duration of the lease that a heartbeat renews, by the database clock. In milliseconds. Default: 10000. Variable:
   * HOLDFAST_LEASE_MS.
   */
  lease?: number | undefined;
  /**
   * Time since the last confirmed heartbeat was sent after which a worker starts nothing more. In milliseconds. Default:
   * 8000. Variable: HOLDFAST_SELF_FENCE_MS.
   */
  selfFence?: number | undefined;
  /** Lease that must remain for a frame to be sent. In milliseconds. Default: 2000. Variable: HOLDFAST_LEASE_MARGIN_MS. */
  leaseMargin?: number | undefined;
  /**
   * Time at start for a worker's announced address to answer with its own id, before the start fails. In milliseconds.
   * Default: 5000. Variable: HOLDFAST_ADVERTISE_MS.
   */
  advertise?: number | undefined;
  /**
   * Time for running turns at shutdown before they are cancelled. In milliseconds. Default: 30000. Variable:
   * HOLDFAST_DRAIN_MS.
   */
  drain?: number | undefined;
  /**
   * Interval of the janitor, which removes unused rows. In milliseconds. Default: 600000. Variable: HOLDFAST_JANITOR_MS.
   */
  janitor?: number | undefined;
  /**
   * Time between "not ready" and the end of admission at shutdown. In milliseconds. Default: 5000. Variable:
   * HOLDFAST_LAME_DUCK_MS.
   */
  lameDuck?: number | undefined;
  /**
   * Timeout of a connection to another worker, before its state is looked up in the database. In milliseconds. Default:
   * 150. Variable: HOLDFAST_FORWARD_CONNECT_MS.
   */
  forwardConnect?: number | undefined;
  /**
   * Timeout until that worker confirms that it accepted the request, before the same look-up. In milliseconds. Default:
   * 500. Variable: HOLDFAST_FORWARD_ACCEPTED_MS.
   */
  forwardAccepted?: number | undefined;
  /**
   * Time for a hook of the embedding application to answer, before its request is refused. In milliseconds. Default: 5000.
   * Variable: HOLDFAST_HOOK_MS.
   */
  hook?: number | undefined;
  /**
   * Longest silence of a worker that accepted the request, before the same look-up. In milliseconds. Default: 10000.
   * Variable: HOLDFAST_FORWARD_SILENCE_MS.
   */
  forwardSilence?: number | undefined;
}

/** Limits, in bytes or as a count. */
export interface LimitsSettings {
  /** Requests that may wait for one session. A count. Default: 8. Variable: HOLDFAST_QUEUE_LENGTH. */
  queueLength?: number | undefined;
  /**
   * Upstream sockets of one worker; idle ones are evicted first, busy ones never. A count. Default: 10000. Variable:
   * HOLDFAST_MAX_SOCKETS.
   */
  sockets?: number | undefined;
  /**
   * Largest frame to or from the upstream; a larger request goes over plain HTTP. In bytes. Default: 16777216. Variable:
   * HOLDFAST_MAX_FRAME_BYTES.
   */
  frameBytes?: number | undefined;
  /** Largest request body, decompressed. In bytes. Default: 33554432. Variable: HOLDFAST_MAX_BODY_BYTES. */
  bodyBytes?: number | undefined;
  /**
   * Largest body of a call that is passed on as a stream, such as an upload. It is not held in memory. In bytes. Default:
   * 536870912. Variable: HOLDFAST_MAX_PASS_BYTES.
   */
  passBytes?: number | undefined;
  /**
   * Request bodies held at the same time, decompressed; a request beyond it gets 503 before its body is read. In bytes.
   * Default: 268435456. Variable: HOLDFAST_BODIES_BYTES.
   */
  bodiesBytes?: number | undefined;
  /**
   * Events of one turn kept for a client that reconnects. In bytes. Default: 8388608. Variable: HOLDFAST_TURN_BUFFER_BYTES.
   */
  turnBufferBytes?: number | undefined;
  /**
   * Items of one conversation that one worker stores at once; beyond it they are not stored, and only its socket or the
   * provider can continue it. In bytes. Default: 67108864. Variable: HOLDFAST_MAX_TRANSCRIPT_BYTES.
   */
  transcriptBytes?: number | undefined;
  /** Hours for which unused sessions and turns are kept. A count. Default: 24. Variable: HOLDFAST_RETENTION_HOURS. */
  retentionHours?: number | undefined;
  /** Machine events recorded per session, for its trace. A count. Default: 64. Variable: HOLDFAST_RECORDED_EVENTS. */
  recordedEvents?: number | undefined;
  /** Viewers of the inspector at the same time. A count. Default: 8. Variable: HOLDFAST_INSPECT_VIEWERS. */
  inspectViewers?: number | undefined;
  /**
   * Sessions of a sample shown to one viewer at the same time. A count. Default: 50. Variable: HOLDFAST_INSPECT_SESSIONS.
   */
  inspectSessions?: number | undefined;
  /**
   * Data queued for one viewer before it is disconnected. In bytes. Default: 8388608. Variable:
   * HOLDFAST_INSPECT_BUFFER_BYTES.
   */
  inspectBufferBytes?: number | undefined;
  /** Database connections of one worker, plus one for its heartbeat. A count. Default: 10. Variable: HOLDFAST_POOL_SIZE. */
  poolSize?: number | undefined;
  /**
   * Upstream sockets of one tenant on one worker; at the limit its own idle ones are evicted. 0: no limit of its own. A
   * count. Default: 0. Variable: HOLDFAST_TENANT_SOCKETS.
   */
  tenantSockets?: number | undefined;
  /**
   * Concurrent turns of one tenant on one worker. 0: no limit of its own. A count. Default: 0. Variable:
   * HOLDFAST_TENANT_TURNS.
   */
  tenantTurns?: number | undefined;
  /**
   * Requests of one tenant held by one worker without a running turn. A count. Default: 2000. Variable:
   * HOLDFAST_TENANT_WAITING.
   */
  tenantWaiting?: number | undefined;
  /**
   * Request bodies of one tenant held by one worker, until their turns end; at least one of MAX_BODY. 0: no limit of its
   * own. In bytes. Default: 0. Variable: HOLDFAST_TENANT_BODIES_BYTES.
   */
  tenantBodyBytes?: number | undefined;
  /**
   * Requests per minute that one worker accepts from one tenant, possibly all at once. 0: no limit. A count. Default: 0.
   * Variable: HOLDFAST_TENANT_REQUESTS_PER_MINUTE.
   */
  tenantRequests?: number | undefined;
  /**
   * Events of all turns of one worker kept for clients that reconnect; beyond it the largest buffer is dropped. In bytes.
   * Default: 536870912. Variable: HOLDFAST_TURN_BUFFERS_BYTES.
   */
  turnBuffersBytes?: number | undefined;
  /**
   * Client connections of one worker; some are reserved for health, admin and new clients. A count. Default: 16384.
   * Variable: HOLDFAST_MAX_CONNECTIONS.
   */
  connections?: number | undefined;
  /**
   * Connections from one address (IPv6: one /64) without an authenticated request in flight; beyond it the oldest is
   * closed. A count. Default: 8192. Variable: HOLDFAST_PEER_CONNECTIONS.
   */
  peerConnections?: number | undefined;
}

/** Every setting as an option of `createBridge`. */
export interface SettingOptions {
  /** Address of the bridge, and from where it may be used. */
  server?: ServerSettings | undefined;
  /** Database: its URL, or more about it. Default: an embedded PostgreSQL. */
  database?: string | DatabaseSettings | undefined;
  /**
   * Worker processes behind one port, kept running by a supervisor (`--workers N`). Default: 1. Variable: HOLDFAST_WORKERS.
   */
  workers?: number | undefined;
  /** The Responses API behind the bridge: its base URL, or more about it. */
  upstream?: string | UpstreamSettings | undefined;
  /** Secrets, keys of clients and the token of operators. */
  auth?: AuthSettings | undefined;
  /** Listener for the other workers of the same database. */
  internal?: InternalSettings | undefined;
  /**
   * `forward` or `reject` a request whose session another worker owns. Default: forward. Variable:
   * HOLDFAST_INSTANCE_POLICY.
   */
  instancePolicy?: 'forward' | 'reject' | undefined;
  /** The viewer of live session machines. */
  inspector?: InspectorSettings | undefined;
  /**
   * Prices of input tokens by model, `model=full/cached,...` per million, `*` for all others: the overview then shows what
   * cached tokens saved. Default: none. Variable: HOLDFAST_PRICES.
   */
  prices?: readonly string[] | undefined;
  /** `trace` to `fatal`, or `silent`. Default: info. Variable: HOLDFAST_LOG_LEVEL. */
  logLevel?: 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent' | undefined;
  /**
   * OpenTelemetry: `on`, `off`, or `auto`: on with OTEL_EXPORTER_OTLP_ENDPOINT, or where an embedding application has
   * registered a tracer provider. Default: auto. Variable: HOLDFAST_OTEL.
   */
  otel?: 'auto' | 'on' | 'off' | undefined;
  /** Waits, in milliseconds. */
  deadlines?: DeadlinesSettings | undefined;
  /** Limits, in bytes or as a count. */
  limits?: LimitsSettings | undefined;
}
