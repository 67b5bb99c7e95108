/**
 * Error catalogue. Each entry is API: `bridge_code`, the HTTP status, the OpenAI `type` and `code` that clients act on, and
 * the recommended action. Codex treats 400, and 429 without Retry-After, as final; it repeats 5xx for 30 s.
 */
interface CatalogueEntry {
  status: number;
  type: 'invalid_request_error' | 'server_error' | 'authentication_error' | 'permission_error' | 'rate_limit_error';
  /** Canonical code where clients match one, else the bridge's own. */
  code: string;
  message: string;
  /** `false` is sent as `x-should-retry: false`: repeating the same request cannot help. */
  retry: boolean;
  retryAfterSeconds?: number;
  action: string;
}

/** All errors of the bridge, by `bridge_code`. */
export const catalogue = {
  bridge_invalid_json: {
    status: 400,
    type: 'invalid_request_error',
    code: 'invalid_json',
    message: 'The request body is not valid JSON.',
    retry: false,
    action: 'Fix the request.',
  },
  bridge_invalid_request: {
    status: 400,
    type: 'invalid_request_error',
    code: 'invalid_request',
    message: 'The request is not valid.',
    retry: false,
    action: 'Fix the field named in `param`.',
  },
  bridge_malformed_request: {
    status: 400,
    type: 'invalid_request_error',
    code: 'malformed_request',
    message: 'The request is not well-formed HTTP.',
    retry: false,
    action: 'Fix the client, or the intermediary between it and this bridge.',
  },
  bridge_request_timeout: {
    status: 408,
    type: 'invalid_request_error',
    code: 'request_timeout',
    message: 'The request did not arrive in time.',
    retry: true,
    action: 'Repeat the request.',
  },
  bridge_expectation_failed: {
    status: 417,
    type: 'invalid_request_error',
    code: 'expectation_failed',
    message: 'The Expect header requests behaviour that this bridge does not support.',
    retry: false,
    action: 'Send `Expect: 100-continue`, or none.',
  },
  bridge_headers_too_large: {
    status: 431,
    type: 'invalid_request_error',
    code: 'headers_too_large',
    message: 'The request line and headers are larger than this bridge accepts.',
    retry: false,
    action: 'Send less in headers.',
  },
  bridge_unsupported_media_type: {
    status: 415,
    type: 'invalid_request_error',
    code: 'unsupported_media_type',
    message: 'The request body must be application/json, uncompressed or gzip, deflate, br or zstd.',
    retry: false,
    action: 'Send JSON.',
  },
  bridge_body_too_large: {
    status: 413,
    type: 'invalid_request_error',
    code: 'request_too_large',
    message: 'The request body is larger than this bridge accepts.',
    retry: false,
    action: 'Send less, or raise HOLDFAST_MAX_BODY_BYTES, or HOLDFAST_MAX_PASS_BYTES for calls that start no turn.',
  },
  bridge_not_found: {
    status: 404,
    type: 'invalid_request_error',
    code: 'not_found',
    message: 'Not found.',
    retry: false,
    action: 'Check the base URL.',
  },
  bridge_method_not_allowed: {
    status: 405,
    type: 'invalid_request_error',
    code: 'method_not_allowed',
    message: 'That method is not allowed on this path.',
    retry: false,
    action: 'Use the method named in the Allow header.',
  },
  bridge_family_not_passed: {
    status: 403,
    type: 'permission_error',
    code: 'bridge_family_not_passed',
    message: 'The operator of this bridge does not let calls of this family pass.',
    retry: false,
    action: 'Add the family to HOLDFAST_PASS, or call the provider directly.',
  },
  bridge_shared_credential: {
    status: 403,
    type: 'permission_error',
    code: 'bridge_shared_credential',
    message: 'This call does not pass under a credential that several tenants share.',
    retry: false,
    action: 'Use a credential of your own at the provider.',
  },
  bridge_realtime_unsupported: {
    status: 400,
    type: 'invalid_request_error',
    code: 'bridge_realtime_unsupported',
    message: 'This bridge does not serve realtime and live sessions: their media do not lead through it.',
    retry: false,
    action: 'Connect to the provider directly.',
  },
  bridge_websocket_unsupported: {
    status: 426,
    type: 'invalid_request_error',
    code: 'websocket_unsupported',
    message: 'There is no WebSocket at this path.',
    retry: false,
    action: 'Use HTTP, or connect to `/v1/responses`.',
  },
  bridge_websocket_age: {
    status: 400,
    type: 'invalid_request_error',
    code: 'websocket_connection_limit_reached',
    message:
      'Responses websocket connection limit reached. Create a new websocket connection to continue; the conversation is kept.',
    retry: false,
    action: 'Connect again and continue, with previous_response_id or with the whole conversation.',
  },
  bridge_stream_id: {
    status: 400,
    type: 'invalid_request_error',
    code: 'invalid_stream_id',
    message: 'A stream_id is 1 to 256 characters out of `A-Z a-z 0-9 _ . -`.',
    retry: false,
    action: 'Fix the stream_id, or leave it out.',
  },
  bridge_stream_limit: {
    status: 400,
    type: 'invalid_request_error',
    code: 'websocket_stream_limit_reached',
    message: 'This connection already has as many named streams as it may.',
    retry: false,
    action: 'Use one of the 32 names again, or another connection.',
  },
  bridge_unknown_event: {
    status: 400,
    type: 'invalid_request_error',
    code: 'invalid_event',
    message: 'This is no event that a client can send.',
    retry: false,
    action: 'Send a text message with a JSON object of the type `response.create` or `response.steer`.',
  },
  bridge_unauthorized: {
    status: 401,
    type: 'authentication_error',
    code: 'invalid_api_key',
    message: 'Missing or unknown API key.',
    retry: false,
    action: 'Send a valid key.',
  },
  bridge_forbidden_host: {
    status: 403,
    type: 'permission_error',
    code: 'bridge_forbidden_host',
    message: 'The name in the Host header is not a name of this bridge.',
    retry: false,
    action: 'Use an address of this bridge, or add the name to HOLDFAST_PUBLIC_HOSTS.',
  },
  bridge_forbidden_origin: {
    status: 403,
    type: 'permission_error',
    code: 'bridge_forbidden_origin',
    message: 'Pages of other origins may not use this bridge.',
    retry: false,
    action:
      'Add the origin to HOLDFAST_CORS_ORIGINS. Operator requests are accepted only from this bridge’s own pages, and only with JSON.',
  },
  bridge_session_busy: {
    status: 409,
    type: 'invalid_request_error',
    code: 'bridge_session_busy',
    message: 'A turn is running, and only its worker can end it.',
    retry: true,
    retryAfterSeconds: 5,
    action: 'Wait for the turn to end, then repeat.',
  },
  bridge_token_invalid: {
    status: 400,
    type: 'invalid_request_error',
    code: 'bridge_token_invalid',
    message: 'The turn-state token does not verify, or belongs to another tenant.',
    retry: false,
    action: 'Drop the token and start the turn again.',
  },
  bridge_foreign_object: {
    status: 400,
    type: 'invalid_request_error',
    code: 'bridge_foreign_object',
    message:
      'The field in `param` names, or may name, an object at the provider that this tenant did not make under the shared credential.',
    retry: false,
    action: 'Send the content itself, or use a credential of your own.',
  },
  bridge_session_expired: {
    status: 400,
    type: 'invalid_request_error',
    code: 'previous_response_not_found',
    message: 'The earlier response this request continues is gone and cannot be rebuilt exactly.',
    retry: false,
    action: 'Send the whole conversation without previous_response_id.',
  },
  bridge_wrong_instance: {
    status: 409,
    type: 'server_error',
    code: 'bridge_wrong_instance',
    message: 'Another live worker owns this conversation.',
    retry: true,
    retryAfterSeconds: 1,
    action: 'Repeat after Retry-After.',
  },
  bridge_owner_lost: {
    status: 503,
    type: 'server_error',
    code: 'bridge_owner_lost',
    message: 'The worker that ran this turn has failed; its progress is unknown.',
    retry: true,
    retryAfterSeconds: 1,
    action: 'Repeat after Retry-After.',
  },
  bridge_rate_limited: {
    status: 429,
    type: 'rate_limit_error',
    code: 'rate_limit_exceeded',
    message: 'This tenant has exceeded its limit of requests per minute.',
    retry: true,
    retryAfterSeconds: 1,
    action: 'Repeat after Retry-After, or raise HOLDFAST_TENANT_REQUESTS_PER_MINUTE.',
  },
  bridge_tenant_busy: {
    status: 429,
    type: 'rate_limit_error',
    code: 'bridge_tenant_busy',
    message: 'This tenant has reached its limit of concurrent work on this worker.',
    retry: true,
    retryAfterSeconds: 2,
    action: 'Repeat after Retry-After, when some of its requests have ended.',
  },
  bridge_queue_full: {
    status: 429,
    type: 'rate_limit_error',
    code: 'bridge_queue_full',
    message: 'Too many requests wait for this conversation.',
    retry: true,
    retryAfterSeconds: 2,
    action: 'Repeat after Retry-After.',
  },
  bridge_conflict: {
    status: 503,
    type: 'server_error',
    code: 'bridge_conflict',
    message: 'The conversation changed its owner too often while this request was being placed.',
    retry: true,
    retryAfterSeconds: 1,
    action: 'Repeat after Retry-After.',
  },
  bridge_hold_expired: {
    status: 503,
    type: 'server_error',
    code: 'bridge_hold_expired',
    message: 'The request could not be started within its time limit; nothing was sent.',
    retry: true,
    retryAfterSeconds: 1,
    action: 'Repeat after Retry-After.',
  },
  bridge_store_unavailable: {
    status: 503,
    type: 'server_error',
    code: 'bridge_store_unavailable',
    message: 'The session store does not answer.',
    retry: true,
    retryAfterSeconds: 2,
    action: 'Repeat after Retry-After.',
  },
  bridge_store_rejected: {
    status: 500,
    type: 'server_error',
    code: 'bridge_store_rejected',
    message: 'The session store rejected this turn.',
    retry: false,
    action: 'Tell the operator; the log has the reason.',
  },
  bridge_lease_lapsed: {
    status: 503,
    type: 'server_error',
    code: 'bridge_lease_lapsed',
    message: 'This worker could not confirm its lease; nothing was sent.',
    retry: true,
    retryAfterSeconds: 1,
    action: 'Repeat after Retry-After.',
  },
  bridge_draining: {
    status: 503,
    type: 'server_error',
    code: 'bridge_draining',
    message: 'This worker is shutting down.',
    retry: true,
    retryAfterSeconds: 1,
    action: 'Repeat after Retry-After.',
  },
  bridge_overloaded: {
    status: 503,
    type: 'server_error',
    code: 'bridge_overloaded',
    message: 'This worker has reached its connection limit.',
    retry: true,
    retryAfterSeconds: 5,
    action: 'Repeat after Retry-After.',
  },
  bridge_bodies_full: {
    status: 503,
    type: 'server_error',
    code: 'bridge_bodies_full',
    message: 'This worker has reached its limit of request bytes.',
    retry: true,
    retryAfterSeconds: 1,
    action: 'Repeat after Retry-After, or raise HOLDFAST_BODIES_BYTES.',
  },
  bridge_upstream_unreachable: {
    status: 502,
    type: 'server_error',
    code: 'bridge_upstream_unreachable',
    message: 'The upstream could not be reached.',
    retry: true,
    retryAfterSeconds: 1,
    action: 'Repeat after Retry-After.',
  },
  bridge_upstream_lost: {
    status: 502,
    type: 'server_error',
    code: 'bridge_upstream_lost',
    message: 'The upstream connection was lost during the turn.',
    retry: true,
    action: 'Repeat the request.',
  },
  bridge_first_event_timeout: {
    status: 504,
    type: 'server_error',
    code: 'bridge_first_event_timeout',
    message: 'The upstream did not start to answer in time.',
    retry: true,
    action: 'Repeat the request.',
  },
  bridge_stream_silent: {
    status: 504,
    type: 'server_error',
    code: 'bridge_stream_silent',
    message: 'The upstream sent nothing for too long during the turn.',
    retry: true,
    action: 'Repeat the request.',
  },
  bridge_turn_timeout: {
    status: 504,
    type: 'server_error',
    code: 'bridge_turn_timeout',
    message: 'The turn exceeded its time budget.',
    retry: false,
    action: 'Ask for less, or raise HOLDFAST_TURN_BUDGET_MS.',
  },
  bridge_turn_cancelled: {
    status: 409,
    type: 'server_error',
    code: 'bridge_turn_cancelled',
    message: 'The turn was cancelled.',
    retry: false,
    action: 'Start a new turn.',
  },
  bridge_session_closed: {
    status: 503,
    type: 'server_error',
    code: 'bridge_session_closed',
    message: 'The session was closed by an operator.',
    retry: true,
    retryAfterSeconds: 1,
    action: 'Repeat the request; a new session starts.',
  },
  bridge_upstream_credential: {
    // Status 400 although the client is not at fault: no client repeats it.
    status: 400,
    type: 'server_error',
    code: 'bridge_upstream_credential',
    message: "The upstream refused the credential that this bridge's operator configured, or this request under it.",
    retry: false,
    action: 'Tell the operator; the log has the status and code of the refusal.',
  },
  bridge_hook_failed: {
    status: 503,
    type: 'server_error',
    code: 'bridge_hook_failed',
    message: 'The application around this bridge could not decide about the request.',
    retry: true,
    retryAfterSeconds: 1,
    action: 'Repeat after Retry-After; tell the operator if it persists: the log names the hook and its error.',
  },
  bridge_internal: {
    status: 500,
    type: 'server_error',
    code: 'bridge_internal',
    message: 'The bridge failed unexpectedly.',
    retry: true,
    action: 'Repeat; tell the operator if it persists.',
  },
} satisfies Record<string, CatalogueEntry>;

