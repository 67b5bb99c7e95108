import type { TurnFault, UpgradeFault } from '../../../src/testing/simulator/faults.ts';

/** Error codes that a client can receive only because of the faults below. */
export const injectedCodes: ReadonlySet<string> = new Set([
  'invalid_value',
  'server_error',
  'server_is_overloaded',
  'rate_limit_exceeded',
]);

const badRequest = { status: 400, code: 'invalid_value', message: 'Invalid value.' };
const serverError = { status: 500, code: 'server_error', message: 'The server had an error.' };
const overloaded = { status: 503, code: 'server_is_overloaded', message: 'Our servers are currently overloaded.' };
const rateLimited = { status: 429, code: 'rate_limit_exceeded', message: 'Slow down.', retryAfter: 1 };

/** Faults that may affect a turn at the provider. */
export const turnFaults: readonly TurnFault[] = [
  { kind: 'close', at: 'before_created' },
  { kind: 'close', at: 'after_created' },
  { kind: 'close', at: { deltas: 1 } },
  { kind: 'close', at: 'before_terminal' },
  { kind: 'close', at: 'after_terminal', code: 1000 },
  { kind: 'reset', at: 'before_created' },
  { kind: 'reset', at: 'after_created' },
  { kind: 'reset', at: { deltas: 1 } },
  { kind: 'reset', at: 'after_item_done' },
  { kind: 'reset', at: 'after_terminal' },
  { kind: 'error', error: badRequest },
  { kind: 'error', error: serverError, at: 'after_created' },
  { kind: 'error', error: overloaded },
  { kind: 'error', error: rateLimited },
  { kind: 'failed', code: 'server_error' },
  { kind: 'incomplete' },
  { kind: 'refuse_anchor' },
  { kind: 'refuse_anchor', shape: 'terse' },
  { kind: 'refuse_anchor', as: 'failed' },
  { kind: 'malformed', at: 'after_created' },
  { kind: 'unknown_events' },
  { kind: 'duplicate_terminal' },
  { kind: 'duplicate_terminal', until: 'next_create' },
  { kind: 'late_frames', at: 'after_created' },
  { kind: 'late_frames', at: { deltas: 1 } },
  { kind: 'telemetry', count: 2 },
  { kind: 'silence', at: 'before_created' },
  { kind: 'silence', at: 'after_created' },
  { kind: 'silence', at: 'before_created', telemetry: 2 },
];

/** Error that the simulation makes a part of a worker throw. */
export class Planted extends Error {
  override readonly name = 'Planted';
}

/** Faults that may affect a handshake. */
export const upgradeFaults: readonly UpgradeFault[] = [
  { kind: 'refuse', status: 503 },
  { kind: 'refuse', status: 429 },
  { kind: 'refuse', status: 426 },
  { kind: 'reset' },
  { kind: 'hang' },
  { kind: 'accept_then_close' },
];
