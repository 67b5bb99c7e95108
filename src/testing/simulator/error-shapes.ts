/** Upstream error, independent of the shape in which it is sent. */
export interface ErrorSpec {
  status: number;
  type?: string;
  code?: string | null;
  message: string;
  param?: string | null;
  /** In seconds. Sent as the Retry-After header over HTTP, and in `headers` of a nested error frame over WebSocket. */
  retryAfter?: number;
  /** Additional members of the `error` object, for example `resets_at`. */
  extra?: Record<string, unknown>;
}

/**
 * Shapes in which clients may receive one upstream error:
 *
 * - `nested`: the documented frame, `{type:'error', status, error:{type, code, message, param}}`
 * - `top_level`: the typed stream event, `{type:'error', code, message, param}`
 * - `code_in_type`: nested, with the code only in `error.type`
 * - `terse`: only a message, "Invalid `previous_response_id`." for a lost anchor
 * - `bare`: an `error` object without the frame's `type`
 * - `multi_line`: nested, with the message wrapped over several lines
 */
export type ErrorShape = 'nested' | 'top_level' | 'code_in_type' | 'terse' | 'bare' | 'multi_line';

/** Returns the `error` object of an HTTP body or a nested frame. */
export function errorObject(error: ErrorSpec): Record<string, unknown> {
  const type = error.type ?? (error.status >= 500 ? 'server_error' : 'invalid_request_error');
  return { type, code: error.code ?? null, message: error.message, param: error.param ?? null, ...error.extra };
}

/** Returns the frame or SSE event for an error. Only `top_level` has a sequence number, like the typed event. */
export function errorFrame(error: ErrorSpec, shape: ErrorShape, sequence: number): Record<string, unknown> {
  const nested = errorObject(error);
  const status = error.status;
  const headers = error.retryAfter === undefined ? {} : { headers: { 'retry-after': String(error.retryAfter) } };
  switch (shape) {
    case 'nested':
      return { type: 'error', status, error: nested, ...headers };
    case 'top_level': {
      const { code, message, param } = nested;
      return { type: 'error', code, message, param, sequence_number: sequence };
    }
    case 'code_in_type':
      return { type: 'error', status, error: { type: error.code ?? nested.type, message: error.message } };
    case 'terse': {
      const lostAnchor = error.code === 'previous_response_not_found';
      return { type: 'error', error: { message: lostAnchor ? 'Invalid `previous_response_id`.' : error.message } };
    }
    case 'bare':
      return { status, error: nested };
    case 'multi_line':
      return { type: 'error', status, error: { ...nested, message: error.message.replaceAll(' ', '\n') } };
  }
}

export const previousResponseNotFound = (id: string): ErrorSpec => ({
  status: 400,
  code: 'previous_response_not_found',
  message: `Previous response with id '${id}' not found.`,
  param: 'previous_response_id',
});

export const connectionLimitReached: ErrorSpec = {
  status: 400,
  code: 'websocket_connection_limit_reached',
  message: 'Responses websocket connection limit reached (60 minutes). Create a new websocket connection to continue.',
};

export const invalidEncryptedContent: ErrorSpec = {
  status: 400,
  code: 'invalid_encrypted_content',
  message: 'The encrypted content could not be verified.',
  param: 'input',
};

export const missingApiKey: ErrorSpec = {
  status: 401,
  code: 'invalid_api_key',
  message: 'Incorrect or missing API key.',
};

export const invalidRequest = (message: string, param: string | null = null): ErrorSpec => ({
  status: 400,
  message,
  param,
});

export const notFound = (message: string): ErrorSpec => ({ status: 404, message });

/** Thrown while a request is validated, to refuse its turn with an upstream error. */
export class Refusal extends Error {
  override readonly name = 'Refusal';
  readonly error: ErrorSpec;

  constructor(error: ErrorSpec) {
    super(error.message);
    this.error = error;
  }
}