/** The `bridge_code` of an error answer. */
export type BridgeCode = keyof typeof catalogue;

/** Body of every error answer: OpenAI's envelope plus Holdfast's fields. */
export interface ErrorEnvelope {
  error: {
    message: string;
    type: string;
    code: string;
    param: string | null;
    bridge_code: BridgeCode;
    outcome: string | null;
  };
}

/** Detail of `bridge_not_found` for a path that leads nowhere. */
export const NOT_SERVED = 'This bridge does not serve that path.';

/** Failure with a catalogue entry. `detail` is sent to the client and must contain no secret and no prompt. */
export class BridgeError extends Error {
  override readonly name = 'BridgeError';
  readonly code: BridgeCode;
  readonly entry: CatalogueEntry;
  readonly param: string | null;
  /** Text added to the message of the catalogue entry. */
  readonly detail: string | null;
  /** Value of the Retry-After header in seconds; null sends none. */
  readonly retryAfterSeconds: number | null;
  /** Further headers of the answer, names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  /** Outcome decided by the resolver; null if it had not decided. */
  outcome: string | null = null;

  constructor(
    code: BridgeCode,
    options: {
      detail?: string | undefined;
      param?: string | undefined;
      retryAfterSeconds?: number | undefined;
      headers?: Record<string, string> | undefined;
      cause?: unknown;
    } = {},
  ) {
    const entry: CatalogueEntry = catalogue[code];
    super(options.detail ? `${entry.message} ${options.detail}` : entry.message, { cause: options.cause });
    this.code = code;
    this.entry = entry;
    this.param = options.param ?? null;
    this.detail = options.detail ?? null;
    this.retryAfterSeconds = options.retryAfterSeconds ?? entry.retryAfterSeconds ?? null;
    this.headers = options.headers ?? {};
  }

  get status(): number {
    return this.entry.status;
  }

  /** Returns the error in OpenAI's envelope. */
  envelope(): ErrorEnvelope {
    const { type, code } = this.entry;
    return {
      error: { message: this.message, type, code, param: this.param, bridge_code: this.code, outcome: this.outcome },
    };
  }
}

/** Maximum number of stack lines kept of an error. */
const MOST_FRAMES = 12;

/**
 * Reduces an error of any origin to what may be logged: its type, its code and where it was thrown. Its message is left
 * out, because it may quote the data being read.
 */
export function safeError(error: unknown): { type: string; code: string | null; at: readonly string[] } {
  if (!(error instanceof Error)) return { type: typeof error, code: null, at: [] };
  const { code } = error as { code?: unknown };
  // The stack begins with the message, which may have several lines.
  const frames = (error.stack ?? '').split('\n').filter((line) => /^ {4}at /.test(line));
  return {
    type: error.name.slice(0, 80),
    code: typeof code === 'string' && /^[\w-]{1,80}$/.test(code) ? code : null,
    at: frames.slice(0, MOST_FRAMES).map((line) => line.trim().slice(0, 300)),
  };
}
