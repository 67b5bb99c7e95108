import { type DestinationStream, destination, pino, symbols } from 'pino';
import type { Log } from '../log.ts';

/** The methods of pino that are used. Any logger with their signature `(fields, message)` will do. */
export type Logger = Log<'debug' | 'info' | 'warn' | 'error'> & { fatal?: Log<'error'>['error'] | undefined };

/** Names of fields that are never logged: credentials, tokens, prompts and model output. */
const secret: ReadonlySet<string> = new Set(['authorization', 'token', 'body', 'input', 'output', 'instructions']);
/** Levels of objects below the fields of a line in which secret fields are looked for. */
const LEVELS = 2;

/** Returns the fields without secret values: the same object if it has none. Errors are reduced by `plainError`. */
function hidden(fields: object, levels = LEVELS): object {
  let copy: Record<string, unknown> | null = null;
  for (const name in fields) {
    const value = (fields as Record<string, unknown>)[name];
    let shown = value;
    if (secret.has(name)) shown = '[redacted]';
    else if (levels > 0 && typeof value === 'object' && value !== null && !(value instanceof Error)) {
      shown = hidden(value, levels - 1);
    }
    if (shown === value) continue;
    copy ??= (Array.isArray(fields) ? [...fields] : { ...fields }) as unknown as Record<string, unknown>;
    copy[name] = shown;
  }
  return copy ?? fields;
}

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

/** Standard output, opened for the first line. Its writes do not wait for a slow reader. */
let output: ReturnType<typeof destination> | null = null;
/** Lines that are not written yet. */
let lines: string[] = [];
/** Longest time that a line waits for others, in milliseconds. A write costs a worker more than its lines. */
const TOGETHER_MS = 20;

function takeLines(): string {
  const text = lines.join('');
  lines = [];
  return text;
}

/** Level of a warning in pino's numbers. */
const WARNING = 40;

/** Standard output, with several lines in one write. A warning, or anything worse, is written at once. */
const together = {
  /** Asks pino to set `lastLevel` before each line. */
  [symbols.needsMetadataGsym]: true as const,
  lastLevel: 0,
  write(line: string) {
    if (output === null) {
      output = destination({ sync: false });
      process.on('exit', together.flushSync);
    }
    const count = lines.push(line);
    if (together.lastLevel >= WARNING) output.write(takeLines());
    else if (count === 1) setTimeout(() => lines.length > 0 && output!.write(takeLines()), TOGETHER_MS).unref();
  },
  /** Writes what is left before it returns. Called after a fatal line, and when the process ends. */
  flushSync() {
    if (lines.length === 0) return;
    output?.flushSync();
    destination({ sync: true }).write(takeLines());
  },
};

/**
 * Creates the logger.
 *
 * @param to defaults to standard output
 */
export function createLogger(level: string, to: DestinationStream = together): Logger {
  const formatters = { log: (fields: object) => hidden(fields) as Record<string, unknown> };
  return pino({ level, base: null, serializers: { err: plainError }, formatters }, to);
}

/**
 * Wraps the logger of an application, which has its own rules for errors and for secrets: the ones of `createLogger` are
 * applied before it. A logger that throws is reported once as a warning of the process and never fails its caller.
 */
export function safeLogger(logger: Logger): Logger {
  let warned = false;
  const at = (level: 'debug' | 'info' | 'warn' | 'error') => (fields: object, message: string) => {
    try {
      const safe = hidden(fields);
      logger[level]('err' in safe ? { ...safe, err: plainError(safe.err) } : safe, message);
    } catch (error) {
      if (!warned) process.emitWarning(error instanceof Error ? error : new Error(String(error)));
      warned = true;
    }
  };
  return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}
