import { type DestinationStream, pino } from 'pino';
import type { Log } from '../log.ts';

/** The methods of pino that are used. Any logger with their signature `(fields, message)` will do. */
export type Logger = Log<'debug' | 'info' | 'warn' | 'error'> & { fatal?: Log<'error'>['error'] | undefined };

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

/**
 * Wraps the logger of an application, which has its own rules for errors and for secrets: the ones of `createLogger` are
 * applied before it. A logger that throws is reported once as a warning of the process and never fails its caller.
 */
export function safeLogger(logger: Logger): Logger {
  let warned = false;
  const at = (level: 'debug' | 'info' | 'warn' | 'error') => (fields: object, message: string) => {
    try {
      const safe = Object.fromEntries(
        Object.entries(fields).map(([name, value]) => {
          if (name === 'err') return [name, plainError(value)];
          return secret.includes(name) ? [name, '[redacted]'] : [name, value];
        }),
      );
      logger[level](safe, message);
    } catch (error) {
      if (!warned) process.emitWarning(error instanceof Error ? error : new Error(String(error)));
      warned = true;
    }
  };
  return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}
