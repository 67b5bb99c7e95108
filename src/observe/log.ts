import { type DestinationStream, type Logger, pino } from 'pino';

export type { Logger };

/** Fields that are never logged, at any of these places: credentials, tokens, prompts and model output. */
const secret = [
  'authorization',
  'headers.authorization',
  '*.authorization',
  '*.headers.authorization',
  'token',
  '*.token',
  'body',
  '*.body',
  'input',
  '*.input',
  'output',
  '*.output',
  'instructions',
  '*.instructions',
];

/**
 * Reduces an error to type, message, code, stack and cause. Drivers attach connection objects to their errors, which
 * must not be logged.
 */
function plainError(error: unknown): object {
  if (!(error instanceof Error)) return { message: String(error) };
  const { name, message, stack, cause } = error;
  const { code } = error as { code?: unknown };
  return { type: name, message, code, stack, ...(cause === undefined ? {} : { cause: plainError(cause) }) };
}

/**
 * Creates the logger.
 *
 * @param destination defaults to standard output
 */
export function createLogger(level: string, destination?: DestinationStream): Logger {
  const options = {
    level,
    base: null,
    serializers: { err: plainError },
    redact: { paths: secret, censor: '[redacted]' },
  };
  return destination ? pino(options, destination) : pino(options);
}

/** Log line of one turn. Times are milliseconds since the request was read. */
export interface TurnLine {
  request: string;
  session: string | null;
  epoch: number | null;
  turn: string;
  outcome: string;
  /** Id of the row of the resolution table that decided last; null where the warm session was used without it. */
  decidedBy: string | null;
  shape: string;
  form: string | null;
  terminal: string;
  fault: string | null;
  /** Reason why the upstream was not reached, or not over WebSocket: a code and a host. */
  cause: string | null;
  upstreamStatus: number | null;
  /** The provider's id of the request, for its support. */
  upstreamRequest: string | null;
  heldMs: number | null;
  firstEventMs: number | null;
  totalMs: number;
  itemsFromClient: number;
  itemsSent: number | null;
  bytesFromClient: number;
  bytesSent: number;
  tokens: unknown;
  tokenIgnored: string | null;
}
