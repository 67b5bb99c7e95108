import type { SavedState, TurnStart } from '../port.ts';

/**
 * Replaces what PostgreSQL's `text` cannot store: NUL, and lone surrogates, which UTF-8 does not allow. Clients and
 * providers may send both.
 */
export function text(value: string): string {
  return value.toWellFormed().replaceAll('\u0000', '\uFFFD');
}

export function optionalText(value: string | null): string | null {
  return value === null ? null : text(value);
}

/**
 * Returns the JSON text for a `json` or `jsonb` parameter.
 *
 * @throws TypeError for values that JSON cannot represent (cycles, bigint)
 */
export function json(value: unknown): string | null {
  return value === undefined || value === null ? null : JSON.stringify(value);
}

/** Returns a turn's columns, in the order of the parameters of `create` and `start`. */
export function turnParameters(turn: TurnStart): unknown[] {
  return [
    turn.id,
    turn.parentTurnId,
    turn.shape,
    turn.requestFp,
    turn.contextFp,
    turn.storedUpstream,
    turn.credentialFp,
    optionalText(turn.clientTurnId),
  ];
}

export function savedParameters(saved: SavedState): unknown[] {
  return [saved.state, json(saved.snapshot), saved.machineVersion];
}
