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
