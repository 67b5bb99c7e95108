import type { RowFace, TurnStart } from '../port.ts';

/** PostgreSQL's `text` has no NUL, and UTF-8 no lone surrogate; what clients and providers send may have both. */
export function text(value: string): string {
  return value.toWellFormed().replaceAll('\u0000', '\uFFFD');
}

export function optionalText(value: string | null): string | null {
  return value === null ? null : text(value);
}

/** JSON text for a `json` or `jsonb` parameter. Throws TypeError for what JSON cannot say (cycles, bigint). */
export function json(value: unknown): string | null {
  return value === undefined || value === null ? null : JSON.stringify(value);
}

/** A turn's columns, in the order in which `create` and `start` take them. */
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

export function faceParameters(face: RowFace): unknown[] {
  return [face.state, json(face.snapshot), face.machineVersion];
}
