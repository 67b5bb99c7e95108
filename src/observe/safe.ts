import type { SessionContext, SessionEvent } from '../../machines/session.ts';

/** Names of the fields that events of the session machine carry besides their type. */
type Field = SessionEvent extends infer E ? (E extends SessionEvent ? Exclude<keyof E, 'type'> : never) : never;
type Check = (value: unknown) => boolean;

const isNumber: Check = (value) => typeof value === 'number' && Number.isFinite(value);
const isBoolean: Check = (value) => typeof value === 'boolean';
const isId: Check = (value) => typeof value === 'string' && /^[0-9a-f-]{8,36}$/i.test(value);
const oneOf =
  (...values: string[]): Check =>
  (value) =>
    values.includes(value as string);

/** Event fields that may be shown. A new field stays hidden until it is added here; the compiler requires an entry. */
const eventFields: Record<Field, Check> = {
  generation: isNumber,
  resendable: isBoolean,
  keepSocket: isBoolean,
  socketOpen: isBoolean,
  leaseValid: isBoolean,
  rowExists: isBoolean,
  cause: oneOf('lease', 'socket'),
  reason: oneOf('superseded', 'drain', 'hold_expired'),
};

const contextFields: Record<keyof SessionContext | 'turnId', Check> = {
  generation: isNumber,
  creates: isNumber,
  turns: isNumber,
  takeovers: isNumber,
  turnId: isId,
};

/** Value without content, credentials or personal data. */
export type SafeValue = string | number | boolean;
export type SafeFields = Readonly<Record<string, SafeValue>>;

function pick(value: unknown, checks: Record<string, Check>): SafeFields {
  if (typeof value !== 'object' || value === null) return {};
  const picked: Record<string, SafeValue> = {};
  for (const [name, check] of Object.entries(checks)) {
    const field = (value as Record<string, unknown>)[name];
    if (field !== undefined && check(field)) picked[name] = field as SafeValue;
  }
  return picked;
}

/** Returns the type of an event and those of its fields that hold neither content nor credentials. */
export function safeEvent(event: { type: string }): { type: string; fields: SafeFields } {
  const type = /^[\w.:-]{1,80}$/.test(event.type) ? event.type : 'unnamed';
  return { type, fields: pick(event, eventFields) };
}

/** Returns the fields of a machine's context that hold neither content nor credentials. */
export const safeContext = (context: unknown): SafeFields => pick(context, contextFields);

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

const credential = /authorization|token|secret|password|cookie|credential|api.?key|pepper|nonce/i;

/**
 * Copies any value for a viewer who may see content. The copy is bounded in depth, width and length, has no functions,
 * and has no values whose name suggests a credential.
 *
 * @param depth maximum nesting depth
 */
export function boundedCopy(value: unknown, depth = 6): unknown {
  if (typeof value === 'string') return value.length > 2_000 ? `${value.slice(0, 2_000)}...` : value;
  if (typeof value === 'number' || typeof value === 'boolean' || value === null) return value;
  if (typeof value !== 'object') return undefined;
  if (depth === 0) return '...';
  if (Array.isArray(value)) return value.slice(0, 100).map((each) => boundedCopy(each, depth - 1) ?? null);
  return Object.fromEntries(
    Object.entries(value)
      .slice(0, 100)
      .map(([key, each]) => [key, credential.test(key) ? '[redacted]' : boundedCopy(each, depth - 1)]),
  );
}
