/** HTTP status of the error codes that providers use. Also the list of codes recognised in a `type` field. */
const statusOfCode = new Map(
  Object.entries({
    previous_response_not_found: 400,
    websocket_connection_limit_reached: 400,
    websocket_stream_limit_reached: 400,
    context_length_exceeded: 400,
    invalid_prompt: 400,
    invalid_encrypted_content: 400,
    invalid_value: 400,
    invalid_json: 400,
    unsupported_parameter: 400,
    unsupported_value: 400,
    missing_required_parameter: 400,
    cyber_policy: 400,
    invalid_api_key: 401,
    token_expired: 401,
    usage_not_included: 403,
    unsupported_country_region_territory: 403,
    model_not_found: 404,
    rate_limit_exceeded: 429,
    usage_limit_reached: 429,
    insufficient_quota: 429,
    server_is_overloaded: 503,
    slow_down: 503,
  }),
);

const statusOfType = new Map(
  Object.entries({
    invalid_request_error: 400,
    invalid_request: 400,
    bad_request_error: 400,
    authentication_error: 401,
    permission_error: 403,
    not_found_error: 404,
    rate_limit_error: 429,
    too_many_requests: 429,
    tokens: 429,
    requests: 429,
    server_error: 500,
    internal_server_error: 500,
    api_error: 500,
    overloaded_error: 503,
    service_unavailable_error: 503,
  }),
);

/** Codes less specific than the message or the parameter beside them. */
const generic = new Set([
  'invalid_request_error',
  'invalid_request',
  'bad_request',
  'bad_request_error',
  'invalid_value',
  'invalid_parameter',
  'not_found',
  'not_found_error',
  'server_error',
  'internal_error',
  'internal_server_error',
  'rate_limit_error',
  'error',
  'unknown',
  'unknown_error',
]);

/** Messages seen without a code. Each run of white space in the text is matched as one blank. */
const wordings: readonly (readonly [RegExp, string])[] = [
  // Servers without storage report a missing anchor in the same words as a missing response.
  [/(?:previous |^)response with id \S+ (?:was )?not found/i, 'previous_response_not_found'],
  [/\binvalid [`'"]?previous_response_id[`'"]?/i, 'previous_response_not_found'],
  [
    /\bprevious_response_id\b\S* .{0,120}\b(?:not found|does not exist|no longer exists)/i,
    'previous_response_not_found',
  ],
  [/\bwebsocket connection limit reached/i, 'websocket_connection_limit_reached'],
  [/\busage limit (?:has been )?reached/i, 'usage_limit_reached'],
  [
    /\bservers? (?:is|are) (?:currently )?overloaded|\bmodel is (?:currently )?(?:at capacity|overloaded)/i,
    'server_is_overloaded',
  ],
  [/^rate limit reached\b/i, 'rate_limit_exceeded'],
];

/** Complaints about the parameter that do not concern the response it names. */
const otherComplaint = /unsupported|not supported|not allowed|cannot be used|mutually|together|conversation/i;

interface Described {
  code: string | null;
  type: string | null;
  message: string | null;
  param: string | null;
  status: number | null;
}

/**
 * Returns the canonical code of an error, whichever field holds it; null when none can be derived. A specific code of the
 * provider is never replaced by a guess.
 */
export function canonicalCode(error: Described): string | null {
  const { code, type, param, status } = error;
  if (code !== null && !generic.has(code)) return code;
  if (type !== null && !generic.has(type) && statusOfCode.has(type)) return type;
  const message = (error.message ?? '').slice(0, 4096).replace(/\s+/g, ' ').trim();
  for (const [wording, meaning] of wordings) if (wording.test(message)) return meaning;
  const badRequest = status === null || status === 400 || status === 404;
  if (param === 'previous_response_id' && badRequest && !otherComplaint.test(message))
    return 'previous_response_not_found';
  return code;
}

/** Returns whether a `type` is an error's code or class, as in frames that are a bare error object. */
export function namesError(type: string): boolean {
  return statusOfCode.has(type) || statusOfType.has(type);
}

/** Returns whether OpenAI's API is known to use a code. Such a code reveals nothing about an account. */
export const namesCode = (code: string): boolean => statusOfCode.has(code);

/** Returns the status of a code or, failing that, of a type; null when neither is known. */
export function statusFor(code: string | null, type: string | null): number | null {
  return statusOfCode.get(code ?? '') ?? statusOfType.get(type ?? '') ?? statusOfType.get(code ?? '') ?? null;
}

/** Returns OpenAI's error type for a status. */
export function typeFor(status: number): string {
  if (status === 401) return 'authentication_error';
  if (status === 403) return 'permission_error';
  if (status === 429) return 'rate_limit_error';
  return status >= 400 && status < 500 ? 'invalid_request_error' : 'server_error';
}
